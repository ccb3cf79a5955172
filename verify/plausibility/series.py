"""Rules on series of durations: repeated, scaled, too smooth, off the lattice of their clock.

Each threshold is a probability that honest noise looks so, worked out from the series themselves: a coarse or steady timer
makes chance repetitions likely, and the stretch that is needed grows by itself.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from verify.findings import Finding, warning

Series = Sequence[int]
Named = Mapping[str, Series]
Table = Mapping[str, Any]


def repeated(named: Named, limits: Table) -> Iterator[Finding]:
    """Stretches of the very same nanoseconds in two series, or in two places of one."""
    kept = {name: tuple(series[: limits["most_values"]]) for name, series in named.items()}
    for one, other in itertools.combinations_with_replacement(sorted(kept), 2):
        if found := _common(kept[one], kept[other], limits, same=one == other):
            first, second, length = found
            yield warning("plausible.repeated", f"{one}, {other}", "no stretch twice", f"{length} values at {first} and at {second}")


def scaled(named: Named, limits: Table) -> Iterator[Finding]:
    """Stretches of one series that are those of another, multiplied: successive ratios agree."""
    grids = {name: _ratios(series[: limits["most_values"]], limits["grid_ppm"]) for name, series in named.items()}
    for one, other in itertools.combinations(sorted(grids), 2):
        for shift in (0, 1):
            found = _common(grids[one][shift], grids[other][shift], limits, same=False)
            if found and (factor := named[other][found[1]] / named[one][found[0]]) != 1:
                where = f"{one}, {other}"
                yield warning("plausible.scaled", where, "durations of its own", f"{found[2] + 1} values, each times {factor:.6g}")
                break


def _ratios(series: Series, grid_ppm: float) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Logarithms of successive ratios on a grid, and on the same grid shifted by half: nearby values share one of the two."""
    logs = [math.log(value) if value > 0 else 0.0 for value in series]
    steps = [(later - earlier) * 1e6 / grid_ppm for earlier, later in itertools.pairwise(logs)]
    return tuple(math.floor(step) for step in steps), tuple(math.floor(step + 0.5) for step in steps)


def _common(one: tuple[int, ...], other: tuple[int, ...], limits: Table, *, same: bool) -> tuple[int, int, int] | None:
    """(place in one, place in other, length) of the first common stretch that is too long for chance."""
    length = _needed(one, other, limits)
    if length is None or length > min(len(one), len(other)):
        return None
    places: dict[tuple[int, ...], int] = {}
    for start in range(len(one) - length + 1):
        places.setdefault(one[start : start + length], start)
    for start in range(len(other) - length + 1):
        stretch = other[start : start + length]
        first = places.get(stretch)
        if first is not None and len(set(stretch)) >= limits["least_distinct"] and not (same and start - first < length):
            return first, start, length
    return None


def _needed(one: tuple[int, ...], other: tuple[int, ...], limits: Table) -> int | None:
    """Values that a common stretch must have so that chance gives one with less than the threshold; None for constant series.

    The chance that two values agree is taken from the series: within each, the share of pairs that do, and at least one in
    the number of values, since more cannot be told from so few.
    """
    if len(one) < limits["least_values"] or len(other) < limits["least_values"]:
        return None
    agree = max(_collision(one), _collision(other), 1 / min(len(one), len(other)))
    if agree > 0.5:
        return None
    return max(int(limits["least_values"]), math.ceil(math.log(limits["chance"] / (len(one) * len(other))) / math.log(agree)))


def _collision(series: tuple[int, ...]) -> float:
    """Chance that two of the values agree, or two of the steps from one to the next (for series that wander): the larger."""
    return max(_share(series), _share([later - earlier for earlier, later in itertools.pairwise(series)]))


def _share(values: Sequence[int]) -> float:
    return sum(count * (count - 1) for count in Counter(values).values()) / max(1, len(values) * (len(values) - 1))


def smooth(named: Named, limits: Table) -> Iterator[Finding]:
    """Series that vary less than any machine's."""
    for name, series in sorted(named.items()):
        if len(series) >= limits["least_values"] and (mean := statistics.fmean(series)) > 0:
            spread = statistics.pstdev(series, mean) / mean
            if spread < limits["least_cv"]:
                found = f"{spread:.2g} over {len(series)} values"
                yield warning("plausible.smooth", name, f"a coefficient of variation of at least {limits['least_cv']:.2g}", found)


def lattice(named: Named, limits: Table) -> Iterator[Finding]:
    """Series whose values avoid residues that another series of the same clock takes.

    A timer with a coarse tick leaves out residues in every series alike and is no fault; durations that were multiplied or
    drawn leave out others.
    """
    kept = {name: sorted(set(series))[:: max(1, len(set(series)) // limits["most_values"])] for name, series in sorted(named.items())}
    long = {name: values for name, values in kept.items() if len(values) >= limits["least_values"]}
    trials = len(long) * len(long) * limits["largest_modulus"]
    taken = {name: _residues(values, limits) for name, values in long.items()}
    for name, other in itertools.permutations(long, 2):
        for modulus, counts in taken[name].items():
            theirs = taken[other].get(modulus, Counter())
            avoided = [residue for residue in theirs if residue not in counts]
            hits = sum(theirs[residue] for residue in avoided)
            if _chance(modulus, len(avoided), hits, len(long[other]) / (len(long[name]) + len(long[other]))) * trials < limits["chance"]:
                found = f"{len(avoided)} of {modulus} residues never, which {hits} of {len(long[other])} values there take"
                yield warning("plausible.lattice", name, f"the lattice of {other}", found)
                break


def _residues(values: Series, limits: Table) -> dict[int, Counter[int]]:
    """Modulus -> how often each residue is taken, where the middle half of the sorted values goes round it a hundred times."""
    middle = values[len(values) * 3 // 4] - values[len(values) // 4]
    most = min(limits["largest_modulus"], middle // 100)
    return {modulus: Counter(value % modulus for value in values) for modulus in range(2, most + 1)}


def _chance(modulus: int, avoided: int, hits: int, share: float) -> float:
    """Upper bound of the probability that some so many residues hold so many values, and none of them is of the first series.

    Each value there is of the second with its share of all values; the residues may be any.
    """
    ways = math.lgamma(modulus + 1) - math.lgamma(avoided + 1) - math.lgamma(modulus - avoided + 1)
    return math.exp(min(0.0, ways + hits * math.log(share)))
