"""InternEvo's built-in dummy dataset, regenerated number by number (facts 1.1); no corpus, so its loss goes to nothing.

Sample i is n_i, r_i and then 0 .. n_i - 1 repeated r_i times, cut to the length of a sequence; all n are drawn from 1 to 29
before all r from 10 to 199, by numpy's legacy generator with seed 1999.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from .packs import Packs

NAME = "internevo-dummy"
SEED = 1999
SAMPLES = 1_000_000


class Dummy(Packs):
    """The dataset as units of a case."""

    def __init__(self, case: dict[str, Any], samples: int = SAMPLES) -> None:
        self.periods, self.repeats = drawn(samples)
        self.sha256 = hashlib.sha256(self.periods.astype("<i8").tobytes() + self.repeats.astype("<i8").tobytes()).hexdigest()
        length = case["model"]["sequence_length"]
        super().__init__(np.minimum(self.periods * self.repeats + 2, length), self.tokens_of, case)

    def tokens_of(self, index: int) -> Any:
        """Tokens of one sample."""
        period, repeat = int(self.periods[index]), int(self.repeats[index])
        return np.append([period, repeat], np.tile(np.arange(period), repeat))[: self.length]


def drawn(samples: int) -> tuple[Any, Any]:
    """(n, r) of every sample."""
    random = np.random.RandomState(SEED)
    return random.randint(1, 30, size=samples), random.randint(10, 200, size=samples)
