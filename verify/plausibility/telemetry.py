"""Rules on telemetry beyond its energy: a chip has mass, and draws more while it works than while it does not.

Whoever reads telemetry hands in the samples of one card in order of time; what a chip does not tell is None, and silent.
That energy counter and power agree is `verify.telemetry`'s own rule.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from verify.findings import Finding, warning

RULE = "plausible.telemetry"
ROUNDING_C = 2  # sensors that round to a degree, read on both sides of a step
NS_PER_S = 10**9


class Sample(Protocol):
    """One card at `t` nanoseconds of the host's monotonic clock."""

    @property
    def t(self) -> int: ...
    @property
    def power_mw(self) -> int | None: ...
    @property
    def temperature_c(self) -> int | None: ...


def check(where: str, samples: Sequence[Sample], busy: Sequence[tuple[int, int]], limits: Mapping[str, Any]) -> Iterator[Finding]:
    """What is wrong with one card's samples; `busy` are the spans (monotonic ns) in which it is claimed to have worked."""
    if len(samples) >= limits["least_samples"]:
        yield from _heat(where, samples, limits)
        yield from _idle(where, samples, busy, limits)


def _heat(where: str, samples: Sequence[Sample], limits: Mapping[str, Any]) -> Iterator[Finding]:
    """Each reading against the first that is `heat_over_s` later: what a sensor beside the work shows at once is no rate."""
    known = [(sample.t, sample.temperature_c) for sample in samples if sample.temperature_c is not None]
    second = 0
    for t, before in known:
        while second < len(known) and known[second][0] < t + limits["heat_over_s"] * NS_PER_S:
            second += 1
        if second == len(known):
            return
        later, after = known[second]
        if abs(after - before) > ROUNDING_C + limits["heat_k_per_s"] * (later - t) / NS_PER_S:
            found = f"{after - before} K in {(later - t) / NS_PER_S:.2f} s"
            yield warning(RULE, where, f"at most {limits['heat_k_per_s']} K/s", found)
            return


def _idle(where: str, samples: Sequence[Sample], busy: Sequence[tuple[int, int]], limits: Mapping[str, Any]) -> Iterator[Finding]:
    drawn: dict[bool, list[int]] = {True: [], False: []}
    for sample in samples:
        if sample.power_mw is not None:
            drawn[any(begin <= sample.t <= end for begin, end in busy)].append(sample.power_mw)
    if min(len(drawn[True]), len(drawn[False])) < limits["least_samples"]:
        return
    least, working = min(drawn[False]), statistics.median(drawn[True])
    if working < limits["idle_power_share"] * least:
        expected = f"at least {limits['idle_power_share']} times the least {least} mW outside of measured spans"
        yield warning(RULE, where, expected, f"{working:.0f} mW while working")
