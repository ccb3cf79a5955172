"""Scores rows of the report's tables: cells against baselines, parts, rows, totals, and why a number is not there.

A row counts in a total only where the baseline has every value that its parts need (ruling 15); a row that was not
submitted (NA) and one that failed (0) count 0 and stay apart (F24, ruling 13).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from verify.profile import Gate, Part, Row, Table
from verify.scoring import formulas
from verify.scoring.baseline import Baseline, Cell
from verify.scoring.cases import Case, Measured

ZERO = Fraction(0)


@dataclass(frozen=True, slots=True)
class Value:
    """One cell: baseline and test side by side; `actual` is the test before it was scaled to the baseline's cards (F21).

    `spread` is the least and most of what the actual value is a mean of, `base_spread` what a pack tells of its own runs.
    """

    metric: str
    unit: str
    test: Fraction | None = None
    actual: Fraction | None = None
    base: Fraction | None = None
    base_key: str | None = None
    base_status: str | None = None
    cases: tuple[str, ...] = ()
    spread: tuple[Fraction, Fraction] | None = None
    base_spread: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """Score of a part or row; state `scored`, `NA`, `0` or `no_baseline`, and the reason where it is not plain."""

    state: str
    score: Fraction | None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """What a gate says of one row: state `passed`, `failed`, `missing` or `undeclared`, the value, and the case it is from."""

    gate: Gate
    state: str
    value: Fraction | None = None
    case: str | None = None


@dataclass(frozen=True, slots=True)
class RowResult:
    """A row of the report with everything that it shows."""

    row: Row
    case: str | None
    values: dict[str, Value]
    parts: dict[str, Scored]
    result: Scored
    notes: tuple[str, ...] = ()
    curve: tuple[tuple[Fraction, ...], tuple[Fraction, ...]] | None = None
    gates: tuple[Judged, ...] = ()


@dataclass(frozen=True, slots=True)
class Total:
    """Total of a table; `counted` of `rows` have a baseline, `submitted` were measured, `apart` under another condition."""

    state: str
    score: Fraction | None
    rows: int
    counted: int
    submitted: int
    apart: int = 0


@dataclass(frozen=True, slots=True)
class TableResult:
    """A table of the report, scored."""

    table: Table
    rows: tuple[RowResult, ...]
    total: Total


def value(
    table: Table, row: Row, case: Case | None, base: Baseline | None, metric: str, unit: str, *, per_card: bool = False, of: str = ""
) -> Value:
    """The cell of one metric; `of` is its name in the case where that is another."""
    cell = base.row(table.id, row.id, metric) if base else None
    measured = case.metrics.get(row.metric or of or metric) if case else None
    actual = measured.value if measured else None
    test = actual
    if per_card and actual is not None and case is not None and row.cards:
        test = formulas.per_baseline_cards(actual, case.fields["cards"], row.cards)
    shown = measured.unit if measured else unit
    cases = (case.id,) if case and measured else ()
    return Value(metric, shown, test, actual, *_based(cell), cases, _spread(measured), cell.spread if cell else None)


def _spread(measured: Measured | None) -> tuple[Fraction, Fraction] | None:
    if measured is None or measured.least is None or measured.most is None:
        return None
    return measured.least, measured.most


def _based(cell: Cell | None) -> tuple[Fraction | None, str | None, str | None]:
    return (cell.value, cell.key, cell.status) if cell else (None, None, None)


def score_part(part: Part, cell: Value) -> Scored:
    """Score of one part of a submitted row."""
    needs_base = part.kind in formulas.COMPARED or part.kind == "within"
    if needs_base and cell.base is None:
        return Scored("no_baseline", None, "no_baseline")
    if cell.test is None:
        return Scored("0", ZERO, "metric_missing")
    try:
        score = _apply(part, cell.test, cell.base)
    except ZeroDivisionError:
        return Scored("0", ZERO, "value_is_zero")
    if part.kind in {"below", "within"} and score == 0:
        return Scored("0", ZERO, "below_the_bar")
    return Scored("scored", score)


def _apply(part: Part, test: Fraction, base: Fraction | None) -> Fraction:
    if part.kind in formulas.ALONE:
        return formulas.ALONE[part.kind](test)
    if part.kind in formulas.LIMITED:
        return formulas.LIMITED[part.kind](test, part.limit)
    assert base is not None
    if part.kind == "within":
        return formulas.within(test, base, part.tolerance)
    return formulas.COMPARED[part.kind](test, base)


def combine(parts: tuple[Part, ...], scored: dict[str, Scored]) -> Scored:
    """Row score: weighted sum of parts (F8, F14, F18, F22); of targets (F1) all must hold."""
    used = [part for part in parts if not (part.optional and scored[part.id].state == "no_baseline")]
    states = [scored[part.id] for part in used]
    if any(state.state == "no_baseline" for state in states):
        return Scored("no_baseline", None, "no_baseline")
    pairs = [(part.weight, scored[part.id].score or ZERO) for part in used]
    reason = next((state.reason for state in states if state.reason), None)
    if all(part.kind in {"below", "within"} for part in used):
        held = all(score == 1 for _, score in pairs)
        return Scored("scored" if held else "0", Fraction(held), reason)
    score = formulas.weighted(pairs)
    return Scored("scored" if score else "0", score, reason)


def not_there(case: Case | None, table: Table) -> Scored | None:
    """NA or 0 where a row was not measured, else None (F24)."""
    if case is None or case.state == "not_run":
        return Scored("NA", ZERO, "awaits_suite" if case is None and table.awaits else "not_submitted")
    if case.state != "done":
        return Scored("0", ZERO, case.state)
    if not case.metrics:
        return Scored("0", ZERO, "refused")
    for fact, wanted in table.needs.items():
        if case.facts.get(fact) != wanted:
            return Scored("NA", ZERO, f"needs_{fact}_{wanted}")
    return None


def curves(
    table: Table, row: Row, part: Part, case: Case | None, base: Baseline | None
) -> tuple[tuple[Fraction, ...], tuple[Fraction, ...]] | None:
    """The first `limit` steps of a case's series and of the baseline's curve (F10), where both have each of them."""
    found = case.series.get(part.series) if case and part.series else None
    steps = int(part.limit)
    theirs = base.curve(table.id, row.id, part.series)[:steps] if base else ()
    ours = () if found is None else (found.values if found.every == 1 else found.head)[:steps]
    return (ours, theirs) if ours and len(ours) == len(theirs) == steps else None


def _variances(
    table: Table,
    row: Row,
    part: Part,
    case: Case,
    curve: tuple[tuple[Fraction, ...], tuple[Fraction, ...]],
    base: Baseline | None,
    cell: Value,
) -> dict[str, Value]:
    """F10 where the case does not tell it; beside it, never scored, without the steps at which the baseline's curve spikes (ruling 8)."""
    found = {}
    if cell.test is None:
        variance = formulas.loss_variance(*curve)
        found[part.metric] = replace(cell, test=variance, actual=variance, cases=(case.id,))
    if base and (spikes := base.spikes(table.id, row.id, part.series)):
        test, theirs = ([value for step, value in enumerate(line) if step not in spikes] for line in curve)
        name, variance = f"{part.metric}_without_spikes", formulas.loss_variance(test, theirs)
        found[name] = Value(name, part.unit, variance, variance, cases=(case.id,))
    return found


