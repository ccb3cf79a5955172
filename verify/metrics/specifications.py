"""Base specifications (report table 4): rates of matrix products, memory and copies. Shown, never scored (F25).

A rate is work over the median raw duration of the measured repeats, best of the case's shapes. Sampled entries of every
product are recomputed here in whole numbers; what they may differ by is baselines/specifications.toml, and a lower
precision than the one claimed differs by more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Annotated, Any, Literal

import msgspec

from verify import copies
from verify.data import table
from verify.events import Environment, Event, Natural, Positive, Sha256
from verify.findings import Finding, Kept, error
from verify.metrics import Blocks, Case, Metric, Window, median, root_shown, unchanged
from verify.plausibility import Traits
from verify.words import places, seed, word

SECTION = "specifications"
PART = "specifications"
NS_PER_S = 10**9
WARMUPS = 2
ESTIMATE_CALLS = 3  # of the second warm-up, whose time says how many calls a repeat has
MOST_CALLS = 100_000
PATTERN = 2**20
PATTERN_SHIFT = 10
CLOCK_DRIFT = Fraction(1, 1000)
OVERHEAD_SHARE, OVERHEAD_NS = Fraction(1, 4), 5_000_000  # starting a repeat and waiting for it, in the median, takes no more
RESIDUAL_SHARE = Fraction(1, 100)  # of the sampled error: both estimate the same, of 64 entries and of all
EXACT = Fraction(1, 10**10)  # the decimal text of a double differs from it by less
LIMITS = "baselines/specifications.toml"

RULES = {
    "specifications.facts": "the environment and the size of the memory, once each",
    "specifications.series": "for each mode and shape, and for each copy: two warm-ups, the case's repeats, a check; or once `unavailable`",
    "specifications.calls": "a repeat has the calls that the second warm-up's time and the case's `repeat_ms` give",
    "specifications.time": "a repeat begins after the one before ended, the device's time agrees with the host's, by one clock throughout",
    "specifications.places": "sampled entries are those that the output's digest names, and no digest is that of two products",
    "specifications.product": "sampled entries are the exact product's, within what the precision of the mode allows",
    "specifications.residual": "the Freivalds residual over all is within what the mode's precision allows, and sees sampled errors",
    "specifications.copied": "sampled words of a copy are those of its source",
}

Shape = Annotated[list[Positive], msgspec.Meta(min_length=3, max_length=3)]


class Memory(Event, frozen=True, tag="memory"):
    """Memory of one card in bytes."""

    size_bytes: Positive


class Matmul(Event, frozen=True, tag="matmul"):
    """`calls` products of [m, k] by [k, n], which took `duration_ns` by `clock`."""

    mode: str
    shape: Shape
    repeat: Natural
    phase: Literal["warmup", "measured"]
    calls: Positive
    begin_ns: Natural
    duration_ns: Positive
    clock: Literal["device", "host"]


class Product(Event, frozen=True, tag="product"):
    """Entries of the last product at `places` (row-major), and the residual of a Freivalds check over all of it."""

    mode: str
    shape: Shape
    output_sha256: Sha256
    places: list[Natural]
    values: list[Fraction]
    residual: Fraction


class Copy(Event, frozen=True, tag="copy"):
    """`calls` copies of `size_bytes`, which took `duration_ns` by `clock`."""

    kind: str
    size_bytes: Positive
    repeat: Natural
    phase: Literal["warmup", "measured"]
    calls: Positive
    begin_ns: Natural
    duration_ns: Positive
    clock: Literal["device", "host"]


class Copied(Event, frozen=True, tag="copied"):
    """Elements of the target at `places` after the last copy."""

    kind: str
    size_bytes: Positive
    places: list[Natural]
    values: list[Natural]


class Unavailable(Event, frozen=True, tag="unavailable"):
    """A mode or a copy that the device or its software does not have."""

    what: str
    reason: str


EVENTS: tuple[type[Event], ...] = (Memory, Matmul, Product, Copy, Copied, Unavailable)
Key = tuple[str, tuple[int, ...]]
MOVED = {"host_to_device": 1, "device_to_host": 1, "on_card": 2, "stream": 3, "card_to_card": 2}


@dataclass(slots=True)
class Series:
    """Repeats of one mode and shape, or of one copy."""

    repeats: list[Matmul | Copy] = field(default_factory=list)
    check: Product | Copied | None = None

    @property
    def measured(self) -> list[Matmul | Copy]:
        """Without warm-ups."""
        return self.repeats[WARMUPS:]

    def call_ns(self) -> Fraction:
        """Median over repeats of the time of one call."""
        return median([Fraction(repeat.duration_ns, repeat.calls) for repeat in self.measured])


@dataclass(slots=True)
class Measured:
    """All series, what is not there, and what was wrong with single events."""

    case: Case
    series: dict[Key, Series] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)
    memory_bytes: list[int] = field(default_factory=list)
    environments: int = 0
    devices: set[str] = field(default_factory=set)
    findings: Kept = field(default_factory=Kept)
    ended_ns: int = 0

    def wrong(self, rule: str, where: object, expected: object, found: object) -> None:
        """Note a finding of this suite."""
        self.findings.add(error(f"specifications.{rule}", f"{self.case['id']}: {where}", expected, found))


condense = unchanged


def measure(case: Case, blocks: Blocks) -> Measured:
    """Sort the events of the one rank into series."""
    measured = Measured(case)
    for _, events in blocks:
        for event in events:
            _take(measured, event)
    return measured


def _take(measured: Measured, event: Event) -> None:
    match event:
        case Matmul():
            _repeat(measured, (event.mode, tuple(event.shape)), event)
        case Copy():
            _repeat(measured, (event.kind, (event.size_bytes,)), event)
        case Product():
            measured.series.setdefault((event.mode, tuple(event.shape)), Series()).check = event
        case Copied():
            measured.series.setdefault((event.kind, (event.size_bytes,)), Series()).check = event
        case Unavailable():
            measured.unavailable[event.what] = event.reason
        case Memory():
            measured.memory_bytes.append(event.size_bytes)
        case Environment():
            measured.environments += 1
            measured.devices.add(event.device_name)


def _repeat(measured: Measured, key: Key, event: Matmul | Copy) -> None:
    series = measured.series.setdefault(key, Series())
    number = len(series.repeats)
    expected = (number, "warmup" if number < WARMUPS else "measured")
    if series.check or (event.repeat, event.phase) != expected:
        measured.wrong("series", key, f"repeat, phase = {expected}, before the check", (event.repeat, event.phase))
    wall_ns = event.t - event.begin_ns
    if not measured.ended_ns <= event.begin_ns < event.t:
        measured.wrong("time", key, f"{measured.ended_ns} <= begin_ns < t = {event.t}", event.begin_ns)
    if event.duration_ns > wall_ns * (1 + CLOCK_DRIFT):
        measured.wrong("time", key, f"a device's time of at most the host's {wall_ns} ns", event.duration_ns)
    series.repeats.append(event)
    measured.ended_ns = event.t


def _asked(case: Case) -> Iterator[tuple[str, tuple[int, ...]]]:
    for mode in case["modes"]:
        for shape in case["shapes"]:
            yield mode, tuple(shape)
    for kind in case["copies"]:
        yield kind, (case["copy_bytes"] // 4 * 4,)


def rules(case: Case, measured: Measured) -> Iterator[Finding]:
    """What is wrong with the case as a whole, after what was wrong with its events."""
    yield from measured.findings
    if (measured.environments, len(measured.memory_bytes)) != (1, 1):
        yield error("specifications.facts", case["id"], "environment and memory, once each", (measured.environments, measured.memory_bytes))
    asked = set(_asked(case))
    if strange := measured.unavailable.keys() - {name for name, _ in asked}:
        yield error("specifications.series", case["id"], "unavailable modes and copies of the case only", sorted(strange))
    for key in sorted(asked | measured.series.keys()):
        where = f"{case['id']}: {key[0]} {'x'.join(map(str, key[1]))}"
        series = measured.series.get(key, Series())
        if key[0] in measured.unavailable:
            continue
        if key not in asked or series.check is None or len(series.repeats) != WARMUPS + case["repeats"]:
            found = f"{len(series.repeats)} repeats, check: {series.check is not None}"
            yield error("specifications.series", where, f"a series of the case: {case['repeats']} repeats and a check", found)
            continue
        yield from _calls(case, series, where)
        yield from _clocks(series, where)
        if isinstance(series.check, Product):
            yield from _product(case, series.check, where)
        elif series.check.values != _copied(case, series.check):
            yield error("specifications.copied", where, f"the source's {_copied(case, series.check)}", series.check.values)
    yield from _digests(case, measured)
    clocks = {repeat.clock for series in measured.series.values() for repeat in series.repeats}
    if len(clocks) > 1:
        yield error("specifications.time", case["id"], "one clock for all repeats", sorted(clocks))


def _digests(case: Case, measured: Measured) -> Iterator[Finding]:
    """Outputs of different operands have different bytes; modes of one operand may have the same product."""
    first: dict[str, tuple[object, ...]] = {}
    for (mode, shape), series in sorted(measured.series.items()):
        limit = limits(mode)
        if isinstance(series.check, Product) and limit is not None:
            mine = (shape, limit["bits"], limit["whole"])
            if (other := first.setdefault(series.check.output_sha256, mine)) != mine:
                yield error("specifications.places", f"{case['id']}: {mode} {shape}", "an output of its own", f"that of {other[0]}")


def _calls(case: Case, series: Series, where: str) -> Iterator[Finding]:
    """One call, then three; then as many as last about `repeat_ms` by the time of these, in the worker's own arithmetic."""
    asked = math.ceil(case["repeat_ms"] * 1e6 * ESTIMATE_CALLS / series.repeats[1].duration_ns)
    expected = [1, ESTIMATE_CALLS] + [min(MOST_CALLS, max(1, asked))] * case["repeats"]
    found = [repeat.calls for repeat in series.repeats]
    if found != expected:
        yield error("specifications.calls", where, f"calls {expected}", found)


