"""Beats while a case goes on: a heartbeat with the digest so far of each open event segment, then a signed checkpoint.

Of each segment only new bytes are read; its running hash is all that is kept. A segment is closed once its rank has
begun the next, and is then logged as a file.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kit.record import RunLog
from verify import heartbeat
from verify.events import SEGMENT

CHUNK_BYTES = 2**20
Counters = Callable[[], Mapping[str, int]]


def host_counters() -> dict[str, int]:
    """What the host counts by itself: time since boot with sleep included, nanoseconds."""
    return {"boottime_ns": time.clock_gettime_ns(time.CLOCK_BOOTTIME)}


@dataclass(slots=True)
class _Open:
    """An open segment: how far it was hashed."""

    path: Path
    size_bytes: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    def catch_up(self) -> None:
        """Hash what was written since, and bring it to the disk: a heartbeat must not speak of bytes that a power loss takes."""
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.size_bytes)
            while chunk := file.read(CHUNK_BYTES):
                self.digest.update(chunk)
                self.size_bytes += len(chunk)
            os.fsync(file.fileno())


class Heart:
    """The beat of one attempt; `tick` may be called as often as one likes."""

    def __init__(self, log: RunLog, folder: Path, counters: Counters = host_counters, every_s: float | None = None) -> None:
        self.log, self.folder, self.counters = log, folder, counters
        self.every_s = heartbeat.settings().heartbeat_s if every_s is None else every_s
        self._next = time.monotonic() + self.every_s
        self._open: dict[str, _Open] = {}

    def tick(self) -> None:
        """Beat when it is time."""
        if time.monotonic() >= self._next:
            self.beat()
            self._next = time.monotonic() + self.every_s

    def beat(self) -> None:
        """Log segments that were closed, then the heartbeat, then sign."""
        opened, closed = _segments(self.folder)
        for path in closed:
            self._log_closed(path)
        states = [self._caught_up(path) for path in opened]
        top = self.log.run / "evidence"
        self.log.append(
            "heartbeat",
            open=[
                {"path": state.path.relative_to(top).as_posix(), "size_bytes": state.size_bytes, "sha256": state.digest.hexdigest()}
                for state in states
            ],
            counters=dict(self.counters()),
        )
        self.log.checkpoint()

    def _caught_up(self, path: Path) -> _Open:
        state = self._open.setdefault(path.name, _Open(path))
        state.catch_up()
        return state

    def _log_closed(self, path: Path) -> None:
        if path.relative_to(self.log.run / "evidence").as_posix() in self.log.logged:
            return
        state = self._caught_up(path)
        del self._open[path.name]
        secure(path)
        self.log.append_file(path, state.digest.hexdigest())


def secure(path: Path) -> None:
    """A finished file: readable by all, and on the disk."""
    path.chmod(0o644)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _segments(folder: Path) -> tuple[list[Path], list[Path]]:
    """Open segments (the last of each rank) and closed ones, sorted by name."""
    numbered: dict[str, list[tuple[int, Path]]] = {}
    for path in folder.glob("events-*.jsonl"):
        if match := SEGMENT.fullmatch(path.name):
            numbered.setdefault(match[1] or "", []).append((int(match[2]), path))
    last = {max(found)[1] for found in numbered.values()}
    every = sorted(path for found in numbered.values() for _, path in found)
    return [path for path in every if path in last], [path for path in every if path not in last]
