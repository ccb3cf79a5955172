"""Losses of a training that cannot all be measured: copied from other steps, all the same, or too low for weights that know nothing."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

STRETCH = 8  # losses in a row; each has some seven digits
COMPARED = 4096  # losses that are looked at, from step 0
LEAST = 20  # losses that are all the same by no chance
UNTRAINED = 0.5  # of the logarithm of the vocabulary, which equal chances for all words would give
COARSE_BITS = 8  # of a float32's significand that are 0 in most losses of a chip that rounds them


def copied(losses: Sequence[float]) -> tuple[int, int] | None:
    """(place, earlier place) of the first stretch that is there twice to the last digit; None where they hardly change at all."""
    seen: dict[tuple[float, ...], int] = {}
    for begin in range(len(losses) - STRETCH + 1):
        stretch = tuple(losses[begin : begin + STRETCH])
        if (first := seen.setdefault(stretch, begin)) != begin and 2 * len(set(stretch)) > STRETCH:
            return begin, first
    return None


def wrong(case: Mapping[str, Any], losses: Sequence[float]) -> Iterator[tuple[int, str, str]]:
    """(step, expected, found): what tells that losses, the mean over ranks from step 0, were not measured."""
    told = list(losses[: _moving(case)])
    if told and _blind(case) and (least := UNTRAINED * math.log(case["model"]["vocab_size"])) > told[0]:
        yield 0, f"a loss of at least {least:.3f} from random weights over {case['model']['vocab_size']} words", str(told[0])
    if len(told) >= LEAST and told[0] > 0 and len(set(told)) == 1:
        yield 1, "losses that change from step to step", f"{told[0]} in all of {len(told)}"
    if not coarse(told) and (found := copied(told)):
        yield found[0], "losses of its own", f"{STRETCH} as from step {found[1]}"


def _moving(case: Mapping[str, Any]) -> int:
    """Steps in which weights still move: none where a schedule has come down to a rate of 0."""
    settings = case["optimizer"]
    ends = settings["schedule"] != "constant" and not settings["final_learning_rate"]
    return min(COMPARED, settings["total_steps"] if ends else COMPARED)


def _blind(case: Mapping[str, Any]) -> bool:
    """Whether weights are random and each row has a target: packs may hold nothing but what is none, and so may InternEvo's rows."""
    return bool(case["weights"] == "random" and case["packing"] == "none" and case["data"] != "internevo-dummy")


def coarse(losses: Sequence[float]) -> bool:
    """Whether most losses have few digits, so that stretches may occur again."""
    return 2 * sum(_short(value) for value in losses) >= len(losses)


def _short(value: float) -> bool:
    try:
        return not int.from_bytes(struct.pack("<f", value)[:1], "little") & (2**COARSE_BITS - 1)
    except OverflowError:
        return True