def _clocks(series: Series, where: str) -> Iterator[Finding]:
    walls = [repeat.t - repeat.begin_ns for repeat in series.measured]
    if copies.alike(walls):
        yield error("specifications.time", where, "repeats of their own", f"{len(walls)} of {walls[0]} ns each by the host's clock")
    device_ns = median([repeat.duration_ns for repeat in series.measured])
    host_ns = median(walls)
    if device_ns < host_ns * (1 - OVERHEAD_SHARE) - OVERHEAD_NS:
        yield error("specifications.time", where, f"a device's time of about the host's {float(host_ns):.0f} ns", float(device_ns))


def limits(mode: str) -> dict[str, Any] | None:
    """Bits of the operands and the largest error of a mode, as baselines/specifications.toml has them."""
    return next((row for row in table(LIMITS)["mode"] if row["name"] == mode), None)


def _product(case: Case, check: Product, where: str) -> Iterator[Finding]:
    limit = limits(check.mode)
    if limit is None:
        yield error("specifications.product", where, f"a mode of {LIMITS}", check.mode)
        return
    m, _, n = check.shape
    if check.places != places(seed(check.output_sha256, "entries"), case["samples"], m * n) or len(check.values) != len(check.places):
        yield error("specifications.places", where, "the places that the digest names, a value each", check.places)
        return
    bound = Fraction(str(limit["largest_error"]))
    squares = _error_squares(case, check, limit)
    if squares > bound**2:
        yield error("specifications.product", where, f"a relative error of at most {limit['largest_error']}", root_shown(squares))
    if not 0 <= check.residual <= bound:
        yield error("specifications.residual", where, f"at most {limit['largest_error']}", root_shown(check.residual**2))
    elif EXACT**2 < squares <= bound**2 and check.residual**2 < squares * RESIDUAL_SHARE**2:
        expected = f"about the {root_shown(squares)} of the sampled entries"
        yield error("specifications.residual", where, expected, root_shown(check.residual**2))


