"""One process of the client: told its server first, it then gets ready or does a round of jobs, message by message.

It ends when the process that started it does.
"""

from __future__ import annotations

import marshal
import struct
import sys
import time
from collections.abc import Iterable
from typing import IO, Any

from . import loop, reply, stream
from .loop import Job, Line, Raw

SIZE = struct.Struct("@Q")


class Shard:
    """The connections of this process; `warm` is a request that leaves the server as it was."""

    def __init__(self, asks: IO[bytes], host: str, port: int, lines: int, warm: bytes, stall_s: float) -> None:
        self.asks, self.address, self.count, self.stall_s, self.warm = asks, (host, port), lines, stall_s, warm
        self.lines: list[Line] = []

    def ready(self) -> str | None:
        """Open what is not open and let each new connection carry one request; a line that says why not."""
        for line in self.lines:
            if not loop.alive(line):
                line.socket.close()
        self._sort_out()
        try:
            fresh = [loop.connect(*self.address) for _ in range(self.count - len(self.lines))]
        except OSError as error:
            return f"cannot connect: {error.strerror or error}"
        answers = loop.Exchange(fresh, [Job(number, self.warm) for number in range(len(fresh))], self.stall_s).run()
        broken = [raw.broken for raw in answers if raw.broken]
        self.lines += [line for line in fresh if line.socket.fileno() >= 0]
        return broken[0] if broken else None

    def _sort_out(self) -> None:
        self.lines = [line for line in self.lines if line.socket.fileno() >= 0]

    def round(self, jobs: list[tuple[int, bytes, int]]) -> dict[str, Any]:
        """Send every job, then read what the answers say."""
        self._sort_out()
        made = [Job(*job) for job in jobs]
        with loop.quiet():
            before, begin_ns = loop.offset_ns(), time.process_time_ns()
            raws = loop.Exchange(self.lines, made, self.stall_s, watched=self.asks.fileno()).run()
            after, middle_ns = loop.offset_ns(), time.process_time_ns()
            offset = before if abs(after - before) < loop.STEP_NS else None
            timed = [(raw, *loop.times(raw, offset)) for raw in raws]
            replies = [_read(raw, times).plain() for raw, times, _, _ in timed]
            lags = _lags((raw.looks, late) for raw, _, late, _ in timed)
            end_ns = time.process_time_ns()
        return {
            "replies": replies,
            "lag_ns": lags,
            "stamps": "kernel" if all(kernel for _, _, _, kernel in timed) else "read",
            "exchange_cpu_ns": middle_ns - begin_ns,
            "reading_cpu_ns": end_ns - middle_ns,
        }


def _read(raw: Raw, times: list[int]) -> reply.Reply:
    made = reply.Reply(raw.request, raw.due_ns, raw.send_ns, raw.sent_ns, raw.end_ns)
    return stream.read(made, raw.message, raw.ends, times, raw.broken)


def _lags(timed: Iterable[tuple[list[int], list[int]]]) -> list[int]:
    """How late each look was for what it found, in order, beyond the pause between looks."""
    worst: dict[int, int] = {}
    for looks, lates in timed:
        for look, late in zip(looks, lates, strict=True):
            if late > worst.setdefault(look, loop.GATHER_NS):
                worst[look] = late
    return [worst[look] - loop.GATHER_NS for look in sorted(worst)]


def tell(pipe: IO[bytes], what: dict[str, Any]) -> None:
    """Write a message to another process of the client; both are the same interpreter."""
    made = marshal.dumps(what)
    pipe.write(SIZE.pack(len(made)) + made)
    pipe.flush()


def told(pipe: IO[bytes]) -> dict[str, Any] | None:
    """Read a message, None where the pipe ended."""
    size = pipe.read(SIZE.size)
    made = pipe.read(SIZE.unpack(size)[0]) if len(size) == SIZE.size else b""
    whole = made and len(made) == SIZE.unpack(size)[0]
    return dict(marshal.loads(made)) if whole else None  # noqa: S302 - of our own process, which holds nobody else's objects


def main() -> None:
    """Open once, then answer until the input ends."""
    asks, answers = sys.stdin.buffer, sys.stdout.buffer
    first = told(asks)
    if first is None:
        return
    shard = Shard(asks, **first)
    while (asked := told(asks)) is not None:
        tell(answers, shard.round(asked["jobs"]) if "jobs" in asked else {"fault": shard.ready()})
