"""Losses of a supervised training that cannot all be measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from verify.findings import Finding, error

STRETCH = 8  # losses in a row; each has some seven digits


def copied(where: str, losses: Sequence[float]) -> Iterator[Finding]:
    """The first stretch that has the losses of other steps to the last digit, unless they hardly change at all."""
    seen: dict[tuple[float, ...], int] = {}
    for begin in range(len(losses) - STRETCH + 1):
        stretch = tuple(losses[begin : begin + STRETCH])
        if (first := seen.setdefault(stretch, begin)) != begin and 2 * len(set(stretch)) > STRETCH:
            yield error("stability.loss", f"{where}: from step {begin}", "losses of its own", f"{STRETCH} as from step {first}")
            return