def _error_squares(case: Case, check: Product, limit: dict[str, Any]) -> Fraction:
    """Sum over sampled entries of (found - exact)^2, over the sum of the squares of the products that make them up."""
    _, k, n = check.shape
    first, second = seed(case["seed"], "a"), seed(case["seed"], "b")
    shift, half = 32 - limit["bits"], 2 ** (limit["bits"] - 1)
    unit = Fraction(1) if limit["whole"] else Fraction(1, half * half)
    wrong = scale = Fraction(0)
    for place, value in zip(check.places, check.values, strict=True):
        row, column = divmod(place, n)
        terms = [((word(first, row * k + i) >> shift) - half) * ((word(second, column * k + i) >> shift) - half) for i in range(k)]
        wrong += (value / unit - sum(terms)) ** 2
        scale += sum(term * term for term in terms)
    return wrong / scale


def _copied(case: Case, check: Copied) -> list[int]:
    """What the target must hold: the pattern, or twice it where two streams are added."""
    count = check.size_bytes // 4
    asked = places(seed(case["seed"], check.kind), case["samples"], count)
    pattern, factor = seed(case["seed"], "copy"), 2 if check.kind == "stream" else 1
    return [factor * (word(pattern, place % PATTERN) >> PATTERN_SHIFT) for place in asked] if check.places == asked else []


