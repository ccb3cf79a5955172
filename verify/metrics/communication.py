"""Collectives (report section 2.2(2)): throughput as DeepSpeed's suite prints it, algorithm and bus bandwidth beside it.

The time of an operation is the mean over trials of its slowest rank; rank 0's, which DeepSpeed prints, stands beside it. The
first result was compared element by element by the worker; sampled elements are recomputed here.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

from verify import fabric, mixed
from verify.events import CaseStart, Environment, Event, Natural, Positive, Sha256
from verify.findings import Finding, error
from verify.metrics import Blocks, Case, Metric, Window, mean, over, unchanged
from verify.plausibility import Traits
from verify.scoring.formulas import communication_gbps
from verify.words import places, seed

SECTION = "training"
PART = "communication"
FLOAT32_BYTES, FLOAT32_BITS = 4, 24
NS_PER_S, NS_PER_MS = 10**9, 10**6
OVERHEAD_SHARE, OVERHEAD_NS = Fraction(1, 4), 5_000_000  # what trials leave of the host's time: marks, and waiting for the last
SHOWN = 5

RULES = {
    "communication.cards": "one rank for each card",
    "communication.facts": "environment, group, place, result and after, once each on every rank; the same software on every rank",
    "communication.placement": "ranks lie node by node; pt2pt stays on one node where the case has one, and crosses where it has more",
    "communication.fabric": "on several nodes, the network between the first two is measured by all of their ranks",
    "communication.trials": "the case's warm-ups, then its trials, on every rank that takes part",
    "communication.time": "a series begins after the one before ended, and its trials agree with the host's clock",
    "communication.together": "on one host, no rank ends its trials of a collective before another has begun",
    "communication.result": "every element of the result was compared, none differed, and ranks with the same result have one digest",
    "communication.places": "sampled elements are those that the result's digest names",
    "communication.values": "sampled elements are exactly what the operation makes of the ranks' data",
    "communication.overflow": "no element is infinite or not a number after the trials",
}


class Result(Event, frozen=True, tag="result"):
    """The first result: elements compared, how many differed, a digest of their sums, and those at the places that it names."""

    elements: Natural
    mismatches: Natural
    digest: Sha256
    places: list[Natural]
    values: list[Natural]


class Trials(Event, frozen=True, tag="trials"):
    """Calls one after the other from `begin_ns` on; each took so many nanoseconds by `clock`."""

    phase: Literal["warmup", "measured"]
    begin_ns: Natural
    clock: Literal["device", "host"]
    duration_ns: list[Positive]


class After(Event, frozen=True, tag="after"):
    """Elements of the buffer after the last trial, and how many of them are no finite number."""

    elements: Natural
    infinite: Natural


EVENTS: tuple[type[Event], ...] = (*fabric.EVENTS, Result, Trials, After)
SAME = frozenset({"all_reduce", "all_gather", "broadcast"})  # every rank ends with the same elements
WAITING = frozenset({"all_reduce", "all_gather", "all_to_all"})  # no rank is done before every other has come
ONCE: tuple[type[Event], ...] = (Environment, fabric.Group, fabric.Place, Result, After)


@dataclass(slots=True)
class Measured:
    """Every rank's events."""

    ranks: dict[int, list[Event]] = field(default_factory=dict)

    def of(self, kind: type[Any]) -> dict[int, Any]:
        """The first event of a kind of each rank that has one."""
        firsts = ((rank, next((event for event in events if type(event) is kind), None)) for rank, events in self.ranks.items())
        return {rank: event for rank, event in firsts if event is not None}

    def trials(self, rank: int, phase: str) -> Trials | None:
        """The series of one phase of a rank."""
        return next((event for event in self.ranks[rank] if isinstance(event, Trials) and event.phase == phase), None)


condense = unchanged


def measure(case: Case, blocks: Blocks) -> Measured:
    """Gather the events by rank."""
    del case
    measured = Measured()
    for rank, events in blocks:
        measured.ranks.setdefault(rank, []).extend(events)
    return measured


def takes_part(case: Case, rank: int) -> bool:
    """Whether a rank is timed: all are, but in pt2pt only rank 0 and its peer."""
    return case["operation"] != "pt2pt" or rank in {0, case["peer"]}


def compared(case: Case, rank: int) -> int:
    """Elements of the result that a rank compares."""
    elements = int(case["elements"])
    if case["operation"] == "pt2pt":
        return elements if rank == case["peer"] else 0
    return elements * case["processes"] if case["operation"] == "all_gather" else elements


