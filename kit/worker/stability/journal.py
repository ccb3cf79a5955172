"""What a supervised training leaves on the disk beside its checkpoints, so that whoever starts again knows all that was before.

`journal.jsonl` has one JSON object a line, each one write at the end of the file, so that several processes may write. Times `at_ns` are
of CLOCK_BOOTTIME, which no clock setting moves and which counts sleep; a `session` line says of which boot. Each rank has a slot, a
small file made ahead: a sign of life after each step costs no system call, and a full disk does not hinder the last word.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

JOURNAL = "journal.jsonl"
STOP = "stop"
BEGIN = b'{"e":'  # of a line, and nowhere else in it: within a text its quotes are escaped
SLOT_BYTES, WORD_AT, WORD_BYTES, WORDS = 16384, 64, 1000, 16  # words of the last incarnations: a busy supervisor looks late
FIELDS = struct.Struct("<QQQQ")  # process id, incarnation, time of the last sign of life, steps of this incarnation
Line = dict[str, Any]


def now() -> int:
    """Nanoseconds of CLOCK_BOOTTIME."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Journal:
    """Lines in the order in which they were written; `read` goes on where it ended."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / JOURNAL
        self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._at = 0

    def write(self, kind: str, /, **fields: Any) -> None:
        """Append one line; OSError where it does not fit."""
        data = json.dumps({"e": kind, **fields}, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        if os.write(self._handle, data) != len(data):
            raise OSError(28, "no space left on device")

    def sync(self) -> None:
        os.fsync(self._handle)

    def mend(self) -> None:
        """Cut off a line that was torn."""
        data = self.path.read_bytes()
        os.truncate(self.path, data.rfind(b"\n") + 1)

    def read(self) -> Iterator[Line]:
        """Whole lines that were not read yet; the beginning of one that a full disk cut off may stand before another."""
        data = os.pread(self._handle, os.fstat(self._handle).st_size - self._at, self._at)
        end = data.rfind(b"\n") + 1
        self._at += end
        for line in data[:end].splitlines():
            yield json.loads(line[line.rfind(BEGIN) :])

    def close(self) -> None:
        os.close(self._handle)


@dataclass(frozen=True, slots=True)
class Sign:
    """What a slot says."""

    pid: int
    incarnation: int
    at_ns: int
    steps: int


class Slot:
    """A rank's slot: signs of life, and its last word."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.path = folder / f"rank-{rank:05}.slot"
        if not self.path.exists() or self.path.stat().st_size != SLOT_BYTES:
            self.path.write_bytes(bytes(SLOT_BYTES))
        with self.path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), SLOT_BYTES)

    def clear(self) -> None:
        """Forget what an earlier session left: after a reboot its times would lie in the future."""
        self._memory[:] = bytes(SLOT_BYTES)

    def begin(self, incarnation: int) -> None:
        """A new process of this rank; the word of the one before stays."""
        self._write(incarnation, b"")
        self.sign(incarnation, 0)

    def sign(self, incarnation: int, steps: int) -> None:
        self._memory[: FIELDS.size] = FIELDS.pack(os.getpid(), incarnation, now(), steps)

    def say(self, incarnation: int, fault: str, detail: str) -> None:
        """Why this process ends."""
        self._write(incarnation, json.dumps({"incarnation": incarnation, "at_ns": now(), "fault": fault, "detail": detail[:300]}).encode())

    def _write(self, incarnation: int, word: bytes) -> None:
        at = WORD_AT + incarnation % WORDS * WORD_BYTES
        self._memory[at : at + WORD_BYTES] = word[:WORD_BYTES].ljust(WORD_BYTES, b"\0")

    def read(self) -> Sign:
        """The last sign of life."""
        return Sign(*FIELDS.unpack(self._memory[: FIELDS.size]))

    def word(self, incarnation: int, since_ns: int = 0) -> Line | None:
        """What the process of that incarnation said as its last, unless that was before `since_ns`: in an earlier session."""
        at = WORD_AT + incarnation % WORDS * WORD_BYTES
        try:
            found: Line = json.loads(bytes(self._memory[at : at + WORD_BYTES]).rstrip(b"\0"))
        except ValueError:
            return None
        return found if found["incarnation"] == incarnation and found["at_ns"] >= since_ns else None
