"""Cases as scoring sees them, and which of them fills a row of the report: by values of their fields, in the plan's order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Protocol

from verify.profile import Row, Table


class Measured(Protocol):
    """What scoring reads of a metric."""

    @property
    def value(self) -> Fraction:
        """Exact value."""

    @property
    def unit(self) -> str:
        """Unit of the value."""

    @property
    def least(self) -> Fraction | None:
        """Least of what the value is a mean of."""

    @property
    def most(self) -> Fraction | None:
        """Most of what the value is a mean of."""


class Points(Protocol):
    """What scoring reads of a series."""

    @property
    def values(self) -> tuple[Fraction, ...]:
        """One value a point."""

    @property
    def every(self) -> int:
        """Steps a point."""

    @property
    def head(self) -> tuple[Fraction, ...]:
        """The first values step by step, where a point is more than one step."""


@dataclass(frozen=True, slots=True)
class Case:
    """What scoring knows of one case: the plan's fields, its state, its metrics, facts such as `weights`."""

    id: str
    fields: dict[str, Any]
    state: str
    metrics: dict[str, Measured]
    facts: dict[str, str] = field(default_factory=dict)
    series: dict[str, Points] = field(default_factory=dict)


def matches(select: dict[str, Any], fields: dict[str, Any]) -> bool:
    """Whether a case has every selected value; `a.b` looks into an object, a list of values means any of them."""
    return bool(select) and all(_fits(field_of(fields, path), wanted) for path, wanted in select.items())


def field_of(fields: Any, path: str) -> Any:
    """The value of a case's field, None where it has none; `a.b` looks into an object."""
    for name in path.split("."):
        if not isinstance(fields, dict) or name not in fields:
            return None
        fields = fields[name]
    return fields


def _fits(value: Any, wanted: Any) -> bool:
    options = wanted if isinstance(wanted, list) else [wanted]
    return any(type(value) is type(option) and value == option for option in options)


def pick(table: Table, row: Row, cases: Iterable[Case], more: dict[str, Any] | None = None) -> Case | None:
    """The first case of the plan that fits, with `more` values too: the sealed plan's order is the declaration of ruling 22."""
    select = row.select | (more or {})
    without = [name for name in table.without if name not in select]
    fitting = (case for case in cases if matches(select, case.fields) and not any(name in case.fields for name in without))
    return next((case for case in fitting if enough(table.least, case)), None)


def enough(least: dict[str, int], case: Case) -> bool:
    """Whether fields of a case are at least these; a table asks so for what must be measured (ruling 20)."""
    found = {name: field_of(case.fields, name) for name in least}
    return all(isinstance(value, int) and value >= least[name] for name, value in found.items())


def declared(table: Table, cases: Sequence[Case]) -> dict[str, Sequence[Case]]:
    """Cases that may fill the rows of each group: those alike to the first of the plan that fills one of them (ruling 22)."""
    groups: dict[str, Sequence[Case]] = {}
    for group in dict.fromkeys(row.group for row in table.rows):
        members = [row for row in table.rows if row.group == group]
        first = next((case for case in cases if any(pick(table, row, [case]) for row in members)), None)
        if not table.alike or first is None:
            groups[group] = cases
            continue
        same = {name: field_of(first.fields, name) for name in table.alike}
        groups[group] = [case for case in cases if all(field_of(case.fields, name) == value for name, value in same.items())]
    return groups
