"""Ranks of one host take a step at one time: none ends it before each has given its gradients, so before each has begun."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from verify import fabric
from verify.findings import Finding, error

COMPARED = 1024  # steps that are kept, from step 0
SLACK_NS = 1_000_000  # a thousand times what clocks of two processors of one host differ by


@dataclass(slots=True)
class Host:
    """Of each step when the last rank of a host began it and the first one ended it, by the host's monotonic clock in ns."""

    begun: array[int] = field(default_factory=lambda: array("q"))
    ended: array[int] = field(default_factory=lambda: array("q"))

    def add(self, first: int, begun: list[int], ended: list[int]) -> None:
        """Steps from number `first` of one more rank."""
        known = max(0, min(len(begun), len(self.begun) - first))
        self.begun[first : first + known] = array("q", map(max, begun[:known], self.begun[first : first + known]))
        self.ended[first : first + known] = array("q", map(min, ended[:known], self.ended[first : first + known]))
        self.begun.extend(begun[known:])
        self.ended.extend(ended[known:])


@dataclass(slots=True)
class Hosts:
    """Hosts of a case by number; ranks lie node by node."""

    known: dict[int, Host] = field(default_factory=dict)

    def add(self, case: Mapping[str, Any], rank: int, origin_ns: int, first: int, spans: Iterator[tuple[int, int]]) -> None:
        """A rank's steps from number `first` as (begin, duration) in ns since `origin_ns`; those beyond what is kept are left out."""
        if case["processes"] == 1 or first >= COMPARED:
            return
        per_node = max(1, case["processes"] // fabric.nodes(dict(case)))
        found = [(origin_ns + begin_ns, origin_ns + begin_ns + duration_ns) for begin_ns, duration_ns in islice(spans, COMPARED - first)]
        self.known.setdefault(rank // per_node, Host()).add(first, [begin for begin, _ in found], [end for _, end in found])


def differing(case: Mapping[str, Any], hosts: Hosts) -> Iterator[Finding]:
    """The first step of each host that one rank had ended before another began it."""
    for number, host in sorted(hosts.known.items()):
        for step, (begun, ended) in enumerate(zip(host.begun, host.ended, strict=True)):
            if begun > ended + SLACK_NS:
                where = f"{case['id']}: node {number}, step {step}"
                yield error(f"{case['suite']}.together", where, f"a step begun by all of its ranks by {ended} ns", f"{begun} ns")
                break
