"""Collectives over the chip's own library (report section 2.2(2)): checked on data that never repeats, then timed.

As DeepSpeed's communication suite: synchronous operations on one buffer, warm-ups, trials. Beyond it, every element of the first
result is compared with what it must be, each trial's time is recorded on every rank, and sums in place never overflow.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from .. import clock, device, group, words
from ..group import Member
from ..mixed import BITS, Streams, pieces
from ..record import Recorder

Case = dict[str, Any]
FLOAT32_BYTES = 4
FLOAT32_EXPONENT = 127
MEMORY_SHARE = 0.95
Source = tuple[int, int]  # rank whose stream it is, place in that


def run(case: Case, recorder: Recorder) -> None:
    """Record the group, the network, the checked result and every trial of one operation."""
    with group.joined(case, recorder) as member:
        _check_memory(case, member)
        group.fabric(member, recorder, case["fabric_bytes"])
        bits = BITS - math.ceil(math.log2(member.ranks)) if case["operation"] == "all_reduce" else BITS
        streams = Streams(case["seed"], bits, member.here)
        operation = OPERATIONS[case["operation"]](case, member, streams)
        operation.act()
        device.synchronize(member.here)
        _check(case, recorder, operation, streams)
        for phase, calls in (("warmup", case["warmups"]), ("measured", case["trials"])):
            group.wait_for_all(member)
            _trials(recorder, operation, member, phase, calls)
        recorder.event("after", elements=operation.result.numel(), infinite=_infinite(operation.result))
        group.wait_for_all(member)


@dataclass(slots=True)
class Operation:
    """What one rank does: `act`, the tensor with its result, and where each part of that comes from.

    `growth` is the factor by which a call multiplies the result in place; `takes_part` is false for ranks that only wait.
    """

    act: Callable[[], Any]
    result: torch.Tensor
    parts: Callable[[], Iterator[tuple[int, int, list[Source]]]]
    growth: int = 1
    takes_part: bool = True
    _calls: int = 0

    def before(self, _: int) -> bool:
        """Scale sums back, by an exact power where ranks are one of two, whenever the next could overflow."""
        if self.growth == 1:
            return False
        if self._calls < (FLOAT32_EXPONENT - BITS) // math.log2(self.growth) - 1:
            self._calls += 1
            return False
        self.result.mul_(float(self.growth) ** -self._calls)
        self._calls = 1
        return True


def need_bytes(case: Case, ranks: int) -> int:
    """Bytes that one rank's buffers take."""
    factor = {"all_gather": 1 + ranks, "all_to_all": 2}.get(case["operation"], 1)
    return int(case["elements"]) * FLOAT32_BYTES * factor


def _check_memory(case: Case, member: Member) -> None:
    shared = member.per_node if member.here.type == "cpu" else 1
    need, held = need_bytes(case, member.ranks) * shared, device.memory_bytes(member.here)
    if need > held * MEMORY_SHARE:
        raise device.OutOfMemory(
            f"{case['operation']} of {case['elements']} elements needs {need / 1e9:.2f} GB of memory that has {held / 1e9:.2f} GB; "
            "element counts of the report are fixed, a case with fewer elements runs unscored"
        )


def _buffer(streams: Streams, rank: int, elements: int, here: torch.device) -> torch.Tensor:
    """A rank's own data as float32."""
    made = torch.empty(elements, device=here)
    for begin, count in pieces(0, elements):
        made[begin : begin + count] = streams.words(rank, begin, count)
    return made


def _whole(elements: int, ranks: list[int]) -> Iterator[tuple[int, int, list[Source]]]:
    """(place in the result, elements, sources that are summed up) for a result that lies as its sources do."""
    for begin, count in pieces(0, elements):
        yield begin, count, [(rank, begin) for rank in ranks]


def _all_reduce(case: Case, member: Member, streams: Streams) -> Operation:
    own = _buffer(streams, member.rank, case["elements"], member.here)
    ranks = list(range(member.ranks))
    return Operation(lambda: dist.all_reduce(own), own, lambda: _whole(case["elements"], ranks), growth=member.ranks)


