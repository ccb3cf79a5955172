"""One process of the client: told its server in the first line, it then gets ready or does a round of jobs; a JSON object a line.

It ends when the process that started it does.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from . import loop, reply
from .loop import Job, Line, Raw


class Shard:
    """The connections of this process; `warm` is a request that leaves the server as it was."""

    def __init__(self, host: str, port: int, lines: int, warm: str, stall_s: float) -> None:
        self.address, self.count, self.stall_s = (host, port), lines, stall_s
        self.warm = warm.encode("latin-1")
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

    def round(self, jobs: list[tuple[int, str, int]]) -> dict[str, Any]:
        """Send every job, then read what the answers say."""
        self._sort_out()
        made = [Job(request, message.encode("latin-1"), due_ns) for request, message, due_ns in jobs]
        with loop.quiet():
            before, begin_ns = loop.offset_ns(), time.process_time_ns()
            raws = loop.Exchange(self.lines, made, self.stall_s, watched=sys.stdin.fileno()).run()
            after, middle_ns = loop.offset_ns(), time.process_time_ns()
            offset = before if abs(after - before) < loop.STEP_NS else None
            timed = [(raw, loop.times(raw, offset)) for raw in raws]
            replies = [_read(raw, times).plain() for raw, times in timed]
            end_ns = time.process_time_ns()
        kernel = offset is not None and all(all(raw.stamps) for raw in raws)
        return {
            "replies": replies,
            "lag_ns": _lags(timed),
            "stamps": "kernel" if kernel else "read",
            "exchange_cpu_ns": middle_ns - begin_ns,
            "reading_cpu_ns": end_ns - middle_ns,
        }


def _read(raw: Raw, times: list[tuple[int, int]]) -> reply.Reply:
    made = reply.Reply(raw.request, raw.due_ns, raw.send_ns, raw.sent_ns, raw.end_ns)
    return reply.read(made, raw.message, raw.ends, lambda number: times[number][0], raw.broken)


def _lags(timed: list[tuple[Raw, list[tuple[int, int]]]]) -> list[int]:
    """How late each look was for what it found, in order, beyond the pause between looks."""
    worst: dict[int, int] = {}
    for raw, times in timed:
        for look, (_, late) in zip(raw.looks, times, strict=True):
            worst[look] = max(late - loop.GATHER_NS, worst.get(look, 0))
    return [worst[look] for look in sorted(worst)]


def main() -> None:
    """Open once, then answer until the input ends."""
    shard = Shard(**json.loads(sys.stdin.readline()))
    for line in iter(sys.stdin.readline, ""):
        asked = json.loads(line)
        answer = shard.round(asked["jobs"]) if "jobs" in asked else {"fault": shard.ready()}
        sys.stdout.write(json.dumps(answer, separators=(",", ":")) + "\n")
        sys.stdout.flush()
