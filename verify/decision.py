"""What a lab's values say about a vendor's claims: two tests, both fixed in the challenge before the run.

(a) mean log ratio over the sample, one-sided against 0: finds claims that are all a little too high.
(b) every metric of every case: a claim above the tolerance is measured again, and the median of all runs decides.

A log ratio is positive where the claim flatters the vendor. All arithmetic is decimal at 50 digits, where `ln` and
`sqrt` are correctly rounded by specification, so that no machine's mathematical library has a say; what equals a limit
passes. Source of the tests: docs/audit.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction
from typing import Any, Literal

from verify.score import decimal_text
from verify.tolerance import Row, Table

EXACT = Context(prec=50, rounding=ROUND_HALF_EVEN, Emax=10**6, Emin=-(10**6))
Verdict = Literal["pass", "fail", "pending", "missing"]


@dataclass(frozen=True, slots=True)
class Measured:
    """One audited metric of a case: the vendor's claim and the lab's values in the order of its runs, as decimal text."""

    case: str
    row: Row
    vendor: str
    lab: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Compared:
    """What test (b) says; `log_ratio` is that of the lab's median, None where the lab has no value to compare with."""

    measured: Measured
    log_ratio: Decimal | None
    tolerance: Decimal
    verdict: Verdict
    under_claim: bool = False

    def document(self) -> dict[str, Any]:
        """As a lab-audit statement lists it."""
        return {
            "id": self.measured.case,
            "metric": self.measured.row.metric,
            "vendor": self.measured.vendor,
            "lab": list(self.measured.lab),
            "logRatio": None if self.log_ratio is None else text(self.log_ratio),
            "tolerance": text(self.tolerance),
            "verdict": self.verdict,
        }


@dataclass(frozen=True, slots=True)
class Mean:
    """What test (a) says over `cases` cases; `mean` and `limit` are None where there is none to judge."""

    cases: int
    mean: Decimal | None
    limit: Decimal | None

    @property
    def verdict(self) -> Verdict:
        """A mean that equals its limit passes."""
        if self.mean is None or self.limit is None:
            return "missing"
        return "fail" if self.mean > self.limit else "pass"

    def document(self) -> dict[str, Any]:
        """As a lab-audit statement lists it."""
        return {
            "cases": self.cases,
            "meanLogRatio": None if self.mean is None else text(self.mean),
            "limit": None if self.limit is None else text(self.limit),
            "verdict": self.verdict,
        }


@dataclass(frozen=True, slots=True)
class Stage:
    """Both tests over one set of cases: the sample, or all."""

    compared: tuple[Compared, ...] = ()
    mean: Mean = field(default_factory=lambda: Mean(0, None, None))

    def of(self, verdict: Verdict) -> list[str]:
        """Cases with a metric of this verdict, in order, each once."""
        return list(dict.fromkeys(one.measured.case for one in self.compared if one.verdict == verdict))

    def document(self) -> dict[str, Any]:
        """As a lab-audit statement holds it."""
        return {"cases": [one.document() for one in self.compared], "mean": self.mean.document()}


def text(value: Decimal) -> str:
    """Nine significant digits, as everywhere in statements."""
    return decimal_text(Fraction(value))


