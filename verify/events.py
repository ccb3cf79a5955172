"""Events as the worker wrote them: common kinds, blocks of lines to events, and the order that events of a rank keep.

What a line says is what the strict JSON reader and msgspec both take: no key twice, no unknown kind or field, no wrong
type. Blocks go through msgspec alone where counting shows that the strict reader would take every line of them
(docs/design/replay.md). A measured number is the double nearest to its text; `exact` is what `repr` writes of it.
"""

from __future__ import annotations

import functools
import io
import operator
import re
from collections import Counter
from collections.abc import Iterable
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
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind, dec_hook=_hook, float_hook=rational)


def parse(line: bytes, kind: Any, where: str) -> Event:
    """One event of type `kind` (from `union`) by the strict reader, or Refused."""
    loads(line, where, real=double, beyond=double)
    try:
        event: Event = _decoder(kind).decode(line)
    except (msgspec.DecodeError, Bad) as bad:
        raise Refused("events.schema", where, "an event of the suite with exactly its fields", str(bad)) from None
    return event


def _quotes(kind: type[Event]) -> int | None:
    """Quotation marks in a line of this kind, or None where a field may hold free text, a map or nothing instead of text."""
    count = 0
    for field in msgspec.structs.fields(kind):
        text = _text_quotes(msgspec.inspect.type_info(field.type))
        if text is None:
            return None
        count += 2 + text
    return count + 4  # the tag, key and value


def _text_quotes(kind: msgspec.inspect.Type) -> int | None:
    match kind:
        case msgspec.inspect.IntType() | msgspec.inspect.FloatType() | msgspec.inspect.BoolType() | msgspec.inspect.NoneType():
            return 0
        case msgspec.inspect.LiteralType(values) if all(isinstance(value, str) for value in values):
            return 2
        case msgspec.inspect.ListType(item_type=item) if _text_quotes(item) == 0:
            return 0
        case msgspec.inspect.UnionType(types) if all(_text_quotes(one) == 0 for one in types):
            return 0
    return None


class Lines:
    """Turns blocks of whole lines into the events of one suite; without `fast`, line by line by the strict reader."""

    def __init__(self, kinds: tuple[type[Event], ...], *, fast: bool = True) -> None:
        self._kind = union(kinds)
        self._quotes = {kind: _quotes(kind) for kind in (*COMMON, *kinds)}
        self._fast = fast

    def events(self, block: bytes, path: str, first: int) -> list[Event]:
        """Every event of a block that begins with line number `first`; Refused at the first line that is none."""
        found = self._quick(block, path, first) if self._fast else None
        return found if found is not None else self._slow(block.split(b"\n")[:-1], path, first)

    def _slow(self, lines: Iterable[bytes], path: str, first: int) -> list[Event]:
        return [parse(line, self._kind, f"{path}:{number}") for number, line in enumerate(lines, start=first)]

    def _quick(self, block: bytes, path: str, first: int) -> list[Event] | None:
        """The events, where no key can hide: a key needs quotation marks, and every mark is accounted for; else None."""
        try:
            events = list(map(_decoder(self._kind).decode, io.BytesIO(block)))
        except (msgspec.DecodeError, UnicodeError, RecursionError, Bad):
            return None
        if b"\\" in block:
            return None
        counts = Counter(map(type, events))
        expected = sum(count * (self._quotes[kind] or 0) for kind, count in counts.items())
        if free := {kind for kind in counts if self._quotes[kind] is None}:
            lines = block.split(b"\n")
            for index in [index for index, event in enumerate(events) if type(event) in free]:
                events[index] = parse(lines[index], self._kind, f"{path}:{first + index}")
                expected += lines[index].count(b'"')
        return events if block.count(b'"') == expected else None


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
    kinds = set(map(type, events))
    if times == sorted(times) and not kinds & {CaseStart, CaseEnd}:
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
