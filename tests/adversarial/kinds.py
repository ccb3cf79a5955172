"""What a kind of vector other than a run is: how it is asked, and one bad scene of it (make_kinds.py makes them)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.adversarial.make_vectors import NAME, named

KINDS = ("policy", "witness", "audit", "publication", "archive", "plausible")
WITH_RUN = ("policy", "witness")  # a copy of the good run stands in these scenes
AT = ("--at", "2026-06-01T00:00:00Z")
LATER = ("--at", "2026-10-01T00:00:00Z")
FIRST, SECOND = "trust/1.dsse.json", "trust/2.dsse.json"
VENDOR = "vendor"
PACKED = "files.tar.zst"  # instead of files/, where they are many
LARGE_BYTES = 160_000
UNREAD = "read by verify alone: the others take a run's folder, and a key"
ARGV = {
    "policy": (NAME, "--policy", SECOND, *AT),
    "witness": (NAME, "--policy", FIRST, "--witness", "seen.txt", *AT),
    "audit": ("audit", VENDOR, "audit", "--policy", FIRST, *LATER),
    "publication": ("publication", "result", "--policy", FIRST, "--status", "status.dsse.json", *LATER),
    "archive": (f"{NAME}.tar.zst", "--policy", "self"),
    "plausible": (NAME, "--policy", "self"),
}


@dataclass(frozen=True)
class Case:
    """A bad scene: its row, the rule that refuses it, what is done; `before` are commands whose answer is 0 and that come first.

    `accepted` says why it is not refused: the rule is a warning then, or empty where the unwitnessed window is what tells.
    """

    kind: str
    row: int
    rule: str
    name: str
    act: Callable[[Path], Any]
    argv: tuple[str, ...] = ()
    before: tuple[tuple[str, ...], ...] = ()
    exit_code: int = 1
    accepted: str = ""

    @property
    def folder(self) -> str:
        return f"{self.kind}/bad/{named(self.row, self.name)}"