def _all_gather(case: Case, member: Member, streams: Streams) -> Operation:
    own = _buffer(streams, member.rank, case["elements"], member.here)
    result = torch.zeros(case["elements"] * member.ranks, device=member.here)

    def parts() -> Iterator[tuple[int, int, list[Source]]]:
        for rank in range(member.ranks):
            for begin, count in pieces(0, case["elements"]):
                yield rank * case["elements"] + begin, count, [(rank, begin)]

    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # the older name, which torch gives up
    return Operation(lambda: gather(result, own), result, parts)


def _all_to_all(case: Case, member: Member, streams: Streams) -> Operation:
    own = _buffer(streams, member.rank, case["elements"], member.here)
    result, block = torch.zeros_like(own), case["elements"] // member.ranks

    def parts() -> Iterator[tuple[int, int, list[Source]]]:
        for rank in range(member.ranks):
            first = member.rank * block
            for begin, count in pieces(first, block):
                yield rank * block + begin - first, count, [(rank, begin)]

    return Operation(lambda: dist.all_to_all_single(result, own), result, parts)


def _broadcast(case: Case, member: Member, streams: Streams) -> Operation:
    own = _buffer(streams, member.rank, case["elements"], member.here)
    return Operation(lambda: dist.broadcast(own, 0), own, lambda: _whole(case["elements"], [0]))


def _pt2pt(case: Case, member: Member, streams: Streams) -> Operation:
    """Rank 0 sends to the case's peer; the others wait."""
    peer = case["peer"]
    elements = case["elements"] if member.rank in {0, peer} else 0
    own = _buffer(streams, member.rank, elements, member.here)
    acts: dict[int, Callable[[], Any]] = {0: lambda: dist.send(own, peer), peer: lambda: dist.recv(own, 0)}
    received = elements if member.rank == peer else 0
    act = acts.get(member.rank, lambda: None)
    return Operation(act, own, lambda: _whole(received, [0]), takes_part=member.rank in acts)


OPERATIONS: dict[str, Callable[[Case, Member, Streams], Operation]] = {
    "all_reduce": _all_reduce,
    "all_gather": _all_gather,
    "all_to_all": _all_to_all,
    "broadcast": _broadcast,
    "pt2pt": _pt2pt,
}


def _check(case: Case, recorder: Recorder, operation: Operation, streams: Streams) -> None:
    """Compare every element exactly; the sums of all parts name the places whose elements are recorded."""
    sums, wrong, checked = [], [], 0
    for place, count, sources in operation.parts():
        expected = sum(streams.words(rank, begin, count) for rank, begin in sources)
        found = operation.result[place : place + count]
        wrong.append((found != expected).sum())
        sums.append(found.to(torch.int32).sum())
        checked += count
    digest = hashlib.sha256(",".join(str(int(total)) for total in sums).encode()).hexdigest()
    places = words.positions(words.seed(digest, "result"), case["samples"], checked) if checked else []
    values = [int(operation.result[place]) for place in places]
    mismatches = sum(int(count) for count in wrong)
    recorder.event("result", elements=checked, mismatches=mismatches, digest=digest, places=places, values=values)
    if mismatches:
        raise ArithmeticError(f"{case['operation']}: {mismatches} of {checked} elements are not what they must be")


def _trials(recorder: Recorder, operation: Operation, member: Member, phase: str, calls: int) -> None:
    if not operation.takes_part:
        return
    begin_ns = recorder.now()
    durations = clock.each(member.here, calls, operation.act, operation.before)
    recorder.event("trials", phase=phase, begin_ns=begin_ns, clock=clock.kind(member.here), duration_ns=durations)


def _infinite(result: torch.Tensor) -> int:
    """Elements that are no finite number any more."""
    return sum(int((~torch.isfinite(result[begin : begin + count])).sum()) for begin, count in pieces(0, result.numel()))
