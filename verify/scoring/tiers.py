"""Tiers of first-token latency (F15 to F20): groups of cases, the tier each serves, and the largest throughput of a tier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from verify.profile import Row, Table
from verify.scoring import formulas
from verify.scoring.baseline import Baseline
from verify.scoring.rows import RowResult, Scored, TableResult, Value, finish


@dataclass(frozen=True, slots=True)
class Group:
    """Cases of one model, input length and concurrency, averaged over output lengths (F15)."""

    latency_ms: Fraction
    throughput: Fraction
    cases: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Side:
    """Groups of one model and input length, for the chip under test or for the baseline; `asked` counts those of the grid.

    `load_s` is the model's load time: the mean over its cases that measured it, whatever their input length.
    """

    groups: tuple[Group, ...]
    asked: int
    load_s: Fraction | None


def score(table: Table, grid: TableResult, base: Baseline | None) -> tuple[RowResult, ...]:
    """Every row of the tier tables, from the rows of the grid of cases."""
    assert table.tiers is not None
    sides: dict[tuple[str, int], tuple[Side, Side]] = {}
    results = []
    for row in table.rows:
        key = (row.label["model"], row.label["input_tokens"])
        if key not in sides:
            model = [entry for entry in grid.rows if entry.row.group == key[0]]
            sides[key] = (_side(table, model, key[1], test=True), _side(table, model, key[1], test=False))
        results.append(_row(table, row, sides[key], base, _missing(grid, key)))
    return tuple(results)


def _side(table: Table, model: Sequence[RowResult], input_tokens: int, *, test: bool) -> Side:
    """A group counts only where every one of its output lengths was measured, so that leaving out slow ones gains nothing."""
    assert table.tiers is not None
    names = (table.tiers["latency"], table.tiers["throughput"])
    members: dict[int, list[RowResult]] = {}
    for row in (row for row in model if row.row.label["input_tokens"] == input_tokens):
        members.setdefault(row.row.label["concurrency"], []).append(row)
    groups = []
    for group in members.values():
        columns = [_numbers(group, name, test=test) for name in names]
        if all(len(column) == len(group) for column in columns):
            latency, throughput = (formulas.mean(column) for column in columns)
            groups.append(Group(latency, throughput, tuple(case for row in group for case in row.values[names[1]].cases)))
    loads = _numbers(model, table.tiers["load"], test=test) if groups else []
    return Side(tuple(groups), len(members), formulas.mean(loads) if loads else None)


def _numbers(rows: Sequence[RowResult], name: str, *, test: bool) -> list[Fraction]:
    counts = [row for row in rows if not test or row.result.state != "0"]  # a gate may refuse a case that has numbers
    found = [_number(row.values[name], test=test) for row in counts]
    return [number for number in found if number is not None]


def _number(value: Value, *, test: bool) -> Fraction | None:
    return value.test if test else value.base


def _missing(grid: TableResult, key: tuple[str, int]) -> Scored | None:
    """NA where no case of this model and length was submitted, 0 where none of those submitted holds."""
    rows = [row for row in grid.rows if (row.row.group, row.row.label["input_tokens"]) == key]
    states = [row.result for row in rows]
    if all(state.state == "NA" for state in states):
        return Scored("NA", Fraction(0), "not_submitted")
    if all(state.state in {"NA", "0"} for state in states):
        return Scored("0", Fraction(0), next(state.reason for state in states if state.state == "0"))
    return None


def _best(side: Side, index: int, bounds: Sequence[Fraction | None], *, cumulative: bool) -> Group | None:
    fitting = [group for group in side.groups if formulas.serves(group.latency_ms, index, bounds, cumulative=cumulative)]
    return max(fitting, key=lambda group: group.throughput, default=None)


def _row(table: Table, row: Row, sides: tuple[Side, Side], base: Baseline | None, missing: Scored | None) -> RowResult:
    assert table.tiers is not None
    bounds: list[Fraction | None] = [*map(Fraction, table.tiers["bounds_ms"]), None]
    index, cumulative = row.label["tier"], table.tiers["membership"] == "cumulative"
    ours, theirs = (_best(side, index, bounds, cumulative=cumulative) for side in sides)
    other, other_base = (_best(side, index, bounds, cumulative=not cumulative) for side in sides)
    loads = [side.load_s for side in sides]
    shown = "max_throughput_bins" if cumulative else "max_throughput_cumulative"
    unit = "tokens/s"
    values = {
        "max_throughput": _cell(table, row, base, "max_throughput", unit, ours, theirs),
        shown: Value(
            shown,
            unit,
            other.throughput if other else None,
            other.throughput if other else None,
            other_base.throughput if other_base else None,
            cases=other.cases if other else (),
        ),
        "load_time_s": _given(table, row, base, Value("load_time_s", "s", loads[0], loads[0], loads[1], _source(theirs, loads[1]))),
    }
    result = finish(table, row, None, values, missing)
    if missing is None and ours is None and values["max_throughput"].base is not None:
        zero = Scored("0", Fraction(0), "no_group_in_tier")
        return RowResult(row, None, values, result.parts | {"throughput": zero}, result.result)
    notes = ("incomplete_groups",) if missing is None and len(sides[0].groups) < sides[0].asked else ()
    return RowResult(row, None, values, result.parts, result.result, notes)


def _source(group: Group | None, value: Fraction | None) -> str | None:
    return None if group is None or value is None else "text_generation"


def _cell(table: Table, row: Row, base: Baseline | None, metric: str, unit: str, ours: Group | None, theirs: Group | None) -> Value:
    test = ours.throughput if ours else None
    derived = theirs.throughput if theirs else None
    cell = Value(metric, unit, test, test, derived, _source(theirs, derived), cases=ours.cases if ours else ())
    return _given(table, row, base, cell)


def _given(table: Table, row: Row, base: Baseline | None, cell: Value) -> Value:
    """A pack's own value of the tier, where it has one, else what follows from its cases."""
    own = base.row(table.id, row.id, cell.metric) if base else None
    if own is None:
        return cell
    return Value(cell.metric, cell.unit, cell.test, cell.actual, own.value, own.key, own.status, cell.cases)
