"""What an audit finds, by exact counting and by simulation with the very code that draws and decides."""

from __future__ import annotations

import hashlib
import random
import secrets
import statistics
import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction
from functools import cache
from math import comb

from verify import decision, sample
from verify.data import root
from verify.decision import Measured
from verify.tolerance import Row, Table, parse

CASES, FORGED, K = 200, 20, 20
IDS = [f"case-{number:03}" for number in range(CASES)]
FAKE = frozenset(IDS[:FORGED])
SHARES = [(100, 5), (100, 10), (200, 1), (200, 5), (200, 10), (200, 20), (1000, 5), (1000, 10), (1000, 20)]
SIZES = (5, 10, 20, 30, 50)


def hit(cases: int, forged: int, k: int) -> Fraction:
    """Chance that k of `cases`, drawn without putting back, hold at least one of the forged ones (hypergeometric, exact)."""
    return 1 - Fraction(comb(cases - forged, k), comb(cases, k))


def least(cases: int, forged: int, chance: Fraction) -> int:
    """The smallest sample that holds a forged case with at least this chance."""
    return next(k for k in range(1, cases + 1) if hit(cases, forged, k) >= chance)


def false_alarm(factor: float, step: float = 0.002) -> tuple[float, float]:
    """Chance that an honest case fails at first, and by the median of five, with `factor` CVs of tolerance (integrated)."""
    normal = statistics.NormalDist()
    once = confirmed = 0.0
    for number in range(int(16 / step)):
        claim = -8 + number * step
        low = normal.cdf(claim - factor)  # one value of the lab so low that the claim is above the tolerance
        weight = normal.pdf(claim) * step
        once += weight * low
        confirmed += weight * low * (1 - (1 - low) ** 4 - 4 * low * (1 - low) ** 3)  # the first, and two or more of four others
    return once, confirmed


def drawn_hits(draws: int) -> float:
    """Share of HMAC-ordered samples that hold a forged case."""
    keys = (hashlib.sha256(str(number).encode()).digest() for number in range(draws))
    return sum(bool(FAKE.intersection(sample.order(key, IDS)[:K])) for key in keys) / draws


def grind_without_secret(trials: int) -> list[int]:
    """Tries that a vendor needs for a clean sample if the seed were the hash of its own statement alone."""
    tries = []
    for trial in range(trials):
        count = 1
        while FAKE.intersection(sample.order(hashlib.sha256(f"{trial} {count}".encode()).digest(), IDS)[:K]):
            count += 1
        tries.append(count)
    return tries


def grind_with_secret(trials: int) -> float:
    """Share of caught vendors who picked, before r was known, the statement that is clean under their own guess of r."""
    challenge = hashlib.sha256(b"challenge").hexdigest()
    caught = 0
    for trial in range(trials):
        guess, true = (hashlib.sha256(f"{word} {trial}".encode()).digest() for word in ("guess", "true"))
        runs = (hashlib.sha256(f"run {trial} {number}".encode()).hexdigest() for number in range(1000))
        run = next(run for run in runs if not FAKE.intersection(sample.order(sample.seed(guess, run, challenge), IDS)[:K]))
        caught += bool(FAKE.intersection(sample.order(sample.seed(true, run, challenge), IDS)[:K]))
    return caught / trials


@cache
def table() -> Table:
    """The shipped tests; rows are given by each simulation."""
    return parse((root() / "baselines/tolerances/provisional.toml").read_bytes(), "provisional")


def audited(rng: random.Random, cv: float, inflate: Callable[[str], float], k: int = K) -> tuple[str, bool, bool]:
    """One audit of k of 200 cases: its verdict, and whether test (a) and test (b) found something in the sample.

    Each value is 100 times a normal variate of standard deviation `cv`; claims are multiplied by inflate(case).
    """
    row, rules = Row("s", "m", "*", "higher", Decimal(repr(cv)), in_mean=True), table()
    claims = {name: f"{100 * rng.gauss(1, cv) * inflate(name):.6f}" for name in IDS}

    def measured(ids: Sequence[str]) -> list[Measured]:
        firsts = [Measured(name, row, claims[name], (_value(rng, cv),)) for name in ids]
        again = set(decision.stage(firsts, (), rules).of("pending"))
        return [
            Measured(one.case, row, one.vendor, (*one.lab, *(_value(rng, cv) for _ in range(rules.reruns)))) if one.case in again else one
            for one in firsts
        ]

    first = decision.stage(measured(rng.sample(IDS, k)), (), rules)
    said, _ = decision.verdict(first, None)
    if said == "partial":
        said, _ = decision.verdict(first, decision.stage(measured(IDS), (), rules))
    return said, first.mean.verdict == "fail", bool(first.of("fail"))


def _value(rng: random.Random, cv: float) -> str:
    return f"{100 * rng.gauss(1, cv):.6f}"


def shares(trials: int, cv: float, inflate: Callable[[str], float], seed: int = 1) -> dict[str, float]:
    """Shares of audits that failed, that test (a) doubted, and that test (b) doubted."""
    rng = random.Random(seed)
    done = [audited(rng, cv, inflate) for _ in range(trials)]
    return {
        "failed": sum(said == "fail" for said, _, _ in done) / trials,
        "mean": sum(mean for _, mean, _ in done) / trials,
        "case": sum(case for _, _, case in done) / trials,
    }


def main() -> None:
    print("chance that a sample of k holds a forged case (exact); k for 90, 95, 99 %")
    for cases, percent in SHARES:
        forged = cases * percent // 100
        row = "  ".join(f"{float(hit(cases, forged, k)):.3f}" for k in SIZES)
        needed = ", ".join(str(least(cases, forged, Fraction(p, 100))) for p in (90, 95, 99))
        print(f"N={cases} {percent} %: {row}; {needed}")
    print(f"HMAC order, 10,000 draws, N=200, 20 forged, k=20: {drawn_hits(10_000):.4f}; exact {float(hit(CASES, FORGED, K)):.4f}")
    for factor in (3.0, 4.5):
        once, confirmed = false_alarm(factor)
        print(f"honest case at {factor} CV: {once:.2e} at first, {confirmed:.2e} confirmed; in 20 cases {1 - (1 - confirmed) ** 20:.2%}")
    tries = grind_without_secret(300)
    print(f"grinding without r: clean sample after {statistics.mean(tries):.1f} tries on average, {max(tries)} at most, in 300 trials")
    print(f"grinding against a guess of r: {grind_with_secret(500):.4f} caught of 500; exact {float(hit(CASES, FORGED, K)):.4f}")
    for cv, trials in ((0.005, 400), (0.01, 400), (0.02, 400)):
        print(f"CV {cv:.1%}, {trials} audits of 20 of 200: honest {shares(trials, cv, lambda _: 1.0)}")
        print(f"CV {cv:.1%}: all by 2 % {shares(trials, cv, lambda _: 1.02)}")
        print(f"CV {cv:.1%}: 20 of 200 by 30 % {shares(trials, cv, lambda name: 1.3 if name in FAKE else 1.0)}")
    _speed()


def _speed() -> None:
    key, ids = secrets.token_bytes(32), [f"case-{number}" for number in range(10_000)]
    begin = time.perf_counter()
    sample.order(key, ids)
    print(f"order of 10,000 cases: {(time.perf_counter() - begin) * 1000:.1f} ms")
