"""The vendor's introduction: headings, paragraphs and lists of Markdown; everything else is plain text, never markup."""

from __future__ import annotations

import re
from collections.abc import Iterator

from kit.report.blocks import Block, Items, Text

BULLET = re.compile(r"[-*+] +|\d+[.)] +")


def blocks(text: str) -> Iterator[Block]:
    """Paragraphs and lists; a heading becomes a paragraph of its own, since the report's headings are fixed."""
    for part in re.split(r"\n\s*\n", text.replace("\r\n", "\n").strip()):
        lines = [line.strip() for line in part.splitlines() if line.strip()]
        if lines and all(BULLET.match(line) for line in lines):
            yield Items(tuple(_plain(BULLET.sub("", line, count=1)) for line in lines))
        elif lines and lines[0].startswith("#"):
            yield Text(_plain(lines[0].lstrip("# ")), "strong")
            if rest := " ".join(lines[1:]):
                yield Text(_plain(rest))
        elif lines:
            yield Text(_plain(" ".join(lines)))


def _plain(text: str) -> str:
    return re.sub(r"\*\*(.+?)\*\*|__(.+?)__|`(.+?)`", lambda found: next(group for group in found.groups() if group), text)