def scoring_parts(parts: tuple[Part, ...], values: dict[str, Value], filled: dict[str, Case | None]) -> tuple[Part, ...]:
    """All parts; of columns with a case of their own the first that was submitted and has a baseline (ruling 23)."""
    if not any(part.select for part in parts):
        return parts
    based = [part for part in parts if values[part.metric].base is not None]
    submitted = [part for part in based if (case := filled[part.id]) is not None and case.state != "not_run"]
    return tuple((submitted or based or parts)[:1])


def score_row(table: Table, row: Row, case: Case | None, base: Baseline | None, others: dict[str, Case | None] | None = None) -> RowResult:
    """One row that one case fills; `others` has the cases of its columns with a case of their own."""
    filled = {part.id: case for part in table.parts} | (others or {})
    values = {
        part.metric: value(table, row, filled[part.id], base, part.metric, part.unit, per_card=part.per_card, of=part.of)
        for part in table.parts
    } | {
        shown["metric"]: value(table, row, case, base, shown["metric"], shown["unit"], per_card=shown.get("per_card", False))
        for shown in table.shown
    }
    curve = next((found for part in table.parts if (found := curves(table, row, part, case, base))), None)
    for part in table.parts:
        if curve and part.series and case:
            values |= _variances(table, row, part, case, curve, base, values[part.metric])
    used = scoring_parts(table.parts, values, filled)
    case = filled[used[0].id] if used else case
    missing = not_there(case, table)
    random = ("random_weights",) if case and case.facts.get("weights") == "random" and case.metrics else ()
    notes = (*random, *(f"by_{part.id}" for part in used if part.select and case))
    return replace(finish(table, row, case.id if case else None, values, missing, notes, used), curve=curve)


