"""Events as the worker wrote them: common kinds, one line to one event, and the order that events of a rank keep.

A line holds what the strict JSON reader and msgspec both take: no key twice, no unknown kind or field, no wrong type.
A measured number is the double nearest to its text; `exact` is the rational that `repr` writes of it.
"""

from __future__ import annotations

import functools
import operator
import re
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Annotated, Any, Literal

import msgspec

from verify.files import Evidence
from verify.findings import Refused
from verify.strict import LARGE_INTEGER, Bad, double, loads
from verify.strict import exact as rational

Natural = Annotated[int, msgspec.Meta(ge=0, le=LARGE_INTEGER)]
Positive = Annotated[int, msgspec.Meta(ge=1, le=LARGE_INTEGER)]
Scale = Annotated[float, msgspec.Meta(gt=0)]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
LIMIT = 10**400  # what strict.exact takes, too
SEGMENT = re.compile(r"events-(?:rank([0-9]{4,})-)?([0-9]{5})\.jsonl")


class Event(msgspec.Struct, frozen=True, gc=False, tag_field="e", forbid_unknown_fields=True):
    """One recorded fact; `t` is in nanoseconds since this rank's case_start."""

    t: Natural


class CaseStart(Event, frozen=True, tag="case_start"):
    """First event of a rank: which case this is, and what the clocks said at t=0."""

    case: str
    suite: str
    attempt: Positive
    rank: Natural
    world_size: Positive
    wall_ns: Natural
    monotonic_ns: Natural


class Environment(Event, frozen=True, tag="environment"):
    """What the worker ran on and with."""

    python: str
    torch: str
    device: str
    device_name: str
    packages: dict[str, str]


class Model(Event, frozen=True, tag="model"):
    """The model as it was built; `weights_sha256` is null for random weights."""

    parameters: Positive
    weights: Literal["random", "file"]
    weights_sha256: Sha256 | None
    seed: Natural
    dtype: str


class CaseEnd(Event, frozen=True, tag="case_end"):
    """Last event of a rank that came to an end."""

    state: Literal["done", "failed"]
    reason: str | None


class Compiled(Event, frozen=True, tag="compiled"):
    """Compiling and a first call, from `begin_ns` to `t`; for suites that list it in EVENTS."""

    begin_ns: Natural
    mode: str


class Memory(Event, frozen=True, tag="memory"):
    """Largest allocation of this rank's device in bytes, on a CPU of the process; for suites that list it in EVENTS."""

    peak_bytes: Natural


COMMON: tuple[type[Event], ...] = (CaseStart, Environment, Model, CaseEnd)


def union(kinds: tuple[type[Event], ...]) -> Any:
    """The type of any common event or one of `kinds`."""
    return functools.reduce(operator.or_, (*COMMON, *kinds))


def exact(value: float) -> Fraction:
    """The rational that the shortest decimal text of a double names: what its writer's `repr` said."""
    return Fraction(repr(value))


def _hook(kind: Any, value: Any) -> Any:
    """Msgspec asks for types that it does not know: Fraction, from an integer or an exact number."""
    if kind is Fraction and isinstance(value, int | Fraction) and not isinstance(value, bool) and -LIMIT <= value <= LIMIT:
        return Fraction(value)
    raise TypeError(f"expected a number, got {type(value).__name__}")


@functools.cache
def decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    """Msgspec's decoder of one line; takes the last of keys that stand twice."""
    return msgspec.json.Decoder(kind, dec_hook=_hook, float_hook=rational)


def parse(line: bytes, kind: Any, where: str) -> Event:
    """One event of type `kind` (from `union`) by the strict reader, or Refused."""
    loads(line, where, real=double, beyond=double)
    try:
        event: Event = decoder(kind).decode(line)
    except (msgspec.DecodeError, Bad) as bad:
        raise Refused("events.schema", where, "an event of the suite with exactly its fields", str(bad)) from None
    return event


@dataclass(frozen=True, slots=True)
class Attempt:
    """Which attempt is read: its folder below evidence/, and what each rank's first event must say."""

    folder: str
    case: str
    suite: str
    number: int
    world_size: int


def segments(evidence: Evidence, folder: str) -> dict[int, list[str]]:
    """Rank -> its segment paths in order; Refused where a number is missing."""
    found: dict[int, dict[int, str]] = {}
    for name in evidence.names(folder):
        if match := SEGMENT.fullmatch(name):
            found.setdefault(int(match[1] or 0), {})[int(match[2])] = f"{folder}/{name}"
    for rank, numbered in found.items():
        if sorted(numbered) != list(range(len(numbered))):
            raise Refused("events.segments", folder, f"segments of rank {rank} numbered from 0 without a gap", sorted(numbered))
    return {rank: [numbered[index] for index in sorted(numbered)] for rank, numbered in sorted(found.items())}


def check_start(event: Event, attempt: Attempt, rank: int, where: str) -> None:
    """Refused unless a rank's first event says which case, attempt and rank this is."""
    if not isinstance(event, CaseStart) or event.t:
        raise Refused("events.start", where, "case_start at t=0 as the first event", type(event).__name__)
    expected = (attempt.case, attempt.suite, attempt.number, rank, attempt.world_size)
    found = (event.case, event.suite, event.attempt, event.rank, event.world_size)
    if found != expected:
        raise Refused("events.start", where, f"case, suite, attempt, rank, world_size = {expected}", found)


def check_order(events: list[Event], path: str, first: int) -> None:
    """Refused where time goes back, a case starts again, or anything follows its end; `first` is the line of the first event."""
    times = [event.t for event in events]
    if times == sorted(times) and not {CaseStart, CaseEnd} & set(map(type, events)):
        return
    for number, (last, event) in enumerate(pairwise(events), start=first + 1):
        check_follows(last, event, f"{path}:{number}")


def check_follows(last: Event, event: Event, where: str) -> None:
    """Refused where `event` cannot come right after `last`."""
    if event.t < last.t:
        raise Refused("events.time", where, f"t of at least {last.t} ns", event.t)
    if isinstance(event, CaseStart):
        raise Refused("events.start", where, "one case_start", "another")
    if isinstance(last, CaseEnd):
        raise Refused("events.end", where, "nothing after case_end", type(event).__name__)


def check_end(last: Event | None, where: str) -> None:
    """Refused unless a rank's last event says that the case is done."""
    if last is None:
        raise Refused("events.start", where, "a case_start event", "no event")
    if not isinstance(last, CaseEnd) or last.state != "done":
        raise Refused("events.end", where, "case_end with state done as the last event", msgspec.to_builtins(last, enc_hook=str))
