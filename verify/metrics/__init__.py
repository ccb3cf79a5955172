"""Suites as verify knows them: one module each, with its events, its rules and every formula of its metrics.

A suite module has SECTION and PART (of the report), EVENTS (msgspec structs), RULES (rule id -> what it asks for), and
three functions: `measure` reads the events once, `rules` says what is wrong, `metrics` computes. Suites of other
packages come by the entry point group `chipassay.suites`; one that fails to load is an error.
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


@dataclass(frozen=True, slots=True)
class Metric:
    """An exact value in `unit`, and the formula that made it (F-numbers are the report's)."""

    value: Fraction
    unit: str
    formula: str


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
