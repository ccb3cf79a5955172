"""Every formula of report 0.2.1 on exact numbers; F-numbers as in docs/formulas.md, where each is worked out by hand.

`test` is the chip under test, `base` the baseline. Nothing here knows a table, a file or a weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from decimal import Context, Decimal
from fractions import Fraction

_LOGS = Context(prec=40)


def mean(values: Sequence[Fraction]) -> Fraction:
    """F4, F9, F14, F15, F19: arithmetic mean of at least one value."""
    return sum(values, Fraction(0)) / len(values)


def weighted(pairs: Iterable[tuple[Fraction, Fraction]]) -> Fraction:
    """F1, F5, F7, F8, F14, F18, F22: sum of weight * score, no division by the sum of weights."""
    return sum((weight * score for weight, score in pairs), Fraction(0))


def tgs(sequence_tokens: int, global_batch: int, iteration_s: Fraction, cards: int) -> Fraction:
    """F2: tokens a second and card."""
    return sequence_tokens * global_batch / (iteration_s * cards)


def ratio(test: Fraction, base: Fraction) -> Fraction:
    """F3, F6, F18, F22, where more is better: test / base, not capped."""
    return test / base


def inverse(test: Fraction, base: Fraction) -> Fraction:
    """F8, F18, F22, where less is better: base / test, not capped."""
    return base / test


def communication_gbps(factor: int, size_bytes: int, duration_s: Fraction) -> Fraction:
    """Decimal gigabits a second: factor 2 for all_reduce, ranks for all_gather (size of one rank's input), else 1."""
    return Fraction(factor * size_bytes * 8) / duration_s / 10**9


def loss_variance(test: Sequence[Fraction], base: Sequence[Fraction]) -> Fraction:
    """F10: population variance of the difference of two loss curves of the same length."""
    differences = [ours - theirs for ours, theirs in zip(test, base, strict=True)]
    centre = mean(differences)
    return mean([(difference - centre) ** 2 for difference in differences])


def variance_score(variance: Fraction) -> Fraction:
    """F11: 1 - min(1, variance)."""
    return 1 - min(Fraction(1), variance)


def crash_score(crashes: Fraction) -> Fraction:
    """F12: 1 / (crashes + 1) squared."""
    return 1 / (crashes + 1) ** 2


def longest_score(hours: Fraction, asked_hours: Fraction) -> Fraction:
    """F13: longest hours without a fault / hours asked for (72), at most 1."""
    return min(Fraction(1), hours / asked_hours)


def below(test: Fraction, target: Fraction) -> Fraction:
    """F1, one target, strict as printed: 1 where test < target, else 0."""
    return Fraction(test < target)


def within(test: Fraction, target: Fraction, tolerance: Fraction) -> Fraction:
    """F1, one target, the lab's later rule: 1 where test is at most target * (1 + tolerance), else 0."""
    return Fraction(test <= target * (1 + tolerance))


def tier(latency_ms: Fraction, bounds_ms: Sequence[Fraction | None]) -> int:
    """F16: index of the half-open, right-closed interval that holds the latency; the last bound is None (no limit)."""
    return next(index for index, bound in enumerate(bounds_ms) if bound is None or latency_ms <= bound)


def serves(latency_ms: Fraction, index: int, bounds_ms: Sequence[Fraction | None], *, cumulative: bool) -> bool:
    """F17: whether a group counts for a tier: latency at most its upper bound, or inside its interval alone."""
    own = tier(latency_ms, bounds_ms)
    return own <= index if cumulative else own == index


def per_baseline_cards(actual: Fraction, cards: int, base_cards: int) -> Fraction:
    """F21: what was measured, scaled to the baseline's number of cards."""
    return actual * base_cards / cards


def geometric_mean(values: Sequence[Fraction]) -> Fraction:
    """Ruling 12, unofficial: to 40 digits, correctly rounded logarithms, so the same everywhere; 0 where a value is 0."""
    if any(value == 0 for value in values):
        return Fraction(0)
    logs = [_LOGS.ln(_LOGS.divide(Decimal(value.numerator), Decimal(value.denominator))) for value in values]
    total = Decimal(0)
    for log in logs:
        total = _LOGS.add(total, log)
    return Fraction(_LOGS.exp(_LOGS.divide(total, Decimal(len(logs)))))


Compared = Callable[[Fraction, Fraction], Fraction]
Alone = Callable[[Fraction], Fraction]
COMPARED: dict[str, Compared] = {"ratio": ratio, "inverse": inverse, "below": below}
LIMITED: dict[str, Compared] = {"longest": longest_score}
ALONE: dict[str, Alone] = {"variance": variance_score, "crash": crash_score}
RATIOS = ("ratio", "inverse")