def value(case: Case, rank: int, place: int) -> int:
    """What element `place` of the result of a rank must be."""
    elements, ranks = case["elements"], case["processes"]
    if case["operation"] == "all_reduce":
        bits = FLOAT32_BITS - math.ceil(math.log2(ranks))
        return sum(mixed.word(case["seed"], source, place, bits) for source in range(ranks))
    if case["operation"] == "all_gather":
        source, offset = divmod(place, elements)
        return mixed.word(case["seed"], source, offset, FLOAT32_BITS)
    if case["operation"] == "all_to_all":
        block = elements // ranks
        source, offset = divmod(place, block)
        return mixed.word(case["seed"], source, rank * block + offset, FLOAT32_BITS)
    return mixed.word(case["seed"], 0, place, FLOAT32_BITS)


def rules(case: Case, measured: Measured) -> Iterator[Finding]:
    """What is wrong with the case."""
    if not case["cards"] == case["processes"] == len(measured.ranks):
        yield error("communication.cards", case["id"], f"{len(measured.ranks)} ranks on as many cards", (case["cards"], case["processes"]))
    whole = list(_facts(case, measured))
    yield from whole
    if whole:
        return
    yield from _placement(case, measured)
    yield from fabric.measured(case, measured.of(fabric.Fabric), "communication.fabric")
    yield from _together(case, measured)
    if case["operation"] in SAME and len(digests := {found.digest for found in measured.of(Result).values()}) > 1:
        yield error("communication.result", case["id"], "one digest of the result on every rank", sorted(digests)[:SHOWN])
    for rank in sorted(measured.ranks):
        where = f"{case['id']}: rank {rank}"
        yield from _series(case, measured, rank, where)
        yield from _result(case, measured, rank, where)


def _facts(case: Case, measured: Measured) -> Iterator[Finding]:
    for rank, events in sorted(measured.ranks.items()):
        counts = {kind.__name__: sum(type(event) is kind for event in events) for kind in ONCE}
        if set(counts.values()) != {1}:
            yield error("communication.facts", f"{case['id']}: rank {rank}", "each once", counts)
    environments, groups = measured.of(Environment), measured.of(fabric.Group)
    software = {rank: (found.python, found.torch, tuple(sorted(found.packages.items()))) for rank, found in environments.items()}
    if len(set(software.values())) > 1:
        other = next(rank for rank in sorted(software) if software[rank] != software[min(software)])
        yield error("communication.facts", f"{case['id']}: rank {other}", "the software of the first rank", software[other][:2])
    if len(libraries := {found.library for found in groups.values()}) > 1:
        yield error("communication.facts", case["id"], "one library on all ranks", sorted(libraries))


def _placement(case: Case, measured: Measured) -> Iterator[Finding]:
    yield from fabric.placed(case, measured.of(fabric.Place), "communication.placement")
    if case["operation"] == "pt2pt":
        node = case["peer"] // (case["processes"] // fabric.nodes(case))
        if not 0 < case["peer"] < case["processes"] or (node > 0) != (fabric.nodes(case) > 1):
            wanted = "a peer on another node" if fabric.nodes(case) > 1 else "a peer on the same node"
            yield error("communication.placement", case["id"], wanted, f"rank {case['peer']} on node {node}")


def _series(case: Case, measured: Measured, rank: int, where: str) -> Iterator[Finding]:
    series = [event for event in measured.ranks[rank] if isinstance(event, Trials)]
    found = [(event.phase, len(event.duration_ns)) for event in series]
    asked = [("warmup", case["warmups"]), ("measured", case["trials"])] if takes_part(case, rank) else []
    if found != asked:
        yield error("communication.trials", where, asked, found)
    ended_ns = 0
    for event in series:
        busy_ns, wall_ns = sum(event.duration_ns), event.t - event.begin_ns
        if not ended_ns <= event.begin_ns < event.t:
            yield error("communication.time", where, f"{ended_ns} <= begin_ns < t = {event.t}", event.begin_ns)
        elif busy_ns > wall_ns * (1 + fabric.CLOCK_DRIFT):
            yield error("communication.time", where, f"trials of at most the host's {wall_ns} ns together", busy_ns)
        elif busy_ns < wall_ns * (1 - OVERHEAD_SHARE) - OVERHEAD_NS:
            yield error("communication.time", where, f"trials of about the host's {wall_ns} ns together", busy_ns)
        ended_ns = event.t


def _together(case: Case, measured: Measured) -> Iterator[Finding]:
    """Ranks of one host have one monotonic clock."""
    if case["operation"] not in WAITING:
        return
    hosts: dict[str, list[tuple[int, int]]] = {}
    starts, places = measured.of(CaseStart), measured.of(fabric.Place)
    for rank in sorted(measured.ranks):
        if event := measured.trials(rank, "measured"):
            origin_ns = starts[rank].monotonic_ns
            hosts.setdefault(places[rank].host, []).append((origin_ns + event.begin_ns, origin_ns + event.t))
    for host, spans in sorted(hosts.items()):
        last_ns, first_ns = max(begin for begin, _ in spans), min(end for _, end in spans)
        if last_ns > first_ns:
            yield error("communication.together", f"{case['id']}: host {host}", f"trials of all ranks begun by {first_ns} ns", last_ns)


