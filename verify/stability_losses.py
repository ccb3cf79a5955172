"""Losses of a supervised training that cannot all be measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from verify import step_losses
from verify.findings import Finding, error


def copied(where: str, losses: Sequence[float]) -> Iterator[Finding]:
    """The first stretch that has the losses of other steps to the last digit, unless they hardly change at all."""
    if found := step_losses.copied(losses):
        yield error(
            "stability.loss", f"{where}: from step {found[0]}", "losses of its own", f"{step_losses.STRETCH} as from step {found[1]}"
        )
