"""Rules on time: events within their attempt, attempts without unexplained time, heartbeats that know no future.

Whoever claims to be faster leaves idle time somewhere: durations, events, attempts and the run log must fill each other.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from verify import runlog
from verify.files import Evidence, open_beneath
from verify.findings import Finding, Refused, notice, warning
from verify.plausibility import Limits, Traits
from verify.strict import loads

NS_PER_S = 10**9
EDGE_BYTES = 2**16
MOST_STOPS = 500


@dataclass(slots=True)
class Span:
    """An attempt as the run log saw it: both clocks at its start and end; whole if one process saw both."""

    case: str
    attempt: int
    begin: tuple[int, int]
    end: tuple[int, int] | None = None
    restarted: bool = False
    stepped: bool = False


@dataclass(frozen=True, slots=True)
class Ends:
    """A rank's first event and the time of its last: what the clocks said at t=0, and how long it recorded."""

    wall_ns: int
    monotonic_ns: int
    last_ns: int


@dataclass(slots=True)
class Timeline:
    """All attempts of a log, and the time between those of one process."""

    spans: dict[tuple[str, int], Span] = field(default_factory=dict)
    between: list[tuple[str, int]] = field(default_factory=list)


def timeline(entries: Iterable[Any]) -> Timeline:
    """Attempts by (case, number)."""
    found, now, ended = Timeline(), None, None
    for entry in entries:
        clocks = (entry.wall_ns, entry.monotonic_ns)
        if isinstance(entry, runlog.CaseStart):
            if ended is not None:
                found.between.append((entry.case, entry.monotonic_ns - ended))
            now = found.spans[entry.case, entry.attempt] = Span(entry.case, entry.attempt, clocks)
        elif isinstance(entry, runlog.Resume | runlog.Recovered):
            ended = None
            if now:
                now.restarted = True
        elif isinstance(entry, runlog.ClockStep) and now:
            now.stepped = True
        elif isinstance(entry, runlog.CaseEnd) and now:
            now.end, now, ended = clocks, None, entry.monotonic_ns
    return found


def between(found: Timeline, limits: Limits) -> Iterator[Finding]:
    """Time between attempts of one process."""
    for case, passed_ns in found.between:
        if passed_ns > limits["interval"]["between_s"] * NS_PER_S:
            expected = f"at most {limits['interval']['between_s']} s after the attempt before"
            yield notice("plausible.between", f"run log: start of {case}", expected, f"{passed_ns / NS_PER_S:.1f} s")


def inside(span: Span, ranks: Mapping[int, Ends], limits: Limits) -> Iterator[Finding]:
    """Events begin and end within their attempt."""
    if span.end is None or span.restarted:
        return
    slack = int(limits["clock"]["outside_s"] * NS_PER_S)
    lasted = span.end[1] - span.begin[1]
    for rank, ends in sorted(ranks.items()):
        where = f"{span.case}: rank {rank}"
        if ends.last_ns > lasted + slack:
            expected = f"events of at most {lasted / NS_PER_S:.3f} s, as the attempt lasted"
            yield warning("plausible.clock", where, expected, f"{ends.last_ns / NS_PER_S:.3f} s")
        elif not span.stepped and not span.begin[0] - slack <= ends.wall_ns <= span.end[0] + slack - ends.last_ns:
            expected = f"wall_ns from {span.begin[0]} to {span.end[0] - ends.last_ns}"
            yield warning("plausible.clock", where, expected, ends.wall_ns)


def accounted(span: Span, ranks: Mapping[int, Ends], traits: Traits, limits: Limits) -> Iterator[Finding]:
    """Events fill the attempt but for its start and end, steps fill the events between the first and the last."""
    rule = limits["interval"]
    if span.end is not None and not span.restarted and ranks:
        lasted = span.end[1] - span.begin[1]
        missing = lasted - max(ends.last_ns for ends in ranks.values())
        if missing > rule["allowance_s"] * NS_PER_S + rule["share"] * lasted:
            expected = f"at most {rule['allowance_s']} s and {rule['share']:.0%} without events"
            yield warning("plausible.unaccounted", span.case, expected, f"{missing / NS_PER_S:.1f} s of {lasted / NS_PER_S:.1f} s")
    if traits.span_ns > 0 and (share := 1 - traits.busy_ns / traits.span_ns) > rule["idle_share"]:
        yield warning("plausible.idle", span.case, f"at most {rule['idle_share']:.0%} between steps", f"{share:.1%}")


def ends(evidence: Evidence, paths: list[str]) -> Ends | None:
    """First and last event of one rank; None where they cannot be read, which is said elsewhere."""
    try:
        first = loads(_first_line(evidence, paths[0]))
        last = loads(_last_line_before(evidence, paths[-1], None))
        return Ends(int(first["wall_ns"]), int(first["monotonic_ns"]), int(last["t"]))
    except (Refused, KeyError, TypeError, ValueError):
        return None


def _first_line(evidence: Evidence, path: str) -> bytes:
    with os.fdopen(open_beneath(evidence.top, path), "rb", buffering=0) as file:
        return (file.read(EDGE_BYTES) or b"").split(b"\n", 1)[0]


def _last_line_before(evidence: Evidence, path: str, stop: int | None) -> bytes:
    """The last whole line that ends at or before byte `stop` (default: the end)."""
    with os.fdopen(open_beneath(evidence.top, path), "rb", buffering=0) as file:
        stop = file.seek(0, os.SEEK_END) if stop is None else stop
        begin = max(0, stop - EDGE_BYTES)
        file.seek(begin)
        data = file.read(stop - begin) or b""
    return data[: data.rfind(b"\n") + 1].rstrip(b"\n").rsplit(b"\n", 1)[-1]


def future(evidence: Evidence, span: Span, rank: Ends, stops: list[tuple[str, int, int]], limits: Limits) -> Iterator[Finding]:
    """No heartbeat holds an event that is later than itself; `stops` are (path, size in bytes, monotonic_ns) of one rank."""
    if span.end is None or not span.begin[1] <= rank.monotonic_ns <= span.end[1]:
        return  # another host's clock, or a restart in between
    slack = int(limits["future"]["slack_s"] * NS_PER_S)
    for path, size, monotonic_ns in stops[:: max(1, len(stops) // MOST_STOPS)]:
        try:
            event = loads(_last_line_before(evidence, path, size))
            later = rank.monotonic_ns + int(event["t"]) - monotonic_ns
        except (Refused, KeyError, TypeError, ValueError):
            continue
        if later > slack:
            expected = "events up to the heartbeat that holds them"
            yield warning("plausible.future", f"{path}: byte {size}", expected, f"one {later / NS_PER_S:.3f} s later")
            return
