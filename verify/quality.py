"""Whether pictures of true weights look as they should: two distances to held-out pictures, each in its band.

A distance is the unbiased squared maximum mean discrepancy under the kernel (x.y / d + 1)^3 (Binkowski, Sutherland, Arbel, Gretton,
"Demystifying MMD GANs", 2018). Features are no network's but colour (means) and texture (deviations) of 8 x 8 parts: exact for anybody.
Above a band the model is broken; below it the pictures are better than this model makes them: another's, or the training set.
"""

from __future__ import annotations

import hashlib
from fractions import Fraction
from itertools import combinations, product
from typing import Any, NamedTuple

from verify.data import table

DATA = "baselines/text_to_image.toml"
PARTS = 8
VALUES = PARTS * PARTS * 3
MOST_MILLI = 255_000
FEATURES = {"colour": (127_500, 127_500), "texture": (0, 32_000)}  # what is 0 and what is 1, in thousandths of a byte
_FIELDS = ("batch", "side", "steps", "guidance", "prompt", "scheduler")

Grids = list[list[int]]


class Band(NamedTuple):
    """(least, most) of each distance, least None where too near cannot be told; the held-out pictures that distances are to."""

    ends: dict[str, tuple[Fraction | None, Fraction]]
    held_out: dict[str, Grids]


def key(architecture: str, case: dict[str, Any], weights_sha256: str) -> str:
    """What a band belongs to: weights and what decides how pictures look, but no seed, precision or way to compute."""
    text = "/".join([architecture, weights_sha256, *(str(case[field]) for field in _FIELDS)])
    return hashlib.sha256(text.encode()).hexdigest()


def band(architecture: str, case: dict[str, Any], weights_sha256: str | None) -> Band | None:
    """The stored band; None for random weights and for weights whose band nobody has proven."""
    if weights_sha256 is None:
        return None
    wanted = key(architecture, case, weights_sha256)
    row = next((row for row in table(DATA).get("band", []) if row["key"] == wanted), None)
    if row is None:
        return None
    ends = {name: (_exact(row[name].get("least")), Fraction(str(row[name]["most"]))) for name in FEATURES}
    return Band(ends, {name: table(row["held_out"])[name] for name in FEATURES})


def _exact(value: float | None) -> Fraction | None:
    return None if value is None else Fraction(str(value))


def judge(band: Band, found: dict[str, Fraction]) -> dict[str, str]:
    """What is wrong with these distances, by feature: `too good` or `too bad`."""
    wrong = {name: "too bad" for name, (_, most) in band.ends.items() if found[name] > most}
    return wrong | {name: "too good" for name, (least, _) in band.ends.items() if least is not None and found[name] < least}


def distances(found: dict[str, Grids], held_out: dict[str, Grids]) -> dict[str, Fraction]:
    """By feature, of at least two pictures each; 0 on average for pictures of one origin, and so at times below."""
    return {name: _distance(found[name], held_out[name], *scale) for name, scale in FEATURES.items()}


def _distance(found: Grids, held_out: Grids, zero: int, one: int) -> Fraction:
    ours, theirs = ([[value - zero for value in grid] for grid in grids] for grids in (found, held_out))
    unit = VALUES * one**2
    between = Fraction(sum(_kernel(a, b, unit) for a, b in product(ours, theirs)), len(ours) * len(theirs))
    return (_within(ours, unit) + _within(theirs, unit) - 2 * between) / unit**3


def _within(grids: Grids, unit: int) -> Fraction:
    return Fraction(2 * sum(_kernel(a, b, unit) for a, b in combinations(grids, 2)), len(grids) * (len(grids) - 1))


def _kernel(a: list[int], b: list[int], unit: int) -> int:
    """The kernel times unit^3, so that it is whole."""
    return (sum(x * y for x, y in zip(a, b, strict=True)) + unit) ** 3
