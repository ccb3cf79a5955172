"""What an audit finds and how seldom it accuses an honest vendor: exact counts, and simulations of the code that decides.

Bounds on simulated shares are five standard deviations wide; seeds are fixed. `python -m bench audit` prints larger runs.
"""

from __future__ import annotations

import math
import statistics
from fractions import Fraction

import pytest

from bench import audit

# attestation note, table 6.1: share found with samples of 5, 10, 20, 30, 50; samples for 90, 95, 99 %
TABLE = {
    (100, 5): (".230 .416 .681 .839 .972", (37, 45, 59)),
    (100, 10): (".416 .670 .905 .977 .999", (20, 25, 36)),
    (200, 1): (".049 .098 .190 .278 .438", (137, 155, 180)),
    (200, 5): (".228 .409 .660 .811 .948", (41, 51, 73)),
    (200, 10): (".413 .660 .891 .968 .998", (21, 27, 40)),
    (200, 20): (".676 .899 .991 .999 1", (11, 13, 20)),
    (1000, 5): (".227 .403 .645 .790 .928", (44, 57, 86)),
    (1000, 10): (".410 .653 .881 .960 .996", (22, 29, 43)),
    (1000, 20): (".673 .894 .989 .999 1", (11, 14, 21)),
}
EXACT = float(audit.hit(200, 20, 20))


@pytest.mark.parametrize(("cases", "percent"), TABLE)
def test_power_of_a_sample_is_that_of_the_hypergeometric_distribution(cases: int, percent: int) -> None:
    shares, sizes = TABLE[cases, percent]
    forged = cases * percent // 100
    for k, share in zip(audit.SIZES, shares.split(), strict=True):
        assert float(audit.hit(cases, forged, k)) == pytest.approx(float(share), abs=0.00051)
    assert tuple(audit.least(cases, forged, Fraction(p, 100)) for p in (90, 95, 99)) == sizes


def near(found: float, share: float, trials: int) -> bool:
    return abs(found - share) <= 5 * math.sqrt(share * (1 - share) / trials) + 1e-12


def test_samples_by_hmac_find_as_many() -> None:
    assert pytest.approx(0.8915, abs=0.00005) == EXACT
    assert near(audit.drawn_hits(2000), EXACT, 2000)


def test_without_a_secret_a_vendor_grinds_a_clean_sample_in_ten_tries() -> None:
    tries = audit.grind_without_secret(100)
    expected = 1 / (1 - EXACT)  # geometric distribution
    assert abs(statistics.mean(tries) - expected) <= 5 * expected / math.sqrt(100)
    assert max(tries) < 200


def test_with_a_secret_grinding_gains_nothing() -> None:
    assert near(audit.grind_with_secret(200), EXACT, 200)


@pytest.mark.parametrize(("cv", "power"), [(0.005, 1.0), (0.01, 0.999), (0.02, 0.53)])
def test_claims_that_are_all_two_percent_too_high_fail_by_the_mean(cv: float, power: float) -> None:
    """Power of a z-test: 1 - Phi(3.09 - 0.0198 sqrt(20 / 2) / CV); attack 25."""
    z = math.log(1.02) * math.sqrt(20 / 2) / cv
    expected = 1 - statistics.NormalDist().cdf(3.0902 - z)
    assert expected == pytest.approx(power, abs=0.03)
    found = audit.shares(40, cv, lambda _: 1.02)
    assert near(found["mean"], expected, 40)
    assert found["failed"] >= found["mean"] - 0.02


def test_one_case_in_ten_forged_by_thirty_percent_fails_as_often_as_the_sample_hits_one() -> None:
    found = audit.shares(60, 0.01, lambda name: 1.3 if name in audit.FAKE else 1.0)
    assert near(found["failed"], EXACT, 60)
    assert near(found["case"], EXACT, 60)


def test_an_honest_case_is_accused_twice_in_a_hundred_thousand() -> None:
    once, confirmed = audit.false_alarm(4.5)
    assert once == pytest.approx(1 - statistics.NormalDist().cdf(4.5 / math.sqrt(2)), rel=1e-3)
    assert confirmed == pytest.approx(2.34e-5, rel=0.01)


@pytest.mark.parametrize("cv", [0.005, 0.01, 0.02])
def test_an_honest_vendor_passes(cv: float) -> None:
    """Expected in 200 audits: 0.2 doubts by the mean, 0.14 by a case, no failure."""
    found = audit.shares(200, cv, lambda _: 1.0)
    assert found["failed"] == 0
    assert found["mean"] <= 3 / 200
    assert found["case"] <= 3 / 200
