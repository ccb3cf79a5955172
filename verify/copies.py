"""Durations that cannot all be measured, since each is the other to the last digit."""

from __future__ import annotations

from collections.abc import Sequence

COARSE_NS = 1000  # times that are all whole microseconds may be of a clock that has no others
LEAST = 4  # durations: two that agree may be chance


def alike(durations: Sequence[int]) -> bool:
    """Whether these are several times the very same nanoseconds, by a clock that tells them."""
    return len(durations) >= LEAST and len(set(durations)) == 1 and durations[0] % COARSE_NS > 0