def _result(case: Case, measured: Measured, rank: int, where: str) -> Iterator[Finding]:
    result, after = measured.of(Result)[rank], measured.of(After)[rank]
    count = compared(case, rank)
    if (result.elements, result.mismatches) != (count, 0):
        yield error("communication.result", where, f"{count} elements, none different", (result.elements, result.mismatches))
    asked = places(seed(result.digest, "result"), case["samples"], count) if count else []
    if result.places != asked or len(result.values) != len(asked):
        yield error("communication.places", where, "the places that the digest names, a value each", result.places[:SHOWN])
    elif result.values != (expected := [value(case, rank, place) for place in asked]):
        yield error("communication.values", where, expected[:SHOWN], result.values[:SHOWN])
    held = case["elements"] * (case["processes"] if case["operation"] == "all_gather" else 1) * takes_part(case, rank)
    if (after.elements, after.infinite) != (held, 0):
        yield error("communication.overflow", where, f"{held} elements, all finite", (after.elements, after.infinite))


def factor(case: Case) -> int:
    """The k of facts 3.3: how often DeepSpeed's suite counts a rank's bytes."""
    return {"all_reduce": 2, "all_gather": int(case["processes"])}.get(case["operation"], 1)


def algorithm_factor(case: Case) -> int:
    """The same for algorithm bandwidth: what all_gather makes is every rank's part."""
    return int(case["processes"]) if case["operation"] == "all_gather" else 1


def bus_share(case: Case) -> Fraction:
    """Bus over algorithm bandwidth, what each rank must send at least of what is done: 2 (n-1)/n, (n-1)/n, 1 (facts 3.3, last column)."""
    ranks = int(case["processes"])
    others = Fraction(ranks - 1, ranks)
    return {"all_reduce": 2 * others, "all_gather": others, "all_to_all": others}.get(case["operation"], Fraction(1))


def metrics(case: Case, measured: Measured) -> dict[str, Metric]:
    """Durations in ms, rates in Gb/s (10^9 bits)."""
    size_bytes = case["elements"] * FLOAT32_BYTES
    timed = {rank: found.duration_ns for rank in measured.ranks if (found := measured.trials(rank, "measured"))}
    slowest = max(timed.values(), key=sum)
    duration_s, rank0_s = (mean(found) / NS_PER_S for found in (slowest, timed[0]))
    algorithm = communication_gbps(algorithm_factor(case), size_bytes, duration_s)
    rates = [communication_gbps(factor(case), size_bytes, Fraction(end, NS_PER_S)) for end in (max(slowest), min(slowest))]
    k = factor(case)
    return {
        "throughput_gbps": Metric(
            communication_gbps(k, size_bytes, duration_s), "Gb/s", f"{k} x bytes x 8 / mean time of the slowest rank", *rates
        ),
        "duration_ms": Metric(duration_s * 1000, "ms", "mean over trials, slowest rank", **over(slowest, NS_PER_MS)),
        "throughput_rank0_gbps": Metric(
            communication_gbps(k, size_bytes, rank0_s), "Gb/s", f"{k} x bytes x 8 / mean time of rank 0, as DeepSpeed's suite prints it"
        ),
        "algorithm_gbps": Metric(algorithm, "Gb/s", "bytes x 8 / mean time of the slowest rank"),
        "bus_gbps": Metric(algorithm * bus_share(case), "Gb/s", "algorithm bandwidth x what each rank must move of it"),
    } | fabric.metrics(measured.of(fabric.Fabric))


def facts(case: Case, measured: Measured) -> dict[str, str]:
    """Library, nodes and hosts of the group."""
    hosts = {place.host for place in measured.of(fabric.Place).values()}
    return {"library": measured.of(fabric.Group)[0].library, "nodes": str(fabric.nodes(case)), "hosts": str(len(hosts))}


def traits(case: Case, measured: Measured) -> Traits:
    """The host's time of each series, and a digest of each rank's trials."""
    del case
    series = {rank: [event for event in events if isinstance(event, Trials)] for rank, events in measured.ranks.items()}
    digests = {rank: hashlib.sha256(repr([event.duration_ns for event in found]).encode()).hexdigest() for rank, found in series.items()}
    walls = [event.t - event.begin_ns for event in series[0]]
    devices = frozenset(found.device_name for found in measured.of(Environment).values())
    return Traits({"series": walls}, {rank: digests[rank] for rank in digests if series[rank]}, devices=devices)


def windows(case: Case, measured: Measured) -> list[Window]:
    """The measured trials on rank 0, with the gigabytes (10^9) of one rank that they moved."""
    found = measured.trials(0, "measured")
    moved = Fraction(case["elements"] * FLOAT32_BYTES * case["trials"], 10**9)
    return [Window("", found.begin_ns, found.t, {"gigabyte": moved})] if found else []