def finish(
    table: Table,
    row: Row,
    case: str | None,
    values: dict[str, Value],
    missing: Scored | None,
    notes: tuple[str, ...] = (),
    used: tuple[Part, ...] | None = None,
) -> RowResult:
    """Parts and score of a row whose cells are known; a missing row counts 0 only where it could have been compared.

    Parts that are not `used` (None: all are) are columns that are only shown.
    """
    used = table.parts if used is None else used
    scored = {part.id: score_part(part, values[part.metric]) for part in used}
    if not table.parts:
        return RowResult(row, case, values, {}, _shown(row, values, missing), notes)
    result = combine(used, scored)
    if missing is not None:
        comparable = result.state != "no_baseline"
        result = Scored(missing.state, ZERO if comparable else None, missing.reason)
        scored = {
            name: Scored(missing.state, None if part.state == "no_baseline" else ZERO, missing.reason) for name, part in scored.items()
        }
    shown = {part.id: Scored("shown", None) for part in table.parts if part not in used}
    return RowResult(row, case, values, scored | shown, result, notes)


def _shown(row: Row, values: dict[str, Value], missing: Scored | None) -> Scored:
    """State of a row that nothing scores; one of its own metric that the case does not tell is NA."""
    if missing is not None:
        return Scored(missing.state, None, missing.reason)
    untold = row.metric is not None and all(value.test is None for value in values.values())
    return Scored("NA", None, "not_measured") if untold else Scored("shown", None)


def total(table: Table, rows: tuple[RowResult, ...]) -> Total:
    """Total over rows that could be compared; weights of the others are shared among them in proportion."""
    counted = [row for row in rows if row.result.score is not None]
    submitted = sum(row.result.state not in {"NA"} for row in rows)
    apart = sum(any(note.endswith("_differs") for note in row.notes) for row in rows)
    if table.total == "none" or not rows:
        return Total("done" if submitted else "NA", None, len(rows), len(counted), submitted, apart)
    if not submitted:
        return Total("NA", ZERO if counted else None, len(rows), len(counted), 0)
    if not counted:
        return Total("no_baseline", None, len(rows), 0, submitted, apart)
    score = TOTALS[table.total](rows, counted)
    return Total("done" if score else "0", score, len(rows), len(counted), submitted, apart)


def _mean(_: tuple[RowResult, ...], counted: list[RowResult]) -> Fraction:
    return formulas.mean([row.result.score or ZERO for row in counted])


def _weighted(rows: tuple[RowResult, ...], counted: list[RowResult]) -> Fraction:
    """F4 within a group, then the weighted sum over groups (F1, F5, F7)."""
    groups: dict[str, list[Fraction]] = {}
    for row in counted:
        groups.setdefault(row.row.group, []).append(row.result.score or ZERO)
    weights = {row.row.group: row.row.weight or ZERO for row in rows}
    score = formulas.weighted((weights[group], formulas.mean(scores)) for group, scores in groups.items())
    return score * sum(weights.values()) / sum(weights[group] for group in groups)


TOTALS: dict[str, Callable[[tuple[RowResult, ...], list[RowResult]], Fraction]] = {"mean": _mean, "weighted": _weighted}
