"""All processes of the client: each has its share of the connections, all have one clock (CLOCK_MONOTONIC is the host's)."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .loop import Job
from .reply import Reply, of_plain
from .shard import tell, told

TOGETHER_NS = 20_000_000  # from handing out the jobs to several processes to the first send
START = "import sys; sys.path[:0] = {path!r}; from {package}.shard import main; main()"


class Broken(Exception):
    """The client or its connections cannot go on; one line says why."""


@dataclass(frozen=True, slots=True)
class Round:
    """Every answer of a round; how late the client's looks were in ns; whose stamps they are (`kernel` or `read`); CPU time in ns."""

    replies: list[Reply]
    lag_ns: list[int]
    stamps: str
    exchange_cpu_ns: int
    reading_cpu_ns: int


class Clients:
    """`processes` processes with `lines` connections in all to one server; `warm` is sent once over each."""

    def __init__(self, host: str, port: int, lines: int, *, warm: bytes, stall_s: float, processes: int = 1) -> None:
        self.processes = min(processes, lines)
        self._children = [_start() for _ in range(self.processes)]
        shares = [len(range(number, lines, self.processes)) for number in range(self.processes)]
        common = {"host": host, "port": port, "warm": warm, "stall_s": stall_s}
        for child, share in zip(self._children, shares, strict=True):
            _tell(child, common | {"lines": share})

    def ready(self) -> None:
        """Open and warm every connection that is not; raises Broken."""
        for answer in self._all([{}] * self.processes):
            if answer["fault"]:
                raise Broken(answer["fault"])

    def round(self, jobs: Sequence[Job]) -> Round:
        """Send all jobs, those without a due time at once, and wait for every answer; raises Broken."""
        now = time.monotonic_ns() + TOGETHER_NS if self.processes > 1 else 0
        plain = [(job.request, job.message, job.due_ns or now) for job in jobs]
        answers = self._all([{"jobs": plain[number :: self.processes]} for number in range(self.processes)])
        return Round(
            [of_plain(found) for answer in answers for found in answer["replies"]],
            [lag for answer in answers for lag in answer["lag_ns"]],
            "kernel" if all(answer["stamps"] == "kernel" for answer in answers) else "read",
            sum(answer["exchange_cpu_ns"] for answer in answers),
            sum(answer["reading_cpu_ns"] for answer in answers),
        )

    def close(self) -> None:
        """End the processes."""
        for child in self._children:
            assert child.stdin is not None
            assert child.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                child.stdin.close()
            child.stdout.close()
            child.wait()

    def _all(self, asks: list[dict[str, Any]]) -> list[dict[str, Any]]:
        try:
            for child, ask in zip(self._children, asks, strict=True):
                _tell(child, ask)
            return [_answer(child) for child in self._children]
        except BrokenPipeError:
            raise Broken("a process of the client has ended; its error stands in the log of the case") from None


def _tell(child: subprocess.Popen[bytes], what: dict[str, Any]) -> None:
    assert child.stdin is not None
    tell(child.stdin, what)


def _answer(child: subprocess.Popen[bytes]) -> dict[str, Any]:
    assert child.stdout is not None
    found = told(child.stdout)
    if found is None:
        raise Broken("a process of the client has ended; its error stands in the log of the case")
    return found


def _start() -> subprocess.Popen[bytes]:
    """A fresh interpreter that finds this package where this process found it; no thread or heap of this one is in it."""
    code = START.format(path=sys.path, package=__package__)
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
