"""Rules on rates: no faster than the chip's data sheet, nor than the run's own measured products and copies.

A peak is what the data sheet of a product promises, from the chip's description as it was sealed; products are told by the
name of the device, as events have it. The run's own rates are metrics of suite `specifications`. A model's work counts only
its matrix products, so that it is a floor of what was really computed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from verify.findings import Finding, warning
from verify.plausibility import Work

TERA = 10**12
NS_PER_S = 10**9
PRODUCT = "matmul_{mode}_{unit}"
OTHER = {"memory_bandwidth": "memory_bandwidth_gb_per_s", "memory": "", "power": ""}  # no products; nothing measures the last two
STAND_IN = {"float32": ("float32", "float32_tensor", "tf32")}  # a library may do the products of a mode in another


@dataclass(frozen=True, slots=True)
class Rate:
    """A metric of a case."""

    case: str
    metric: str
    value: Fraction
    unit: str


Ceilings = Mapping[tuple[str, str], tuple[Fraction, str]]


def ceilings(stated: Iterable[Mapping[str, Any]], devices: Collection[str]) -> Ceilings:
    """(metric, unit) -> the highest peak of the products that fit these devices, and its source."""
    found: dict[tuple[str, str], tuple[Fraction, str]] = {}
    for peak in stated:
        if any(fits(peak["name"], device) for device in devices):
            unit, value = peak["unit"], Fraction(str(peak["value"]))
            name = OTHER.get(peak["kind"], PRODUCT.format(mode=peak["kind"], unit=unit.lower()))
            if (name, unit) not in found or found[name, unit][0] < value:
                found[name, unit] = value, peak["source"]
    return found


def fits(pattern: str, device: str) -> bool:
    """Whether the pieces of a pattern between `.*` stand in the name in their order; `^` and `$` hold its ends, no other sign has
    a meaning.

    Patterns come with the run: a verifier never runs them as regular expressions.
    """
    pieces = pattern.removeprefix("^").removesuffix("$").split(".*")
    at = 0
    for piece in pieces:
        found = device.find(piece, at)
        if found < 0:
            return False
        at = found + len(piece)
    begins = not pattern.startswith("^") or device.startswith(pieces[0])
    return begins and (not pattern.endswith("$") or (device.endswith(pieces[-1]) and len(device) >= sum(map(len, pieces))))


def peaks(rates: Iterable[Rate], known: Ceilings, share: float) -> Iterator[Finding]:
    """Metrics above the peak of the same name and unit."""
    for rate in rates:
        value, source = known.get((rate.metric, rate.unit), (None, ""))
        if value is not None and rate.value > value * Fraction(str(share)):
            expected = f"at most {float(value):.6g} {rate.unit} ({source})"
            yield warning("plausible.peak", f"{rate.case}: {rate.metric}", expected, f"{float(rate.value):.6g}")


def work(cases: Mapping[str, Work], ceiling: Ceilings, rates: Iterable[Rate], limits: Mapping[str, Any]) -> Iterator[Finding]:
    """Cases whose products alone need more than the peak, or than the best that the run itself measured in that mode."""
    sheet = {key: value for key, (value, _) in ceiling.items()}
    own: dict[tuple[str, str], Fraction] = {}
    for rate in rates:
        own[rate.metric, rate.unit] = max(rate.value, own.get((rate.metric, rate.unit), Fraction(0)))
    for case, done in sorted(cases.items()):
        if done.duration_ns <= 0:
            continue
        rate_per_card = Fraction(done.flop * NS_PER_S, done.duration_ns * done.cards * TERA)
        for rule, known, share in (("plausible.peak", sheet, limits["over_peak"]), ("plausible.own_rate", own, limits["over_own"])):
            best = max((known[key] for key in _keys(done.mode) if key in known), default=None)
            if best is not None and rate_per_card > best * Fraction(str(share)):
                expected = f"at most {float(best):.6g} TFLOPS a card in {done.mode}"
                yield warning(rule, case, expected, f"{float(rate_per_card):.6g} for matrix products alone")


def _keys(mode: str) -> Iterator[tuple[str, str]]:
    for name in STAND_IN.get(mode, (mode,)):
        for unit in ("TFLOPS", "TOPS"):
            yield PRODUCT.format(mode=name, unit=unit.lower()), unit