def median(values: Sequence[Decimal]) -> Decimal:
    """The middle value; of an even number of them, the mean of the middle two."""
    listed = sorted(values)
    low, high = listed[(len(listed) - 1) // 2], listed[len(listed) // 2]
    return EXACT.divide(EXACT.add(low, high), Decimal(2))


def log_ratio(vendor: Decimal, lab: Decimal, better: str) -> Decimal | None:
    """Natural logarithm of claim over lab's value, turned so that a flattering claim is positive; None unless both are positive."""
    if vendor <= 0 or lab <= 0:
        return None
    value = EXACT.subtract(EXACT.ln(vendor), EXACT.ln(lab))
    if better == "equal":
        return EXACT.abs(value)
    return value if better == "higher" else EXACT.minus(value)


def tolerance(row: Row, table: Table) -> Decimal:
    """Largest log ratio of a metric that passes: so many CVs."""
    return EXACT.multiply(table.factor, row.cv)


def compare(one: Measured, table: Table) -> Compared:
    """Test (b) on one metric of one case: the first value decides where it passes, else the median of all."""
    allowed = tolerance(one.row, table)
    claim, values = Decimal(one.vendor), [Decimal(value) for value in one.lab]
    first = log_ratio(claim, values[0], one.row.better) if values else None
    if first is None:
        return Compared(one, None, allowed, "missing")
    if first <= allowed:
        return Compared(one, first, allowed, "pass", under_claim=first < EXACT.minus(allowed))
    if len(values) <= table.reruns:
        return Compared(one, first, allowed, "pending")
    middle = log_ratio(claim, median(values[: table.reruns + 1]), one.row.better)
    if middle is None:
        return Compared(one, None, allowed, "missing")
    return Compared(one, middle, allowed, "fail" if middle > allowed else "pass")


def mean_of(measured: Iterable[Measured], table: Table) -> Mean:
    """Test (a): each case counts by the mean of its metrics' first log ratios.

    Both sides scatter, so a log ratio has standard deviation sqrt(2) CV; that of a case's mean is at most the mean over
    its metrics, however they hang together. limit = quantile * sqrt(sum of variances) / cases. A log ratio below minus the
    tolerance counts as minus the tolerance: one claim far too low must not pay for many that are too high.
    """
    by_case: dict[str, list[tuple[Decimal, Decimal]]] = {}
    for one in measured:
        first = log_ratio(Decimal(one.vendor), Decimal(one.lab[0]), one.row.better) if one.lab and one.row.in_mean else None
        if first is not None:
            floor = EXACT.minus(tolerance(one.row, table))
            by_case.setdefault(one.case, []).append((max(first, floor), one.row.cv))
    if not by_case:
        return Mean(0, None, None)
    total, variance = Decimal(0), Decimal(0)
    for pairs in by_case.values():
        count = Decimal(len(pairs))
        total = EXACT.add(total, EXACT.divide(total_of(ratio for ratio, _ in pairs), count))
        cv = EXACT.divide(total_of(cv for _, cv in pairs), count)
        variance = EXACT.add(variance, EXACT.multiply(Decimal(2), EXACT.multiply(cv, cv)))
    cases = Decimal(len(by_case))
    limit = EXACT.divide(EXACT.multiply(table.quantile, EXACT.sqrt(variance)), cases)
    return Mean(len(by_case), EXACT.divide(total, cases), limit)


def total_of(values: Iterable[Decimal]) -> Decimal:
    """Sum at 50 digits."""
    total = Decimal(0)
    for value in values:
        total = EXACT.add(total, value)
    return total


def stage(measured: Sequence[Measured], chosen: Iterable[str], table: Table) -> Stage:
    """Both tests; cases that the lab chose face test (b) and never count in (a)."""
    apart = frozenset(chosen)
    return Stage(tuple(compare(one, table) for one in measured), mean_of((one for one in measured if one.case not in apart), table))


def verdict(sample: Stage, full: Stage | None) -> tuple[str, list[str]]:
    """pass, fail, or partial, and why not pass.

    Either test that fails on the sample asks for a full re-run, which then decides by the same two tests: one failed
    case fails the whole run (docs/decisions/0010). While anything is missing, nothing passes.
    """
    if left := _open(sample, "sample"):
        return "partial", left
    doubts = _failed(sample, "sample")
    if not doubts:
        return "pass", []
    if full is None:
        return "partial", [*doubts, "full: every case must be run again"]
    if left := _open(full, "full re-run"):
        return "partial", [*doubts, *left]
    failed = _failed(full, "full re-run")
    return ("fail", [*doubts, *failed]) if failed else ("pass", [])


def _failed(one: Stage, where: str) -> list[str]:
    """Which tests a stage failed."""
    found = [f"mean: claims are too high as a whole in the {where}"] if one.mean.verdict == "fail" else []
    return found + [f"case: {name} was not reproduced in the {where}" for name in one.of("fail")]


def _open(one: Stage, where: str) -> list[str]:
    """What keeps a stage from being decided."""
    found = [f"missing: {name} has no value of the lab to compare with in the {where}" for name in one.of("missing")]
    found += [f"pending: {name} must be run again in the {where}" for name in one.of("pending")]
    if one.mean.verdict == "missing":
        found.append(f"missing: no case to take a mean over in the {where}")
    return found
