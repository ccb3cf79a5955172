"""What a row must fulfil beside its own score: gates (ruling 10), and facts without which two values are not comparable (ruling 25).

Both are data of the profile. A gate that does not hold makes a row 0 with the reason; a value measured under another condition
than the baseline's is marked and keeps its score, so that nothing is gained by a condition that makes rows drop out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from verify.profile import Condition, Gate, Table, Where
from verify.scoring.baseline import Baseline
from verify.scoring.cases import Case, enough, field_of, matches
from verify.scoring.rows import ZERO, Judged, RowResult, Scored, Value


def apply(table: Table, found: RowResult, cases: Sequence[Case], base: Baseline | None) -> RowResult:
    """The row with what its table's gates and conditions make of it; rows that were not measured stay as they are."""
    own = next((case for case in cases if case.id == found.case), None)
    if own is None or found.result.state == "NA":
        return found
    for condition in table.conditions:
        found = _conditioned(table, found, own, condition, cases, base)
    judged = tuple(judge(gate, own, cases) for gate in table.gates if matches(gate.when, own.fields))
    bad = next((one for one in judged if one.state != "passed"), None)
    found = replace(found, gates=judged)
    return found if bad is None or found.result.state == "0" else _failed(found, f"gate_{bad.state}")


def companion(where: Where, own: Case, cases: Sequence[Case]) -> Case | None:
    """The first case of the plan that `where` selects and that has the named fields of this one; without a selector, this one."""
    if not where.select:
        return own
    same = {name: field_of(own.fields, name) for name in where.same}
    return next(
        (
            case
            for case in cases
            if matches(where.select, case.fields) and all(field_of(case.fields, name) == value for name, value in same.items())
        ),
        None,
    )


def judge(gate: Gate, own: Case, cases: Sequence[Case]) -> Judged:
    """Whether a case that a gate asks about holds it: what must be declared is, and the metric lies where it must."""
    if any(field_of(own.fields, name) is None for name in gate.declared):
        return Judged(gate, "undeclared", case=own.id)
    shown = companion(gate.where, own, cases)
    measured = shown.metrics.get(gate.metric) if shown else None
    if shown is None or measured is None:
        return Judged(gate, "missing", case=shown.id if shown else None)
    return Judged(gate, "passed" if gate.low <= measured.value <= gate.high else "failed", measured.value, shown.id)


def _failed(found: RowResult, reason: str) -> RowResult:
    """The row as 0; what takes no part in a total still takes none."""

    def zero(scored: Scored) -> Scored:
        return scored if scored.state == "shown" else Scored("0", None if scored.score is None else ZERO, reason)

    parts = {name: zero(part) for name, part in found.parts.items()}
    return replace(found, parts=parts, result=Scored("0", None if found.result.score is None else ZERO, reason))


def _conditioned(
    table: Table, found: RowResult, own: Case, condition: Condition, cases: Sequence[Case], base: Baseline | None
) -> RowResult:
    """The row with the condition as a cell of its own, and a note where it is another than the baseline's, or not known."""
    if not enough(condition.least, own):
        return found
    there = own if condition.metric in own.metrics else companion(condition.where, own, cases)
    shown = there if there and condition.metric in there.metrics else None
    test = shown.metrics[condition.metric].value if shown else None
    cell = base.row(table.id, found.row.id, condition.metric) if base else None
    key, status = (cell.key, cell.status) if cell else (None, None)
    cell_value = cell.value if cell else None
    value = Value(condition.metric, condition.unit, test, test, cell_value, key, status, (shown.id,) if shown else ())
    note = compare(condition, test, cell_value)
    return replace(
        found, values=found.values | {condition.metric: value}, notes=(*found.notes, f"{condition.id}_{note}") if note else found.notes
    )


def compare(condition: Condition, test: Fraction | None, base: Fraction | None) -> str | None:
    """`differs` where test and baseline are further apart than the tolerance, else why nobody can say, else nothing."""
    if test is None:
        return "not_measured"
    if base is None:
        return "unknown"
    return "differs" if abs(test - base) > condition.tolerance * base else None
