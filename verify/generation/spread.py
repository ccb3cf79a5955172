"""What a sample allows to be said: percentiles where enough of it lies beyond, else the mean with a bootstrap interval.

The interval is the 2.5 and 97.5 per cent quantiles of the means of resamples (Efron, Tibshirani, "An Introduction to the Bootstrap", 1993,
percentile interval). Requests of one round come and go together: a closed loop resamples its rounds, arrivals their requests.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction

from verify.metrics import Metric

BEYOND = 10  # values that must lie beyond a percentile: p50 from 20 requests, p90 from 100, p99 from 1000
PERCENTILES = (50, 90, 99)
RESAMPLES = 1000
SEED = 1024  # fixed, so that everybody computes the same interval


def percentiles(values: Sequence[int]) -> dict[int, int]:
    """Percentile -> value by nearest rank, of those that the sample allows."""
    ordered = sorted(values)
    allowed = [share for share in PERCENTILES if len(ordered) * (100 - share) >= BEYOND * 100]
    return {share: ordered[-(-len(ordered) * share // 100) - 1] for share in allowed}


def interval(groups: Sequence[Sequence[int]]) -> tuple[Fraction, Fraction]:
    """95 % interval of the mean, resampling groups."""
    sums = [(sum(group), len(group)) for group in groups]
    draw = random.Random(SEED).random  # noqa: S311 (a simulation)
    means = sorted(_resampled([sums[int(draw() * len(sums))] for _ in sums]) for _ in range(RESAMPLES))
    return means[RESAMPLES * 25 // 1000], means[RESAMPLES * 975 // 1000 - 1]


def _resampled(drawn: list[tuple[int, int]]) -> Fraction:
    return Fraction(sum(total for total, _ in drawn), sum(count for _, count in drawn))


def metrics(name: str, what: str, groups: Sequence[Sequence[int]], scale: int) -> dict[str, Metric]:
    """`name` with {} for the statistic -> its percentiles or its interval, in ms where `scale` is 10^6."""
    found = percentiles([value for group in groups for value in group])
    made = {
        name.format(f"p{share}"): Metric(Fraction(value, scale), "ms", f"{share}th percentile of {what}, nearest rank")
        for share, value in found.items()
    }
    if max(found, default=0) < PERCENTILES[-1] and len(groups) > 1:
        low, high = interval(groups)
        formula = "{} end of the 95 % bootstrap interval of the mean of " + what
        made[name.format("mean_low")] = Metric(low / scale, "ms", formula.format("lower"))
        made[name.format("mean_high")] = Metric(high / scale, "ms", formula.format("upper"))
    return made
