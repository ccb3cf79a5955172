"""Writes events: one JSON object a line, one write a line, so that a killed process loses nothing it has recorded.

Times are nanoseconds of the monotonic clock since this rank's `case_start`. A thread brings the file to the disk every
half second; a segment is closed at 64 MiB and the next begun.
"""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

SEGMENT_BYTES = 64 * 2**20
SYNC_EVERY_S = 0.5


class Recorder:
    """The event stream of one rank of one attempt."""

    def __init__(self, folder: Path, *, rank: int, case: dict[str, Any], attempt: int, world_size: int) -> None:
        self.folder, self.attempt = folder, attempt
        self._prefix = "events" if rank == 0 else f"events-rank{rank:04}"
        self._segment = -1
        self._file = -1
        self._size = 0
        self._lock = threading.Lock()
        self._encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
        self._next_segment()
        self._last = 0
        wall, self.origin_ns = time.time_ns(), time.monotonic_ns()
        self.event(
            "case_start",
            0,
            case=case["id"],
            suite=case["suite"],
            attempt=attempt,
            rank=rank,
            world_size=world_size,
            wall_ns=wall,
            monotonic_ns=self.origin_ns,
        )
        self._stop = threading.Event()
        self._syncer = threading.Thread(target=self._sync_loop, daemon=True)
        self._syncer.start()

    def now(self) -> int:
        """Nanoseconds since case_start."""
        return time.monotonic_ns() - self.origin_ns

    def event(self, kind: str, t: int | None = None, /, **fields: Any) -> None:
        """Record one event at `t` (now by default); `t` never goes back."""
        line = (self._encode({"e": kind, "t": self.now() if t is None else t, **fields}) + "\n").encode()
        with self._lock:
            if self._size + len(line) > SEGMENT_BYTES:
                self._next_segment()
            written = os.write(self._file, line)
            if written != len(line):
                raise OSError(28, "no space left on device")
            self._size += written

    def close(self) -> None:
        """Bring everything to the disk and end."""
        self._stop.set()
        self._syncer.join()
        os.fsync(self._file)
        os.close(self._file)

    def _next_segment(self) -> None:
        if self._segment >= 0:
            os.fsync(self._file)
            os.close(self._file)
        self._segment += 1
        path = self.folder / f"{self._prefix}-{self._segment:05}.jsonl"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        self._size = 0

    def _sync_loop(self) -> None:
        while not self._stop.wait(SYNC_EVERY_S):
            with self._lock:
                handle = os.dup(self._file)
            try:
                os.fsync(handle)
                os.utime(handle)  # a sign of life, also while nothing is recorded: a stopped process gives none
            finally:
                os.close(handle)
