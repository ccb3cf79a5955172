"""The two tests of an audit, on made-up values whose answer is known by hand, and the rule that joins them."""

from __future__ import annotations

import math
import tomllib
from decimal import Decimal
from statistics import NormalDist

import pytest

from tests.conftest import ROOT
from verify import decision, metrics, profile, tolerance
from verify.decision import Measured, Stage
from verify.findings import Refused
from verify.tolerance import Row

SHIPPED = ROOT / "baselines/tolerances/provisional.toml"
TABLE = tolerance.parse(SHIPPED.read_bytes(), "provisional")
RATE = Row("s", "rate", "*", "higher", Decimal("0.01"), in_mean=True)
LATENCY = Row("s", "latency", "*", "lower", Decimal("0.01"), in_mean=True)
POWER = Row("s", "power", "*", "equal", Decimal("0.01"), in_mean=False)


def one(vendor: str, *lab: str, row: Row = RATE, case: str = "c") -> Measured:
    return Measured(case, row, vendor, lab)


def of(*measured: Measured) -> Stage:
    return decision.stage(measured, (), TABLE)


@pytest.mark.parametrize(
    ("row", "vendor", "lab", "flatters"),
    [(RATE, "101", "100", True), (RATE, "100", "101", False), (LATENCY, "100", "101", True), (LATENCY, "101", "100", False),
     (POWER, "100", "101", True), (POWER, "101", "100", True)],
)  # fmt: skip
def test_a_log_ratio_is_positive_where_the_claim_flatters(row: Row, vendor: str, lab: str, flatters: bool) -> None:
    found = decision.log_ratio(Decimal(vendor), Decimal(lab), row.better)
    assert found is not None
    assert (found > 0) == flatters
    assert abs(float(found)) == pytest.approx(math.log(1.01), rel=1e-12)


def test_values_that_have_no_logarithm_are_missing() -> None:
    for vendor, lab in (("0", "1"), ("1", "0"), ("-1", "1")):
        assert decision.compare(one(vendor, lab), TABLE).verdict == "missing"
    assert decision.compare(one("1"), TABLE).verdict == "missing"
    assert decision.compare(one("2", "1", "0", "0", "0", "0"), TABLE).verdict == "missing"


def test_a_claim_above_the_tolerance_is_run_again_and_the_median_of_five_decides() -> None:
    assert decision.compare(one("104", "100"), TABLE).verdict == "pass"
    for lab in (("100",), ("100", "100", "100", "100")):
        assert decision.compare(one("105", *lab), TABLE).verdict == "pending"
    assert decision.compare(one("105", "100", "104", "104", "104", "100"), TABLE).verdict == "pass"
    failed = decision.compare(one("105", "100", "104", "104", "100", "100"), TABLE)
    assert (failed.verdict, failed.document()["logRatio"]) == ("fail", "0.0487901642")


def test_what_equals_the_tolerance_passes() -> None:
    edge = decision.log_ratio(Decimal(105), Decimal(100), "higher")
    assert edge is not None
    at = Row("s", "rate", "*", "higher", edge / TABLE.factor, in_mean=True)
    exact = Row("s", "rate", "*", "higher", Decimal("0.01"), in_mean=True)
    assert decision.compare(one("1", "1", row=exact), TABLE).verdict == "pass"
    lower = Row("s", "rate", "*", "higher", at.cv * Decimal("0.999999"), in_mean=True)
    higher = Row("s", "rate", "*", "higher", at.cv * Decimal("1.000001"), in_mean=True)
    assert decision.compare(one("105", "100", row=lower), TABLE).verdict == "pending"
    assert decision.compare(one("105", "100", row=higher), TABLE).verdict == "pass"
    assert decision.Mean(1, Decimal("0.1"), Decimal("0.10")).verdict == "pass"


def test_an_under_claim_is_a_note_and_cannot_pay_for_claims_that_are_too_high() -> None:
    assert decision.compare(one("50", "100"), TABLE).under_claim
    assert not decision.compare(one("96", "100"), TABLE).under_claim
    high = [one("103", "100", case=f"c{number}") for number in range(19)]
    assert of(*high, one("1", "100", case="low")).mean.verdict == "fail"
    assert of(*high[:2], one("97", "100", case="low")).mean.verdict == "pass"


def test_the_mean_is_a_z_test_with_known_scatter() -> None:
    found = of(*(one("102.3", "100.1", case=f"c{number}") for number in range(20))).mean
    assert found.cases == 20
    assert float(found.mean or 0) == pytest.approx(math.log(102.3 / 100.1), rel=1e-12)
    assert float(found.limit or 0) == pytest.approx(NormalDist().inv_cdf(0.999) * math.sqrt(2) * 0.01 / math.sqrt(20), rel=1e-9)


def test_several_metrics_of_a_case_count_as_one_case() -> None:
    found = of(one("102", "100"), one("100", "100", row=LATENCY), one("200", "100", row=POWER)).mean
    assert found.cases == 1
    assert float(found.mean or 0) == pytest.approx(math.log(1.02) / 2, rel=1e-12)


