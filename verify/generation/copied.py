"""Rounds that cannot all be measured: the times of one are those of another, to the last digit."""

from __future__ import annotations

from collections.abc import Iterator

from verify import copies
from verify.findings import Finding, error
from verify.generation.requests import Measured, Request
from verify.metrics import Case

LEAST_PIECES = 16  # chunks of every request: their sum alone takes thousands of values


def rules(case: Case, measured: Measured) -> Iterator[Finding]:
    """First token, last token and the sum of all chunks' times of every request, since its submit, agree in two rounds."""
    rounds: dict[int, list[Request]] = {}
    for request in measured.requests.values():
        rounds.setdefault(request.round, []).append(request)
    first: dict[tuple[tuple[int, ...], ...], int] = {}
    for number, group in rounds.items():
        times = tuple(sorted(request.shape_ns for request in group))
        if min(request.pieces for request in group) < LEAST_PIECES or not any(ns % copies.COARSE_NS for each in times for ns in each):
            continue
        if (other := first.setdefault(times, number)) != number:
            yield error("text_generation.copied", f"{case['id']}: round {number}", "times of its own", f"those of round {other}")
