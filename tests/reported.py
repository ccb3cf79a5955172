"""A synthetic source of reports, and the tables of a page as cells."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from kit.report.source import Source
from tests import synthetic

NEEDS_FONT = pytest.mark.skipif(not list(Path("/usr/share/fonts").rglob("NotoSansCJK*")), reason="no font for Chinese (fonts-noto-cjk)")
INTRODUCTION = "# Chip\n\nA **fast** chip with `64` cores.\n\n- one\n- two\n\n<b>bold</b>"
ENVIRONMENT: dict[str, Any] = {
    "host": {
        "os": "Linux 1",
        "kernel": "6.1",
        "machine": "x86_64",
        "cpu_model": "CPU Z",
        "cpu_count": 64,
        "memory_bytes": 2**39,
        "python": "3.11.7",
    },
    "packages": {
        "lock": "requirements.lock",
        "found": {"torch": {"version": "2.11.0", "sha256": "1" * 64}, "internlm": {"version": "0.2.0", "sha256": "2" * 64}},
        "differs": [{"name": "torch", "locked": "2.13.0", "found": "2.11.0"}, {"name": "peft", "locked": "0.21.2", "found": None}],
    },
    "inventory": {
        "accelerators": {"cards": [{"name": "Z100", "driver": "5.1"}, {"name": "Z100", "driver": "5.1"}], "topology": None},
        "network": {"fabric": {}},
        "compiler": "gcc 12.2.0",
    },
    "lock": {"file": "images/x/requirements.lock", "sha256": "3" * 64},
    "grants": {"network": "none"},
}


def source() -> Source:
    """A result with every row and a full baseline."""
    return Source(json.loads(json.dumps(synthetic.result(full_baseline=True).document())), ENVIRONMENT, INTRODUCTION)


class Cells(HTMLParser):
    """Tables of a page: id -> rows of cell texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.tags: list[str] = []
        self.inside = False
        self.name = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "table":
            self.name = dict(attributes)["id"] or ""
            self.tables[self.name] = []
        elif tag == "tr":
            self.tables[self.name].append([])
        elif tag in {"td", "th"}:
            self.inside = True
            self.tables[self.name][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag not in {"td", "th"}

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.tables[self.name][-1][-1] += data
