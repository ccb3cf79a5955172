"""Suites as verify knows them: one module each, with its events, its rules and every formula of its metrics.

A suite module has SECTION and PART (of the report), EVENTS (msgspec structs), RULES (rule id -> what it asks for), and
three functions: `measure` reads the events once, `rules` says what is wrong, `metrics` computes. Suites of other
packages come by the entry point group `chipassay.suites`; one that fails to load is an error. A suite may offer two
more functions: `facts` (words such as weights: random) and `series` (what charts show).
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol, cast

from verify.events import Event
from verify.findings import Finding, Unchecked

GROUP = "chipassay.suites"
NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
Ranks = Mapping[int, Iterable[Event]]
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
    """Values over steps for a chart: each point is the mean of `every` of them; the first `warmup` points are warm-up."""

    values: tuple[Fraction, ...]
    unit: str
    every: int = 1
    warmup: int = 0


def series(values: list[Fraction], unit: str, warmup: int = 0) -> Series:
    """A series of at most SERIES_POINTS points; a last, shorter bucket keeps its own mean."""
    every = max(1, -(-len(values) // SERIES_POINTS))
    points = [mean(values[start : start + every]) for start in range(0, len(values), every)]
    return Series(tuple(points), unit, every, -(-warmup // every))


class Suite(Protocol):
    """What a suite module offers."""

    SECTION: str
    PART: str
    EVENTS: tuple[type[Event], ...]
    RULES: dict[str, str]

    def measure(self, case: Case, ranks: Ranks) -> Any:
        """Read every rank's events once and keep what rules and metrics need."""

    def rules(self, case: Case, measured: Any) -> Iterator[Finding]:
        """What is wrong with what was measured."""

    def metrics(self, case: Case, measured: Any) -> dict[str, Metric]:
        """Every metric by name; only called where no rule found an error."""


@cache
def _foreign() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def suites() -> list[str]:
    """Sorted names of the suites that can be loaded."""
    own = {module.name for module in pkgutil.iter_modules(__path__)}
    return sorted(own | _foreign().keys())


def load(suite: str) -> Suite:
    """The suite module of this name; Unchecked where there is none, any error of its own as it is."""
    if NAME.fullmatch(suite) is None or suite not in suites():
        raise Unchecked(f"unknown suite '{suite}'", next_step=f"known: {', '.join(suites())}")
    if point := _foreign().get(suite):
        return cast("Suite", point.load())
    return cast("Suite", importlib.import_module(f"verify.metrics.{suite}"))


def mean(values: Iterable[Fraction | int]) -> Fraction:
    """Exact arithmetic mean of at least one value."""
    listed = list(values)
    return Fraction(sum(listed, Fraction(0)), len(listed))


def median(values: Iterable[Fraction | int]) -> Fraction:
    """Exact median of at least one value; of an even number, the mean of the two in the middle."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return Fraction(ordered[middle]) if len(ordered) % 2 else Fraction(ordered[middle - 1] + ordered[middle]) / 2