def traits(case: Case, measured: Measured) -> Traits:
    """The host's time of every repeat, in order."""
    outcomes = {
        found.check.output_sha256: f"seed {case['seed']}, {'x'.join(map(str, shape))}, {limit['bits']} bits"
        for (mode, shape), found in measured.series.items()
        if isinstance(found.check, Product) and (limit := limits(mode))
    }
    repeats = (repeat for found in measured.series.values() for repeat in found.measured)
    return Traits({"repeat": [repeat.t - repeat.begin_ns for repeat in repeats]}, devices=frozenset(measured.devices), outcomes=outcomes)


def best(measured: Measured, mode: str) -> tuple[Series, int] | None:
    """The fastest series of a mode and its operations per call (2 m k n), or None."""
    found = [
        (Fraction(2 * shape[0] * shape[1] * shape[2]) / series.call_ns(), series, 2 * shape[0] * shape[1] * shape[2])
        for (name, shape), series in measured.series.items()
        if name == mode and len(shape) == 3 and series.measured
    ]
    return max(found, key=lambda entry: entry[0])[1:] if found and mode not in measured.unavailable else None


def metrics(case: Case, measured: Measured) -> dict[str, Metric]:
    """Rates in tera-operations per second, bandwidths in GB/s (10^9), memory in GB (10^9)."""
    found = {"memory_gb": Metric(Fraction(measured.memory_bytes[0], 10**9), "GB", "bytes of one card / 1e9")}
    for mode in case["modes"]:
        if fastest := best(measured, mode):
            series, operations = fastest
            unit = "TOPS" if (limits(mode) or {})["whole"] else "TFLOPS"
            found[f"matmul_{mode}_{unit.lower()}"] = Metric(
                operations / series.call_ns() / 1000, unit, "2mkn / median time of a call, best of the case's shapes"
            )
    bandwidths = {name: _bandwidth(measured, name) for name in case["copies"] if name not in measured.unavailable}
    for name, value in bandwidths.items():
        found[f"{name}_gb_per_s"] = Metric(value, "GB/s", f"{MOVED[name]} x bytes / median time of a call")
    if streams := [bandwidths[name] for name in ("on_card", "stream") if name in bandwidths]:
        found["memory_bandwidth_gb_per_s"] = Metric(max(streams), "GB/s", "best of copy (2 passes) and sum of two buffers (3 passes)")
    return found


def _bandwidth(measured: Measured, name: str) -> Fraction:
    series = next(series for (kind, _), series in measured.series.items() if kind == name)
    return MOVED[name] * Fraction(series.repeats[0].size_bytes) / series.call_ns()  # type: ignore[union-attr]


def windows(case: Case, measured: Measured) -> list[Window]:
    """The measured repeats of each mode's best shape, with the tera-operations done in them."""
    found = []
    for mode in case["modes"]:
        if fastest := best(measured, mode):
            series, operations = fastest
            done = sum(repeat.calls for repeat in series.measured) * operations
            span = (series.measured[0].begin_ns, series.measured[-1].t)
            found.append(Window(f"matmul_{mode}", *span, {"tera_operation": Fraction(done, 10**12)}))
    return found


def derived(case: Case, metrics: dict[str, Metric]) -> dict[str, Metric]:
    """Peak efficiencies: operations per joule are operations per second and watt."""
    found = {}
    for kind, unit, whole in (("float", "TFLOPS", False), ("integer", "TOPS", True)):
        costs = [
            metrics[name].value
            for mode in case["modes"]
            if (limits(mode) or {}).get("whole") is whole and (name := f"matmul_{mode}_energy_per_tera_operation_j") in metrics
        ]
        if any(costs):
            formula = "best over modes of operations / energy of the measured repeats"
            found[f"{kind}_efficiency"] = Metric(1 / min(cost for cost in costs if cost), f"{unit}/W", formula)
    return found
