"""Declared variants (float8 training) stand beside the report's rows: they fill none and have no score."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest

from tests import synthetic
from tests.unit.test_scoring import A100, TABLES, like_baseline, scored
from verify import profile
from verify.scoring import baseline


@pytest.mark.parametrize("name", ["training_compute", "training_function", "finetuning_compute", "finetuning_function"])
def test_a_variant_fills_no_row_and_is_not_scored(name: str) -> None:
    """Training in float8 stands beside the report's rows; first in the plan, it takes no row from the case in 16 bits."""
    plain = [replace(case, fields=case.fields | {"dtype": "bfloat16"}) for case in like_baseline(name, A100)]
    eights = [replace(case, id=f"{case.id}-float8", fields=case.fields | {"dtype": "float8"}) for case in plain]
    alone, without, both = scored(eights), scored(plain), scored([*eights, *plain])
    assert [row.case for row in both.tables[name].rows] == [row.case for row in without.tables[name].rows]
    assert both.tables[name].total == without.tables[name].total
    assert all((row.case, row.result.state) == (None, "NA") for row in alone.tables[name].rows)
    assert alone.variants == tuple(case.id for case in eights)
    assert {(found.score, found.row, found.metric) for found in alone.cases.values()} == {(None, None, None)}
    assert without.variants == ()


def test_a_variant_is_not_scored_outside_of_the_grid_either() -> None:
    row = TABLES["training_compute"].rows[0]
    case = synthetic.case(TABLES["training_compute"], row)
    fields = case.fields | {"cards": 3, "dtype": "float8"}
    cell = replace(next(iter(A100.cells.values())), value=Fraction(1))
    plain = fields | {"dtype": "bfloat16"}
    base = replace(A100, cells=A100.cells | {f"case/{baseline.workload(one)}/tgs": cell for one in (fields, plain)})
    found = scored([replace(case, fields=fields), replace(case, id="plain", fields=plain)], base=base)
    assert found.cases[case.id].score is None
    assert found.cases["plain"].score is not None
    assert {profile.load(name).variants == {"dtype": ["float8"]} for name in profile.names()} == {True}
