"""Events as the worker wrote them: common kinds, and a reader that streams one rank's segments.

Every line passes the strict JSON reader and then msgspec, which refuses unknown kinds, unknown fields and wrong types.
A measured float is the exact rational that its text names.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, Literal

import msgspec

from verify.files import Evidence
from verify.findings import Refused
from verify.strict import exact, loads

Natural = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
SEGMENT = re.compile(r"events-(?:rank([0-9]{4,})-)?([0-9]{5})\.jsonl")


class Event(msgspec.Struct, frozen=True, tag_field="e", forbid_unknown_fields=True):
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


COMMON: tuple[type[Event], ...] = (CaseStart, Environment, Model, CaseEnd)


def union(kinds: tuple[type[Event], ...]) -> Any:
    """The type of any common event or one of `kinds`."""
    return functools.reduce(operator.or_, (*COMMON, *kinds))


def _hook(kind: type, value: Any) -> Any:
    """Msgspec asks for types that it does not know: Fraction, from an integer or an exact number."""
    if kind is Fraction and isinstance(value, int | Fraction) and not isinstance(value, bool):
        return Fraction(value)
    raise TypeError(f"expected a number, got {type(value).__name__}")


def parse(line: bytes, kind: Any, where: str) -> Event:
    """One event of type `kind` (from `union`), or Refused."""
    value = loads(line, where, real=exact)
    try:
        event: Event = msgspec.convert(value, kind, dec_hook=_hook)
    except msgspec.ValidationError as bad:
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


def read(evidence: Evidence, attempt: Attempt, rank: int, paths: list[str], kind: Any) -> Iterator[Event]:
    """The events of one rank, checked for order: case_start first at t=0, time never back, case_end last."""
    last: Event | None = None
    where = f"{attempt.folder}: rank {rank}"
    for path in paths:
        for number, line in enumerate(evidence.lines(path), start=1):
            where = f"{path}:{number}"
            event = parse(line, kind, where)
            if last is None:
                _check_start(event, attempt, rank, where)
            else:
                _check_follows(last, event, where)
            yield event
            last = event
    if last is None:
        raise Refused("events.start", where, "a case_start event", "no event")
    if not isinstance(last, CaseEnd) or last.state != "done":
        raise Refused("events.end", where, "case_end with state done as the last event", msgspec.to_builtins(last, enc_hook=str))


def _check_start(event: Event, attempt: Attempt, rank: int, where: str) -> None:
    if not isinstance(event, CaseStart) or event.t:
        raise Refused("events.start", where, "case_start at t=0 as the first event", type(event).__name__)
    expected = (attempt.case, attempt.suite, attempt.number, rank, attempt.world_size)
    found = (event.case, event.suite, event.attempt, event.rank, event.world_size)
    if found != expected:
        raise Refused("events.start", where, f"case, suite, attempt, rank, world_size = {expected}", found)


def _check_follows(last: Event, event: Event, where: str) -> None:
    if event.t < last.t:
        raise Refused("events.time", where, f"t of at least {last.t} ns", event.t)
    if isinstance(event, CaseStart):
        raise Refused("events.start", where, "one case_start", "another")
    if isinstance(last, CaseEnd):
        raise Refused("events.end", where, "nothing after case_end", type(event).__name__)
