"""Ruling 25: a row over several nodes at another bandwidth between them than the baseline's is marked."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest

from tests import synthetic
from tests.unit.test_scoring import A100, TABLES, scored
from verify.metrics import Metric
from verify.scoring import baseline
from verify.scoring.rows import RowResult

GBPS = "internode_gbps"


def fabric(gbps: str | None, base: str | None, *, nodes: int = 4, table: str = "communication", row: int = 1) -> RowResult:
    """A row over several nodes; its bandwidth between nodes, and the baseline's."""
    found = TABLES[table].rows[row]
    case = synthetic.case(TABLES[table], found)
    more = {GBPS: Metric(Fraction(gbps), "Gb/s", "")} if gbps else {}
    case = replace(case, fields=case.fields | {"nodes": nodes}, metrics=case.metrics | more)
    key = f"{table}/{found.id}/{GBPS}"
    cells = A100.cells | ({key: baseline.Cell(key, Fraction(base), "Gb/s", "measured", "test", None)} if base else {})
    return scored([case], base=replace(A100, cells=cells)).tables[table].rows[row]


@pytest.mark.parametrize(
    ("gbps", "base", "note"),
    [
        ("220", "200", ()),
        ("180", "200", ()),
        ("221", "200", ("fabric_differs",)),
        ("100", "200", ("fabric_differs",)),
        ("200", None, ("fabric_unknown",)),
        (None, "200", ("fabric_not_measured",)),
    ],
)
def test_a_row_at_another_fabric_is_marked(gbps: str | None, base: str | None, note: tuple[str, ...]) -> None:
    found = fabric(gbps, base)
    assert found.notes == note
    assert (found.values[GBPS].test, found.values[GBPS].base) == (Fraction(gbps) if gbps else None, Fraction(base) if base else None)
    assert found.result == fabric("200", "200").result


def test_one_node_has_no_fabric() -> None:
    found = fabric(None, None, nodes=1)
    assert found.notes == ()
    assert GBPS not in found.values


def test_a_training_row_carries_the_fabric_that_the_run_measured() -> None:
    """The communication case over as many nodes says it; one over fewer does not."""
    table, place = TABLES["training_compute"], TABLES["communication"]
    case = synthetic.case(table, table.rows[2])
    case = replace(case, fields=case.fields | {"nodes": 4})
    measured = synthetic.case(place, place.rows[1])
    measured = replace(measured, metrics=measured.metrics | {GBPS: Metric(Fraction(400), "Gb/s", "")})
    for nodes, value in ((4, 400), (2, None)):
        beside = replace(measured, fields=measured.fields | {"nodes": nodes})
        assert scored([case, beside]).tables["training_compute"].rows[2].values[GBPS].test == value


def test_the_number_of_marked_rows_stands_with_the_total() -> None:
    place = TABLES["communication"]
    cases, cells = [], dict(A100.cells)
    for row in place.rows:
        case = synthetic.case(place, row)
        far = row.label["cards"] == 32
        cases.append(
            replace(case, fields=case.fields | {"nodes": 4 if far else 1}, metrics=case.metrics | {GBPS: Metric(Fraction(100), "Gb/s", "")})
        )
        key = f"communication/{row.id}/{GBPS}"
        cells[key] = baseline.Cell(key, Fraction(200), "Gb/s", "measured", "test", None)
    plain, marked = (scored(cases, base=replace(A100, cells=given_)).tables["communication"].total for given_ in (A100.cells, cells))
    assert (plain.apart, marked.apart) == (0, 5)
    assert plain.score == marked.score
