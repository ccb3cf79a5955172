"""What the sampler saw while a case ran, and the energy of the case's measured windows.

Energy is the difference of a card's own counter where it has one, else its power integrated over time. A counter that went
back was reset: the piece across it counts by power, or nothing is told where there is none. Without telemetry there is no
energy, and nothing else changes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise

import msgspec

from verify.events import Natural, Positive
from verify.files import Evidence
from verify.findings import Finding, Refused, notice, warning
from verify.metrics import Case, Metric, Series, Window
from verify.metrics import series as thinned
from verify.strict import loads

SEGMENT = re.compile(r"telemetry-([0-9]{5})\.jsonl")
NS_PER_S = 10**9
MW_NS_PER_J = 10**12
MJ_PER_J = 1000
GAP_INTERVALS = 20  # a hole of so many intervals in a window leaves its energy unknown
UNDESCRIBED = "the chip describes no telemetry"
AGREEMENT = Fraction(1, 5)  # counter and integral differ by the lag of a power reading; more is worth a look (design/telemetry.md)
AGREEMENT_FROM_NS = 5 * NS_PER_S


class Entry(msgspec.Struct, frozen=True, tag_field="e", forbid_unknown_fields=True):
    """One line of telemetry; `t` is the host's monotonic clock in nanoseconds."""

    t: Natural


class Opened(Entry, frozen=True, tag="opened"):
    """Sampling began; `missing` says why no card is read."""

    interval_ms: Positive
    cards: Natural
    missing: str | None


class Card(Entry, frozen=True, tag="card"):
    """One reading of one card, half-way through the `read_ns` that reading all cards took; absent is what it does not tell."""

    card: Natural
    read_ns: Natural
    power_mw: Natural | None = None
    energy_mj: Natural | None = None
    clock_mhz: Natural | None = None
    memory_clock_mhz: Natural | None = None
    temperature_c: Natural | None = None
    utilisation_percent: Natural | None = None
    memory_used_bytes: Natural | None = None
    throttle_reasons: Natural | None = None
    ecc_errors: Natural | None = None


class Host(Entry, frozen=True, tag="host"):
    """Processor ticks since the system's start, memory in bytes."""

    cpu_busy_ticks: Natural
    cpu_total_ticks: Natural
    memory_bytes: Positive
    memory_available_bytes: Natural


class Fault(Entry, frozen=True, tag="fault"):
    """Reading the cards failed and was given up."""

    reason: str


class Closed(Entry, frozen=True, tag="closed"):
    """Sampling ended in order."""

    samples: Natural


AnyEntry = Opened | Card | Host | Fault | Closed


@dataclass(slots=True)
class Seen:
    """Telemetry of one attempt."""

    interval_ns: int = 0
    missing: str | None = None
    cards: dict[int, list[Card]] = field(default_factory=dict)
    hosts: list[Host] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    closed: bool = False


def read(source: Evidence, folder: str) -> Seen | None:
    """The telemetry beside an attempt's events, or None where there is none; Refused where it is not what the sampler writes."""
    numbered = {int(match[1]): name for name in source.names(folder) if (match := SEGMENT.fullmatch(name))}
    if not numbered:
        return None
    if sorted(numbered) != list(range(len(numbered))):
        raise Refused("telemetry.segments", folder, "segments numbered from 0 without a gap", sorted(numbered))
    seen = Seen()
    last: Entry | None = None
    for number in sorted(numbered):
        path = f"{folder}/{numbered[number]}"
        for line, data in enumerate(source.lines(path), start=1):
            entry = _parse(data, f"{path}:{line}")
            _check(last, entry, f"{path}:{line}")
            _take(seen, entry)
            last = entry
    return seen


def _parse(line: bytes, where: str) -> Entry:
    try:
        entry: Entry = msgspec.convert(loads(line, where), AnyEntry)
    except msgspec.ValidationError as bad:
        raise Refused("telemetry.schema", where, "a line of telemetry with exactly its fields", str(bad)) from None
    return entry


def _check(last: Entry | None, entry: Entry, where: str) -> None:
    if isinstance(entry, Opened) != (last is None):
        raise Refused("telemetry.order", where, "`opened` as the first line and only there", type(entry).__name__)
    if isinstance(last, Closed):
        raise Refused("telemetry.order", where, "nothing after `closed`", type(entry).__name__)
    if last is not None and entry.t < last.t:
        raise Refused("telemetry.order", where, f"t of at least {last.t}", entry.t)


def _take(seen: Seen, entry: Entry) -> None:
    match entry:
        case Opened():
            seen.interval_ns, seen.missing = entry.interval_ms * 10**6, entry.missing
        case Card():
            seen.cards.setdefault(entry.card, []).append(entry)
        case Host():
            seen.hosts.append(entry)
        case Fault():
            seen.faults.append(entry.reason)
        case Closed():
            seen.closed = True


@dataclass(frozen=True, slots=True)
class Energy:
    """Energy of one card over a window, and where it comes from."""

    joules: Fraction
    from_counter: bool
    resets: int = 0


def _pieces(samples: list[Card], begin: int, end: int) -> Iterator[tuple[Card, Card, int]]:
    """Neighbouring samples with the nanoseconds of the window that lie between them."""
    for first, second in pairwise(samples):
        shared = min(second.t, end) - max(first.t, begin)
        if shared > 0:
            yield first, second, shared


def covered(samples: list[Card], begin: int, end: int, gap_ns: int) -> bool:
    """Whether samples reach over the window without a hole."""
    within = [(first.t, second.t) for first, second, _ in _pieces(samples, begin, end)]
    return bool(within) and within[0][0] <= begin and within[-1][1] >= end and all(b - a <= gap_ns for a, b in within)


