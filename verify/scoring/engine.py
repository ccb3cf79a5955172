"""Scores all cases of a run under one profile against one baseline: tables, parts of the report, off-grid cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from verify.profile import Part, Profile, Row, Table
from verify.scoring import conditions, formulas, tiers
from verify.scoring.baseline import Baseline, workload
from verify.scoring.cases import Case, declared, pick
from verify.scoring.rows import RowResult, TableResult, Total, score_row, total


@dataclass(frozen=True, slots=True)
class CaseScore:
    """What stands beside one case: its scored metric, the baseline, the score, and the row of the report that it fills."""

    case: str
    metric: str | None
    base: Fraction | None
    score: Fraction | None
    row: str | None


@dataclass(frozen=True, slots=True)
class Scoring:
    """Everything that one profile and one baseline say about a run; `variants` are cases that nothing scores."""

    profile: Profile
    baseline: Baseline | None
    tables: dict[str, TableResult]
    cases: dict[str, CaseScore]
    variants: tuple[str, ...] = ()

    def part(self, section: str, part: str) -> tuple[str, Total] | None:
        """Id and total of the table that scores a part: the report's, else the cases outside its grid."""
        for name, table in self.tables.items():
            if (table.table.section, table.table.part) == (section, part) and (table.table.total != "none" or table.table.reuse):
                return name, table.total
        return None


def run(profile: Profile, baseline: Baseline | None, cases: list[Case]) -> Scoring:
    """Score every table in the profile's order, so that a table may build on those before it."""
    tables: dict[str, TableResult] = {}
    plain = [case for case in cases if not profile.variant(case.fields)]
    for table in profile.tables:
        tables[table.id] = _table(table, tables, plain, baseline)
    unscored = {case.id: CaseScore(case.id, None, None, None, None) for case in cases if profile.variant(case.fields)}
    return Scoring(profile, baseline, tables, _cases(profile, baseline, tables, plain) | unscored, tuple(unscored))


def _table(table: Table, done: dict[str, TableResult], cases: list[Case], base: Baseline | None) -> TableResult:
    if table.reuse:
        return TableResult(table, (), done[table.reuse].total)
    if table.tiers:
        rows = tiers.score(table, done[table.tiers["from"]], base)
    else:
        groups = declared(table, cases)
        rows = tuple(_row(table, row, groups[row.group], cases, base) for row in table.rows)
    return TableResult(table, rows, total(table, rows))


def _row(table: Table, row: Row, own: Sequence[Case], cases: Sequence[Case], base: Baseline | None) -> RowResult:
    found = score_row(table, row, pick(table, row, own), base, _others(table, row, own))
    return conditions.apply(table, found, cases, base)


def _others(table: Table, row: Row, cases: Sequence[Case]) -> dict[str, Case | None]:
    return {part.id: pick(table, row, cases, part.select) for part in table.parts if part.select}


def _cases(profile: Profile, base: Baseline | None, tables: dict[str, TableResult], cases: list[Case]) -> dict[str, CaseScore]:
    found = {case.id: _off_grid(profile, base, case) for case in cases}
    for name, table in tables.items():
        for row in table.rows:
            columns = {case: part for part in table.table.parts if part.select for case in row.values[part.metric].cases}
            found |= {case: _column(name, row, part, case) for case, part in columns.items()}
            if row.case is None or row.case in columns:
                continue
            if row.row.metric is not None:
                found[row.case] = CaseScore(row.case, None, None, None, name)
            else:
                first = next(iter(table.table.parts or ()), None)
                metric = first.metric if first else str(table.table.shown[0]["metric"])
                found[row.case] = CaseScore(row.case, metric, row.values[metric].base, row.result.score, f"{name}/{row.row.id}")
    return found


def _column(table: str, row: RowResult, part: Part, case: str) -> CaseScore:
    """A case of a column of its own: the row's score only where this column scores it."""
    score = row.result.score if case == row.case else None
    return CaseScore(case, part.of or part.metric, row.values[part.metric].base, score, f"{table}/{row.row.id}")


def _off_grid(profile: Profile, base: Baseline | None, case: Case) -> CaseScore:
    """A case of another plan: one metric against the same workload of the baseline."""
    named = next((entry for entry in profile.metrics if entry["suite"] == case.fields["suite"]), None)
    if named is None:
        return CaseScore(case.id, None, None, None, None)
    metric = named["metric"]
    cell = base.case(workload(case.fields), metric) if base else None
    measured = case.metrics.get(metric)
    if cell is None or cell.value is None or cell.value <= 0:
        return CaseScore(case.id, metric, None, None, None)
    score = formulas.COMPARED[named["kind"]](measured.value, cell.value) if measured and measured.value else Fraction(0)
    return CaseScore(case.id, metric, cell.value, score, None)


def unofficial(scoring: Scoring, section: str | None = None) -> tuple[Fraction | None, int, int]:
    """Ruling 12: geometric mean of the ratios of rows that were compared (all sections when None), ratios counted, ratios asked."""
    ratios: list[Fraction] = []
    asked = 0
    for table in scoring.tables.values():
        if section is not None and table.table.section != section:
            continue
        for part in (part for part in table.table.parts if part.kind in formulas.RATIOS):
            scored = [row.parts[part.id] for row in table.rows]
            asked += 0 if part.select else len(scored)
            ratios += [entry.score for entry in scored if entry.state == "scored" and entry.score is not None]
    return (formulas.geometric_mean(ratios) if ratios else None), len(ratios), asked
