"""Suites as verify knows them: one module each, with its events, its rules and every formula of its metrics.

A suite module has SECTION and PART (of the report), EVENTS (msgspec structs), RULES (rule id -> what it asks for), and
four functions. Events come in blocks, so that memory does not grow with them and several processes can read:

    condense(case, rank, events)   what one block of one rank comes down to; knows no other block, runs in any process
    measure(case, blocks)          goes through what `condense` made, as (rank, condensed), and keeps what the next two need
    rules(case, measured)          says what is wrong
    metrics(case, measured)        computes

and six that it may leave out: `facts` (words such as weights: random), `series` (what charts show), `windows` (measured spans, for
which energy is told), `derived` (what follows from energy), `traits` (what the plausibility rules look at) and `kept` (what is wrong with
files of the attempt that events name: kept(case, measured, evidence, folder), asked where no rule found an error).

A suite with few events returns them from `condense` as they are. One with millions returns a few bytes an event: sums,
arrays, and the few events that stand alone. Each rank's blocks come in their order, ranks take turns by segments, and where
a block is cut must not change any result. Suites of other packages come by the entry point group `chipassay.suites`; one that
fails to load, or has the name of another suite, is an error.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from decimal import Context, Decimal, Inexact, InvalidOperation
from fractions import Fraction
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol, cast

from verify.events import Event
from verify.findings import Finding, Unchecked

GROUP = "chipassay.suites"
NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
Blocks = Iterable[tuple[int, Any]]
Case = dict[str, Any]
SERIES_POINTS = 400


@dataclass(frozen=True, slots=True)
class Metric:
    """An exact value in `unit`, the formula that made it (F-numbers are the report's), the spread of what it is a mean of."""

    value: Fraction
    unit: str
    formula: str
    least: Fraction | None = None
    most: Fraction | None = None


def over(values: Iterable[Fraction | int], scale: int = 1) -> dict[str, Fraction]:
    """`least` and `most` of what a mean is over, divided by `scale`: keyword arguments of Metric."""
    listed = list(values)
    return {"least": Fraction(min(listed)) / scale, "most": Fraction(max(listed)) / scale}


@dataclass(frozen=True, slots=True)
class Series:
    """Values over steps for a chart: each point is the mean of `every` of them; the first `warmup` points are warm-up.

    `head` is the first values one by one, where a formula needs each of them (F10) and the points are means.
    """

    values: tuple[Fraction, ...]
    unit: str
    every: int = 1
    warmup: int = 0
    head: tuple[Fraction, ...] = ()


def series(values: list[Fraction], unit: str, warmup: int = 0) -> Series:
    """A series of at most SERIES_POINTS points; a last, shorter bucket keeps its own mean."""
    return points(len(values), lambda begin, end: mean(values[begin:end]), unit, warmup)


def points(length: int, mean_of: Callable[[int, int], Fraction], unit: str, warmup: int = 0, head: int = 0) -> Series:
    """The same for `length` values that are not at hand as Fractions: `mean_of` gives the mean of those from one index to another.

    The first `head` values stay whole beside the points where these are means.
    """
    every = max(1, -(-length // SERIES_POINTS))
    means = [mean_of(start, min(start + every, length)) for start in range(0, length, every)]
    first = tuple(mean_of(index, index + 1) for index in range(min(head, length))) if every > 1 else ()
    return Series(tuple(means), unit, every, -(-warmup // every), first)


@dataclass(frozen=True, slots=True)
class Window:
    """A measured span of a case, in nanoseconds since rank 0's case_start, and the work done in it by unit: energy is told for it.

    A suite that has such spans offers `windows(case, measured)`, and `derived(case, metrics)` for what follows from energy.
    """

    name: str
    begin_ns: int
    end_ns: int
    work: dict[str, Fraction | int]


class Suite(Protocol):
    """What a suite module offers."""

    SECTION: str
    PART: str
    EVENTS: tuple[type[Event], ...]
    RULES: dict[str, str]

    def condense(self, case: Case, rank: int, events: list[Event]) -> Any:
        """What a block of at least one event comes down to; it must be possible to pickle it."""

    def measure(self, case: Case, blocks: Blocks) -> Any:
        """Go through (rank, condensed block) once and keep what rules and metrics need."""

    def rules(self, case: Case, measured: Any) -> Iterator[Finding]:
        """What is wrong with what was measured."""

    def metrics(self, case: Case, measured: Any) -> dict[str, Metric]:
        """Every metric by name; only called where no rule found an error."""


def unchanged(case: Case, rank: int, events: list[Event]) -> list[Event]:
    """`condense` of a suite with few events."""
    del case, rank
    return events


@cache
def _foreign() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


@cache
def suites() -> tuple[str, ...]:
    """Sorted names of the suites that can be loaded, looked for once; Unchecked where a package has one of a name that is taken."""
    taken = {module.name for module in pkgutil.iter_modules(__path__)}
    for point in entry_points(group=GROUP):
        if point.name in taken:
            package = point.dist.name if point.dist else point.value
            raise Unchecked(f"suite '{point.name}' is there twice", where=f"entry point of {package}", next_step="uninstall one of them")
        taken.add(point.name)
    return tuple(sorted(taken))


def load(suite: str) -> Suite:
    """The suite module of this name; Unchecked where there is none, any error of its own as it is."""
    if NAME.fullmatch(suite) is None or suite not in suites():
        raise Unchecked(f"unknown suite '{suite}'", next_step=f"known: {', '.join(suites())}")
    if point := _foreign().get(suite):
        return cast("Suite", point.load())
    return cast("Suite", importlib.import_module(f"verify.metrics.{suite}"))


_SUM = Context(prec=1200, traps=[Inexact, InvalidOperation])  # two doubles never need more digits than this between them


def total(values: Iterable[float]) -> Fraction:
    """Exact sum of measured numbers, each being the decimal that `repr` writes of it."""
    return Fraction(functools.reduce(_SUM.add, map(Decimal, map(repr, values)), Decimal(0)))


def mean(values: Iterable[Fraction | int]) -> Fraction:
    """Exact arithmetic mean of at least one value."""
    listed = list(values)
    return _sum(listed) / len(listed)


def _sum(values: list[Fraction | int]) -> Fraction:
    """By halves, so that few of the additions are of long fractions."""
    if len(values) <= 16:
        return Fraction(sum(values))
    middle = len(values) // 2
    return _sum(values[:middle]) + _sum(values[middle:])


def median(values: Iterable[Fraction | int]) -> Fraction:
    """Exact median of at least one value; of an even number, the mean of the two in the middle."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return Fraction(ordered[middle]) if len(ordered) % 2 else Fraction(ordered[middle - 1] + ordered[middle]) / 2


def root_shown(square: Fraction) -> str:
    """A relative error whose square is given, for people: three digits, and no more than is worth telling."""
    return "more than 1000" if square > 10**6 else f"{float(square) ** 0.5:.3g}"
