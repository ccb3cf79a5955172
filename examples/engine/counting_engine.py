"""An engine of another package: after any token comes the next number. It shows the whole protocol and knows no words.

Copy this folder, put your own model behind `generate`, and `pip install` it beside the kit: a case then names it by `engine = "counting"`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from worker.engines import Chunk, Done, Facts, Item, Request


class CountingEngine:
    """Generates one token of every request at a time."""

    arrivals = False

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary
        self.facts = Facts(version="1.0", parameters=1)

    def generate(self, requests: Sequence[Request], output_tokens: int) -> Iterator[Item]:
        """Exactly `output_tokens` for every request, each chunk with the time at which its ids were there."""
        last = {request.number: request.prompt[-1] for request in requests}
        for _ in range(output_tokens):
            last = {number: (token + 1) % self.vocabulary for number, token in last.items()}
            now = time.monotonic_ns()
            yield from (Chunk(number, [token], now) for number, token in last.items())
        yield from (Done(number, now) for number in last)

    def unload(self) -> None:
        """There is nothing to give back."""


def load(case: dict[str, Any], device: object) -> CountingEngine:
    """An engine for the case; `device` is the torch device that the kit chose."""
    del device
    return CountingEngine(case["model"]["vocab_size"])
