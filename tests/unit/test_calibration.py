"""Calibration: scatter of repeats, its upper bound, and a table that a challenge can name."""

from __future__ import annotations

import math
import statistics
from decimal import Decimal
from pathlib import Path

import pytest

from kit.errors import KitError
from kit.lab.calibrate import calibrate
from tests.adversarial import audits
from verify import calibration, tolerance


def chi_square_cdf(x: float, freedom: int) -> float:
    """Regularised lower incomplete gamma function by its series."""
    a, half = freedom / 2, x / 2
    term = total = 1 / a
    for k in range(1, 500):
        term *= half / (a + k)
        total += term
    return total * math.exp(-half + a * math.log(half) - math.lgamma(a))


@pytest.mark.parametrize("freedom", calibration.CHI_SQUARE)
def test_quantiles_of_chi_square(freedom: int) -> None:
    assert chi_square_cdf(float(calibration.CHI_SQUARE[freedom]), freedom) == pytest.approx(0.05, abs=5e-6)


def test_cv_is_standard_deviation_over_mean() -> None:
    values = [98.5, 100.25, 101.75, 99, 100.5]
    expected = statistics.stdev(values) / statistics.mean(values)
    assert float(calibration.cv([Decimal(str(value)) for value in values])) == pytest.approx(expected, rel=1e-12)


def test_few_repeats_cost_a_wider_tolerance() -> None:
    found = [calibration.upper(Decimal("0.01"), repeats) for repeats in (5, 6, 10, 12, 20, 30, 100)]
    assert found == sorted(found, reverse=True)
    assert found[0] == Decimal("0.0238")  # 0.01 sqrt(4 / 0.7107) = 0.02373
    assert calibration.upper(Decimal(0), 5) == calibration.STEP


def test_repeats_become_a_table(tmp_path: Path) -> None:
    factors = (1.0, 1.01, 0.99, 1.005, 0.995)
    runs = [audits.vendor_run(tmp_path / str(number), None, dict.fromkeys(audits.CASES, factor)) for number, factor in enumerate(factors)]
    table = tolerance.parse(calibrate(runs, "provisional", tmp_path / "mine.toml").read_bytes(), "mine")
    assert (table.name, table.provisional, len(table.rows)) == ("mine", False, 6 + 4 * 3)
    [row] = table.rows_of("pretrain-0", "pretrain")
    measured = statistics.stdev(1 / factor for factor in factors) / statistics.mean(1 / factor for factor in factors)
    assert float(row.cv) == pytest.approx(measured * math.sqrt(4 / 0.7107), abs=1.1e-4)
    with pytest.raises(KitError, match="file exists"):
        calibrate(runs, "provisional", tmp_path / "mine.toml")
    with pytest.raises(KitError, match="4 runs are too few"):
        calibrate(runs[:4], "provisional", tmp_path / "other.toml")
    next(runs[0].rglob("stdout.log")).write_text("x")
    with pytest.raises(KitError, match=r"tree\.digest"):
        calibrate(runs, "provisional", tmp_path / "other.toml")