def energy(samples: list[Card], begin: int, end: int) -> Energy | None:
    """Energy of a card from `begin` to `end` (monotonic ns); None where it tells neither energy nor power throughout."""
    if all(sample.energy_mj is not None for sample in samples):
        return _by_counter(samples, begin, end)
    return _by_power(samples, begin, end)


def _by_power(samples: list[Card], begin: int, end: int) -> Energy | None:
    """Trapezoids of power."""
    total = Fraction(0)
    for first, second, shared in _pieces(samples, begin, end):
        if first.power_mw is None or second.power_mw is None:
            return None
        total += Fraction((first.power_mw + second.power_mw) * shared, 2 * MW_NS_PER_J)
    return Energy(total, from_counter=False)


def _by_counter(samples: list[Card], begin: int, end: int) -> Energy | None:
    """Differences of the counter, shared out by time where a piece reaches beyond the window."""
    total, resets = Fraction(0), 0
    for first, second, shared in _pieces(samples, begin, end):
        difference = (second.energy_mj or 0) - (first.energy_mj or 0)
        if difference >= 0:
            total += Fraction(difference, MJ_PER_J) * Fraction(shared, second.t - first.t)
            continue
        resets += 1
        piece = _by_power([first, second], begin, end)
        if piece is None:
            return None
        total += piece.joules
    return Energy(total, from_counter=True, resets=resets)


@dataclass(frozen=True, slots=True)
class _Total:
    joules: Fraction
    source: str


def _total(case: Case, seen: Seen, begin: int, end: int) -> tuple[_Total | None, list[Finding]]:
    """Energy of all cards of the case over a window, with what there is to say about it."""
    where = f"{case['id']}: telemetry"
    total, resets, counters = Fraction(0), 0, []
    for card in range(case["cards"]):
        samples = seen.cards.get(card, [])
        if not covered(samples, begin, end, GAP_INTERVALS * seen.interval_ns):
            return None, [warning("telemetry.coverage", where, f"readings of card {card} over the whole window", "a hole, or none")]
        found = energy(samples, begin, end)
        if found is None:
            return None, []
        total, resets = total + found.joules, resets + found.resets
        counters.append(found.from_counter)
    said = [warning("telemetry.reset", where, "a counter that only grows", f"{resets} resets, bridged by power")] if resets else []
    source = "counter of the device" if all(counters) else "power integrated"
    return _Total(total, source), [*said, *(_disagreement(case, seen, begin, end, total) if all(counters) else ())]


def _disagreement(case: Case, seen: Seen, begin: int, end: int, counted: Fraction) -> Iterator[Finding]:
    """Counter and integral of power tell the same story over a window that is long enough."""
    if end - begin < AGREEMENT_FROM_NS:
        return
    pieces = [_by_power(seen.cards[card], begin, end) for card in range(case["cards"])]
    if any(piece is None for piece in pieces):
        return
    integrated = sum((piece.joules for piece in pieces if piece), Fraction(0))
    if abs(integrated - counted) > AGREEMENT * counted:
        expected = f"about {float(counted):.6g} J, as the counter has it"
        yield warning("telemetry.energy", f"{case['id']}: telemetry", expected, f"{float(integrated):.6g} J by power")


def metrics(case: Case, seen: Seen | None, windows: list[Window], origin_ns: int) -> tuple[dict[str, Metric], list[Finding]]:
    """Energy in joules, mean power in watts and energy per unit of work for each window; `origin_ns` is case_start's monotonic_ns."""
    if seen is None or seen.missing == UNDESCRIBED:
        return {}, []
    if seen.missing is not None:
        return {}, [notice("telemetry.missing", f"{case['id']}: telemetry", "readings of the cards", seen.missing)]
    found: dict[str, Metric] = {}
    said: list[Finding] = []
    if not seen.closed or seen.faults:
        said.append(warning("telemetry.closed", f"{case['id']}: telemetry", "sampling to the end", seen.faults or "no last line"))
    for window in windows:
        total, more = _total(case, seen, origin_ns + window.begin_ns, origin_ns + window.end_ns)
        said += [finding for finding in more if finding not in said]
        if total is not None:
            found |= _of_window(window, total)
    return found, said


def _of_window(window: Window, total: _Total) -> dict[str, Metric]:
    prefix = f"{window.name}_" if window.name else ""
    seconds = Fraction(window.end_ns - window.begin_ns, NS_PER_S)
    made = {
        f"{prefix}energy_j": Metric(total.joules, "J", f"measured window, all cards: {total.source}"),
        f"{prefix}power_w": Metric(total.joules / seconds, "W", "energy / time of the measured window"),
    }
    for unit, count in window.work.items():
        if count:
            made[f"{prefix}energy_per_{unit}_j"] = Metric(total.joules / count, f"J/{unit}", f"energy / {unit}s of the measured window")
    return made


Join = Callable[[list[int]], int]
CHARTED: dict[str, tuple[str, int, str, Join]] = {
    "power_w": ("power_mw", 1000, "W", sum),
    "temperature_c": ("temperature_c", 1, "degC", max),
    "clock_mhz": ("clock_mhz", 1, "MHz", min),
}


def series(seen: Seen | None) -> dict[str, Series]:
    """For charts, reading by reading: power of all cards, the hottest card, the slowest clock; nothing where a card does not tell it."""
    found: dict[str, Series] = {}
    readings = list(zip(*seen.cards.values(), strict=False)) if seen else []
    for name, (field_, scale, unit, join) in CHARTED.items():
        told = [[getattr(card, field_) for card in reading] for reading in readings]
        if told and all(value is not None for values in told for value in values):
            found[name] = thinned([Fraction(join(values), scale) for values in told], unit)
    return found