def test_cases_that_the_lab_chose_never_count_in_the_mean() -> None:
    measured = [one("100", "100"), one("104", "100", case="chosen")]
    assert decision.stage(measured, ["chosen"], TABLE).mean.cases == 1
    assert decision.stage(measured, ["chosen"], TABLE).compared[1].verdict == "pass"


def test_the_first_value_counts_in_the_mean_not_the_median() -> None:
    lab = ("100", "104", "104", "104", "104")
    assert float(of(one("105", *lab)).mean.mean or 0) == pytest.approx(math.log(1.05), rel=1e-12)


GOOD = of(one("100", "100"))
PENDING = of(one("105", "100"))
CONFIRMED = of(one("105", *["100"] * 5), *(one("99", "100", case=f"c{n}") for n in range(9)))
TOO_HIGH = of(*(one("103", "100", case=f"c{number}") for number in range(20)))
MISSING = of(one("100", "100"), one("100", case="gone"))
EMPTY = of()


@pytest.mark.parametrize(
    ("sample", "full", "expected", "reason"),
    [
        (GOOD, None, "pass", None),
        (TOO_HIGH, None, "partial", "mean"),
        (PENDING, None, "partial", "pending: c "),
        (MISSING, None, "partial", "missing: gone"),
        (EMPTY, None, "partial", "missing: no case"),
        (CONFIRMED, None, "partial", "full: every case"),
        (TOO_HIGH, TOO_HIGH, "fail", "mean: claims are too high as a whole in the full"),
        (TOO_HIGH, GOOD, "pass", None),
        (CONFIRMED, CONFIRMED, "fail", "case: c was not reproduced in the full"),
        (CONFIRMED, TOO_HIGH, "fail", "mean"),
        (CONFIRMED, PENDING, "partial", "pending"),
        (CONFIRMED, MISSING, "partial", "missing: gone"),
        (CONFIRMED, GOOD, "pass", None),
    ],
)
def test_verdict(sample: Stage, full: Stage | None, expected: str, reason: str | None) -> None:
    found, reasons = decision.verdict(sample, full)
    assert found == expected
    assert (reasons == []) == (reason is None)
    assert reason is None or any(line.startswith(reason) for line in reasons)


def test_the_shipped_table_holds_together() -> None:
    assert TABLE.provisional
    assert TABLE.factor >= Decimal("4.5")
    assert float(TABLE.quantile) == pytest.approx(NormalDist().inv_cdf(1 - float(TABLE.alpha)), abs=5e-10)
    scored = tomllib.loads((ROOT / f"baselines/profiles/{profile.DEFAULT}.toml").read_text(encoding="utf-8"))["metric"]
    better = {(row["suite"], row["metric"]): {"ratio": "higher", "inverse": "lower"}[row["kind"]] for row in scored}
    assert better.keys() <= {(row.suite, row.metric) for row in TABLE.rows}
    for row in TABLE.rows:
        assert row.suite in {*metrics.suites(), *(suite for suite, _ in better)}
        assert better.get((row.suite, row.metric), row.better) == row.better


def test_the_first_row_that_fits_a_case_counts() -> None:
    text = SHIPPED.read_text(encoding="utf-8")
    own = text[text.index("[[row]]") : text.index("[[row]]", text.index("[[row]]") + 1)].replace('"*"', '"big-*"').replace("0.02", "0.003")
    table = tolerance.parse(text.replace("[[row]]", own + "[[row]]", 1).encode(), "x")
    assert [row.cv for row in table.rows_of("big-1", "pretrain")] == [Decimal("0.003")]
    assert [row.cv for row in table.rows_of("small", "pretrain")] == [Decimal("0.02")]
    assert len(table.rows_of("x", "text_generation")) == 3
    assert table.rows_of("x", "nothing") == []


BAD = {
    "tolerances.syntax": [
        b"x = ",
        b"\xff",
        b"a = " + b"[" * 5000,
        b"x = nan",
        b"x = inf",
        b"x = 1e999999999",
        b"x = 1e-400",
        b"a = 1\na = 2",
    ],
    "tolerances.size": [b"#" * (2**20 + 1)],
    "tolerances.schema": [
        SHIPPED.read_bytes().replace(b"factor = 4.5", b"factor = 4.4"),
        SHIPPED.read_bytes().replace(b"reruns = 4", b"reruns = 3"),
        SHIPPED.read_bytes().replace(b"cv = 0.02", b"cv = -0.02"),
        SHIPPED.read_bytes().replace(b"cv = 0.02", b"cv = 1e9"),
        SHIPPED.read_bytes().replace(b"cv = 0.02", b"cv = 0.0"),
        SHIPPED.read_bytes().replace(b"alpha = 0.001", b"alpha = 0.5"),
        SHIPPED.read_bytes() + b"x = 1",
    ],
}


@pytest.mark.parametrize(("rule", "data"), [(rule, data) for rule, listed in BAD.items() for data in listed])
def test_a_table_that_cannot_be_used(rule: str, data: bytes) -> None:
    with pytest.raises(Refused) as bad:
        tolerance.parse(data, "x")
    assert bad.value.finding.rule == rule
