"""What earlier attempts of a supervised training recorded, against what the last one tells of them.

A further attempt tells the journal from its beginning, and the journal lies on the vendor's disk. What an attempt recorded of it was
bound by the run log's heartbeats at that time; so the two must be one story.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise, zip_longest
from typing import Any

import msgspec

from verify import events
from verify.events import CaseEnd, CaseStart, Event
from verify.files import Evidence, Source
from verify.findings import Finding, Refused, error, warning
from verify.lines import Lines
from verify.stability_events import EVENTS, Crash, Injected, Session

WALL_NS = 2 * 10**9  # between two looks at one clock; what a busy host takes for the session's begin is allowed besides
KEPT = (Crash, Injected, Session)  # never lost with a tail: brought to the disk before anything goes on


def recorded(evidence: Evidence, folder: str) -> list[Event]:
    """Events of an attempt that was cut off, the last line of which may be torn; none where it recorded none."""
    found: list[Event] = []
    lines = Lines(EVENTS)
    for path in events.segments(evidence, folder).get(0, []):
        with Source(evidence.top, path, evidence.stops.get(path, ())) as source:
            try:
                for block in source.blocks():
                    found += lines.events(block, path, len(found) + 1)
            except Refused as bad:
                if bad.finding.rule != "file.line":
                    raise
            evidence.note(path, source.end())
    return found


def retold(case: dict[str, Any], told: Sequence[Event], evidence: Evidence, folder: str, tail_ns: int) -> Iterator[Finding]:
    """`told` are the last attempt's events, in `folder`; at most `tail_ns` of an earlier one may stand in one of the two only."""
    journal = _journal(told)
    sessions = [(index, event) for index, event in enumerate(journal) if isinstance(event, Session)]
    for (_, session), (following, _) in pairwise(sessions):
        path = f"{folder.rpartition('-')[0]}-{session.attempt}"
        known = recorded(evidence, path)
        yield from _same(case, journal[: following - 1], _journal(known), path, tail_ns)
        yield from _wall(case, session, known)
    yield from _wall(case, sessions[-1][1], told)


def _journal(found: Sequence[Event]) -> list[Event]:
    return [event for event in found if not isinstance(event, CaseStart | CaseEnd)]


def _same(case: dict[str, Any], told: Sequence[Event], known: Sequence[Event], path: str, tail_ns: int) -> Iterator[Finding]:
    """One is the beginning of the other, and what is more is a tail."""
    pairs = zip_longest(told, known)
    at = next((number for number, (one, other) in enumerate(pairs) if _bare(one) != _bare(other)), None)
    if at is None:
        return
    more = told[at:] or known[at:]
    lost = [event for event in known[at:] if isinstance(event, KEPT)]
    if at < min(len(told), len(known)) or lost or _lasts_ns(more) > tail_ns:
        expected = f"what {path} recorded, to within its last {tail_ns} ns"
        found = f"event {at + 1}: {_shown(told[at:])} instead of {_shown(known[at:])}"
        yield error("stability.retold", case["id"], expected, found)


def _bare(event: Event | None) -> Event | None:
    return None if event is None else msgspec.structs.replace(event, t=0)


def _shown(rest: Sequence[Event]) -> str:
    return msgspec.json.encode(rest[0], enc_hook=str).decode()[:200] if rest else "nothing"


def _lasts_ns(rest: Sequence[Event]) -> int:
    times = [at for event in rest if (at := getattr(event, "end_ns", None) or getattr(event, "at_ns", None)) is not None]
    return max(times) - min(times) if times else 0


def _wall(case: dict[str, Any], session: Session, known: Sequence[Event]) -> Iterator[Finding]:
    """The session's wall clock is that of its attempt."""
    start = next((event for event in known if isinstance(event, CaseStart)), None)
    own = next((event for event in known if _bare(event) == _bare(session)), None)
    if start is None or own is None:
        return
    if not -WALL_NS <= session.wall_ns - start.wall_ns <= own.t + WALL_NS:
        expected = f"the wall clock of attempt {session.attempt} at its begin, {start.wall_ns} ns"
        yield warning("stability.clock", case["id"], expected, session.wall_ns)
