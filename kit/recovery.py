"""Looks at a run log that an earlier process left, before anything is changed: what is whole, what is torn, what is lost.

Behind the last checkpoint a torn tail may be cut off; anything missing below a checkpoint is refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kit.errors import FAILED, KitError
from verify import notes
from verify.findings import Refused
from verify.merkle import Frontier
from verify.strict import loads

Entry = dict[str, Any]
ENTRIES = "entries.jsonl"
CHECKPOINTS = "checkpoints.txt"
CHECKPOINTED = frozenset({"heartbeat", "case-end", "close"})
RESTART = frozenset({"resume", "recovered"})


@dataclass(frozen=True, slots=True)
class Torn:
    """A tail to be cut off: of which file, where it begins."""

    name: str
    keep_bytes: int
    data: bytes


@dataclass(slots=True)
class Found:
    """A log as it was left; `entries` are all but heartbeats, so that memory does not grow with time."""

    entries: list[Entry] = field(default_factory=list)
    size: int = 0
    frontier: Frontier = field(default_factory=Frontier)
    torn: list[Torn] = field(default_factory=list)
    unnamed: list[str] = field(default_factory=list)
    _due: set[int] = field(default_factory=set)
    _last_due: int = 0

    def take(self, entry: Entry, line: bytes) -> None:
        """Add one whole entry."""
        if entry["type"] not in RESTART and self._last_due:
            self._due.add(self._last_due)
        self.size += 1
        self.frontier.add(line)
        self._last_due = self.size if entry["type"] in CHECKPOINTED else 0
        if entry["type"] != "heartbeat":
            self.entries.append(entry)


def inspect(folder: Path, origin: str) -> Found:
    """What runlog/ holds, or a KitError where history is missing; changes nothing."""
    found = Found()
    signed = _notes(folder, origin, found)
    at = {note.size: note.root for note in signed}
    kept = 0
    for line, entry in _whole(folder / ENTRIES):
        found.take(entry, line)
        kept += len(line) + 1
        if at.get(found.size, root := found.frontier.root() if found.size in at else b"") != root:
            raise _lost(folder, f"another history than checkpoint {found.size} signed")
    if signed and signed[-1].size > found.size:
        raise _lost(folder, f"{found.size} whole entries, {signed[-1].size} were signed")
    if found.size == 0:
        raise KitError("run log has no whole entry", where=str(folder), why="nothing was recorded", next_step="start a new run")
    if missing := sorted(found._due - at.keys()):
        raise _lost(folder, f"checkpoint of size {missing[0]} is missing")
    _tail(folder / ENTRIES, kept, found)
    named = {entry["torn"] for entry in found.entries if entry["type"] == "recovered"}
    found.unnamed = sorted(path.name for path in folder.glob("torn-*") if path.name not in named)
    return found


def _lost(folder: Path, why: str) -> KitError:
    return KitError(
        "run log lost signed history",
        where=str(folder),
        why=why,
        next_step="restore runlog/ from a copy; a run whose signed history is gone cannot go on",
        exit_code=FAILED,
    )


def _whole(path: Path) -> Iterator[tuple[bytes, Entry]]:
    """Whole lines in sequence, up to the first that is none."""
    with path.open("rb") as file:
        for number, line in enumerate(file):
            with contextlib.suppress(Refused):
                entry = loads(line[:-1]) if line.endswith(b"\n") else None
                if isinstance(entry, dict) and entry.get("n") == number and "type" in entry:
                    yield line[:-1], entry
                    continue
            return


def _tail(path: Path, kept: int, found: Found) -> None:
    with path.open("rb") as file:
        file.seek(kept)
        if data := file.read():
            found.torn.insert(0, Torn(ENTRIES, kept, data))


def _notes(folder: Path, origin: str, found: Found) -> list[notes.Note]:
    """Every whole note; a torn last one goes to `found.torn`. Run keys change with each process: verify knows which signed."""
    path = folder / CHECKPOINTS
    data = path.read_bytes() if path.exists() else b""
    keep = end_of_last_note(data)
    if keep < len(data):
        found.torn.append(Torn(CHECKPOINTS, keep, data[keep:]))
    try:
        signed = list(notes.split(data[:keep]))
    except Refused as bad:
        raise _lost(folder, str(bad)) from None
    if other := next((note.origin for note in signed if note.origin != origin), None):
        raise KitError(
            "checkpoints are another run's", where=str(path), why=f"{other}, not {origin}", next_step="give the folder its name back"
        )
    return signed


def end_of_last_note(data: bytes) -> int:
    """Offset behind the last whole note: a note is body, empty line, signature line, empty line."""
    signature = data.rfind("\n\n— ".encode())
    while signature >= 0:
        end = data.find(b"\n\n", signature + 2)
        if end >= 0:
            return end + 2
        signature = data.rfind("\n\n— ".encode(), 0, signature)
    return 0
