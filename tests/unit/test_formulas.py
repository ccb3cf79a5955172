"""Formulas against docs/formulas.md, whose numbers were worked out by hand; and what must hold for any numbers."""

from __future__ import annotations

import json
import re
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import ROOT
from verify.score import decimal_text
from verify.scoring import formulas

LINE = re.compile(r"^    (\w+)\((.*)\) = (\S+)$", re.MULTILINE)
WHOLE = {"tgs": (0, 1, 3), "communication_gbps": (0, 1), "per_baseline_cards": (1, 2)}
positive = st.fractions(min_value=Fraction(1, 1000), max_value=1000)
share = st.fractions(min_value=0, max_value=1)


def examples(page: str) -> list[tuple[str, str, str]]:
    return LINE.findall((ROOT / "docs" / page).read_text(encoding="utf-8"))


def numbers(text: str) -> list[Any]:
    return json.loads(f"[{text}]", parse_float=Fraction, parse_int=Fraction)


@pytest.mark.parametrize(("name", "arguments", "expected"), examples("formulas.md"), ids=lambda value: value[:40])
def test_example_of_the_page(name: str, arguments: str, expected: str) -> None:
    given_ = [int(value) if index in WHOLE.get(name, ()) else value for index, value in enumerate(numbers(arguments))]
    found = formulas.serves(*given_[:3], cumulative=given_[3]) if name == "serves" else getattr(formulas, name)(*given_)
    if name == "geometric_mean":
        assert decimal_text(found) == expected
    else:
        assert found == Fraction(expected)


def test_both_pages_hold_the_same_examples() -> None:
    assert examples("formulas.md") == examples("formulas_zh.md")
    assert len(examples("formulas.md")) >= 48


def test_every_formula_has_an_example_and_every_number_of_the_report_a_place() -> None:
    shown = {name for name, *_ in examples("formulas.md")}
    public = {name for name, value in vars(formulas).items() if callable(value) and getattr(value, "__module__", "") == formulas.__name__}
    assert public - shown == set()
    text = (ROOT / "docs/formulas.md").read_text(encoding="utf-8")
    assert [number for number in range(1, 29) if not re.search(rf"\*\*F{number}\b", text)] == []


@pytest.mark.parametrize("page", ["formulas.md", "formulas_zh.md"])
def test_every_formula_is_worked_out_by_hand(page: str) -> None:
    """F1 to F25: between a formula's name and the next one's stands at least one line that a test computes."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    places = list(re.finditer(r"\*\*F(\d+)\b", text))
    ends = [*(place.start() for place in places[1:]), len(text)]
    worked = {int(place[1]) for place, end in zip(places, ends, strict=True) if LINE.search(text[place.start() : end])}
    assert set(range(1, 26)) - worked == set()


GROUPS = [(120, 60), (480, 700), (900, 1100), (2400, 1000)]
BOUNDS = [Fraction(500), Fraction(1000), Fraction(3000), None]


@pytest.mark.parametrize(("cumulative", "expected"), [(True, [700, 1100, 1100, 1100]), (False, [700, 1100, 1000, None])])
def test_largest_throughput_of_a_tier(cumulative: bool, expected: list[int | None]) -> None:
    best = [
        max((rate for wait, rate in GROUPS if formulas.serves(Fraction(wait), tier, BOUNDS, cumulative=cumulative)), default=None)
        for tier in range(4)
    ]
    assert best == expected


PRINTED = [  # report 0.2.1, section 3.2.2(2): factor, elements, ms, Gb/s
    (2, 4259924984, "126.905", "2148.338"), (2, 4259924984, "373.565", "729.815"), (8, 134217728, "16.915", "2031.292"),
    (32, 33554432, "47.117", "729.249"), (1, 1073741824, "17.54", "1958.977"), (1, 1073741824, "314.13", "109.38"),
    (1, 4259924984, "72.62", "1877.133"), (1, 4259924984, "196.439", "693.939"), (1, 4259924984, "66.02", "2064.778"),
    (1, 4259924984, "762.939", "178.673"),
]  # fmt: skip


@pytest.mark.parametrize(("factor", "elements", "ms", "printed"), PRINTED)
def test_the_ten_printed_rows_follow_from_size_and_time(factor: int, elements: int, ms: str, printed: str) -> None:
    found = formulas.communication_gbps(factor, elements * 4, Fraction(ms) / 1000)
    assert abs(found - Fraction(printed)) / Fraction(printed) < Fraction(22, 10**6)


@given(positive, positive, positive)
def test_more_is_better_where_more_is_better(base: Fraction, test: Fraction, more: Fraction) -> None:
    assert formulas.ratio(test + more, base) > formulas.ratio(test, base)
    assert formulas.inverse(test + more, base) < formulas.inverse(test, base)
    assert formulas.longest_score(test + more, base) >= formulas.longest_score(test, base)
    assert formulas.crash_score(test + more) < formulas.crash_score(test)
    assert formulas.variance_score(test + more) <= formulas.variance_score(test)
    assert formulas.below(test + more, base) <= formulas.below(test, base)
    assert formulas.within(test + more, base, Fraction(1, 20)) <= formulas.within(test, base, Fraction(1, 20))


@given(positive)
def test_a_baseline_against_itself_gives_one(value: Fraction) -> None:
    assert formulas.ratio(value, value) == formulas.inverse(value, value) == 1
    assert formulas.longest_score(value, value) == formulas.within(value, value, Fraction(0)) == 1


@given(st.lists(st.tuples(positive, positive), min_size=1, max_size=20), positive)
def test_an_offset_costs_no_variance(curves: list[tuple[Fraction, Fraction]], offset: Fraction) -> None:
    test, base = zip(*curves, strict=True)
    moved = [value + offset for value in test]
    assert formulas.loss_variance(moved, base) == formulas.loss_variance(test, base) >= 0
    assert formulas.loss_variance(base, base) == 0


@given(positive)
def test_a_latency_is_in_one_tier_and_serves_every_slower_one(wait: Fraction) -> None:
    wait *= 10
    assert sum(formulas.serves(wait, tier, BOUNDS, cumulative=False) for tier in range(4)) == 1
    served = [formulas.serves(wait, tier, BOUNDS, cumulative=True) for tier in range(4)]
    assert all(later >= earlier for earlier, later in pairwise(served))
    assert served[3]


@given(st.lists(positive, min_size=1, max_size=30))
def test_geometric_mean_lies_between_and_is_at_most_the_arithmetic(values: list[Fraction]) -> None:
    found = formulas.geometric_mean(values)
    slack = Fraction(1, 10**30)
    assert min(values) * (1 - slack) <= found <= formulas.mean(values) * (1 + slack)
    assert formulas.geometric_mean([*values, Fraction(0)]) == 0


@given(st.lists(st.tuples(share, share), min_size=1, max_size=10))
def test_weights_that_sum_to_one_keep_a_score_below_one(pairs: list[tuple[Fraction, Fraction]]) -> None:
    total = sum(weight for weight, _ in pairs)
    if total:
        assert formulas.weighted((weight / total, score) for weight, score in pairs) <= 1
