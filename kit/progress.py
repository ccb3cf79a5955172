"""Progress for people: a live line by rich on a terminal, one plain line per happening otherwise; always on stderr."""

from __future__ import annotations

import sys
import time
from typing import Protocol, TextIO

PLAIN_EVERY_S = 30.0


def duration(seconds: float) -> str:
    """Seconds as `1:02:03` or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Progress(Protocol):
    """What a run tells while it goes on."""

    def say(self, text: str) -> None: ...
    def case_start(self, case: str, index: int, total: int, estimate_s: float | None) -> None: ...
    def tick(self, recorded_bytes: int) -> None: ...
    def case_end(self, state: str, reason: str | None) -> None: ...


class Plain:
    """One line per happening, and a sign of life every 30 s."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self._case = ""
        self._begin = self._said = time.monotonic()
        self._estimate: float | None = None

    def say(self, text: str) -> None:
        print(text, file=self.stream, flush=True)

    def case_start(self, case: str, index: int, total: int, estimate_s: float | None) -> None:
        self._case, self._estimate = f"[{index}/{total}] {case}", estimate_s
        self._begin = self._said = time.monotonic()
        about = f", about {duration(estimate_s)}" if estimate_s is not None else ""
        self.say(f"{self._case}: start{about}")

    def elapsed_s(self) -> float:
        return time.monotonic() - self._begin

    def tick(self, recorded_bytes: int) -> None:
        if time.monotonic() - self._said >= PLAIN_EVERY_S:
            self._said = time.monotonic()
            self.say(f"{self._case}: {duration(self.elapsed_s())}, {recorded_bytes / 1000:.0f} kB recorded")

    def case_end(self, state: str, reason: str | None) -> None:
        why = f" ({reason})" if reason else ""
        self.say(f"{self._case}: {state}{why} after {duration(self.elapsed_s())}")


class Live(Plain):
    """The same lines, and between them a live status of the current case."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False)
        self._status = self._console.status("")

    def say(self, text: str) -> None:
        self._console.print(text, markup=False)

    def case_start(self, case: str, index: int, total: int, estimate_s: float | None) -> None:
        super().case_start(case, index, total, estimate_s)
        self._status.start()
        self.tick(0)

    def tick(self, recorded_bytes: int) -> None:
        of = f" of about {duration(self._estimate)}" if self._estimate is not None else ""
        self._status.update(f"{self._case}  {duration(self.elapsed_s())}{of}  {recorded_bytes / 1000:.0f} kB recorded")

    def case_end(self, state: str, reason: str | None) -> None:
        self._status.stop()
        super().case_end(state, reason)


def make() -> Progress:
    """Live on a terminal, plain otherwise."""
    return Live() if sys.stderr.isatty() else Plain()
