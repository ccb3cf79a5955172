"""Places of ranks and the network between nodes, as suites with several ranks record them (rulings 17 and 25)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Annotated, Any, Literal

import msgspec

from verify.events import Event, Natural, Positive
from verify.findings import Finding, error, warning
from verify.metrics import Metric

ROUNDS = 10
CLOCK_DRIFT = Fraction(1, 1000)  # between a device's clock and the host's
Case = dict[str, Any]


class Group(Event, frozen=True, tag="group"):
    """The collective library of the process group, and every variable of the environment that sets it."""

    library: str
    settings: dict[str, str]


class Place(Event, frozen=True, tag="place"):
    """Where this rank runs: node of the case, rank within it, a hash of the host's boot id, memory of its card in bytes."""

    node: Natural
    local_rank: Natural
    host: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{16}$")]
    memory_bytes: Positive


class Fabric(Event, frozen=True, tag="fabric"):
    """Rounds in which each rank of the first node sent `size_bytes` to its like on the second, all at once."""

    peer: Natural
    role: Literal["send", "receive"]
    size_bytes: Positive
    clock: Literal["device", "host"]
    duration_ns: list[Positive]


EVENTS: tuple[type[Event], ...] = (Group, Place, Fabric)


def nodes(case: Case) -> int:
    """Hosts of a case; plans of earlier versions do not say, and mean one."""
    return int(case.get("nodes", 1))


def placed(case: Case, places: Mapping[int, Place], rule: str) -> Iterator[Finding]:
    """Ranks lie node by node; nodes that are one host are told as a warning."""
    per_node = case["processes"] // nodes(case)
    for rank, place in sorted(places.items()):
        if (place.node, place.local_rank) != divmod(rank, per_node):
            yield error(rule, f"{case['id']}: rank {rank}", f"node, local rank = {divmod(rank, per_node)}", (place.node, place.local_rank))
    hosts = {(place.node, place.host) for place in places.values()}
    if len(hosts) != len({node for node, _ in hosts}):
        yield error(rule, case["id"], "one host a node", f"{len(hosts)} pairs of node and host")
    elif len({host for _, host in hosts}) != len(hosts):
        yield warning(rule, case["id"], f"{len(hosts)} nodes on as many hosts", f"{len({host for _, host in hosts})} hosts")


def measured(case: Case, found: Mapping[int, Fabric], rule: str) -> Iterator[Finding]:
    """Each rank of the first two nodes measured the network towards its like on the other, and no rank else."""
    per_node = case["processes"] // nodes(case)
    asked = set(range(2 * per_node)) if nodes(case) > 1 else set()
    if found.keys() != asked:
        yield error(rule, case["id"], f"the network measured by ranks {sorted(asked)}", sorted(found))
    for rank, event in sorted(found.items()):
        expected = (rank + per_node, "send") if rank < per_node else (rank - per_node, "receive")
        if (event.peer, event.role) != expected or len(event.duration_ns) != ROUNDS or event.size_bytes != case["fabric_bytes"] // 4 * 4:
            wanted = f"{expected}, {ROUNDS} rounds of {case['fabric_bytes']} bytes"
            yield error(
                rule,
                f"{case['id']}: rank {rank}",
                wanted,
                f"{(event.peer, event.role)}, {len(event.duration_ns)} rounds of {event.size_bytes}",
            )
        if sum(event.duration_ns) > event.t * (1 + CLOCK_DRIFT):
            yield error(
                rule,
                f"{case['id']}: rank {rank}",
                f"rounds of at most {event.t} ns together, as much as had passed",
                sum(event.duration_ns),
            )


def metrics(found: Mapping[int, Fabric]) -> dict[str, Metric]:
    """Gigabits a second (10^9) from one node to another, over all of its cards at once; nothing where the case has one node."""
    if not found:
        return {}
    slowest_ns = max(Fraction(sum(event.duration_ns), len(event.duration_ns)) for event in found.values())
    sent = sum(event.size_bytes for event in found.values() if event.role == "send")
    return {"internode_gbps": Metric(sent * 8 / slowest_ns, "Gb/s", "bytes of all cards of a node x 8 / mean time of the slowest rank")}
