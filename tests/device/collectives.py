"""Our timing of collectives beside a bare loop, in turns, over the same buffers in the same process group.

    torchrun --nproc-per-node N -m tests.device.collectives OUT DEVICE LIBRARY [SCALE]

Bare is what DeepSpeed's suite does: one mark, the trials, one mark, divided by their number. SCALE divides the report's counts.
Rank 0 prints a line for each turn and writes OUT/collectives.json.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from kit.worker import clock, device, group
from kit.worker.group import Member
from kit.worker.mixed import BITS, Streams
from kit.worker.record import Recorder
from kit.worker.suites.communication import OPERATIONS, Operation

COUNTS = {"all_reduce": 4259924984, "broadcast": 4259924984, "all_gather": 134217728, "all_to_all": 1073741824, "pt2pt": 4259924984}
TURNS, TRIALS = 6, 20


def bare(member: Member, calls: int, act: Callable[[], Any]) -> float:
    """Mean nanoseconds of a call."""
    if clock.kind(member.here) == "host":
        begin = time.monotonic_ns()
        for _ in range(calls):
            act()
        return (time.monotonic_ns() - begin) / calls
    return clock.timed(member.here, calls, act) / calls


def ours(member: Member, calls: int, operation: Operation) -> float:
    return statistics.mean(clock.each(member.here, calls, operation.act, operation.before))


def turns(member: Member, operation: Operation) -> dict[str, list[float]]:
    """Mean nanoseconds of a call of each way, in turns; sums are made small first, so that none overflows in either."""
    found: dict[str, list[float]] = {"bare": [], "ours": []}
    for turn in range(-1, TURNS):
        for name in ("bare", "ours") if turn % 2 else ("ours", "bare"):
            if operation.growth > 1:
                operation.result.clamp_(1, 2).mul_(2.0**-100)
                operation._calls = 0
            device.synchronize(member.here)
            group.wait_for_all(member)
            value = bare(member, TRIALS, operation.act) if name == "bare" else ours(member, TRIALS, operation)
            if turn >= 0:
                found[name].append(value)
    return found


def main(out: Path, scale: int) -> None:
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    out.mkdir(parents=True, exist_ok=True)
    case = {"id": "beside", "suite": "communication", "nodes": 1, "time_limit_s": 300}
    recorder = Recorder(out, rank=rank, case=case, attempt=1, world_size=ranks)
    results = {}
    with group.joined(case, recorder) as member:
        for name, count in COUNTS.items():
            if name == "pt2pt" and ranks < 2:
                continue
            own = {"operation": name, "elements": count // scale // ranks * ranks, "peer": 1, "processes": ranks, "seed": 1024}
            operation = OPERATIONS[name](own, member, Streams(1024, BITS - 8, member.here))
            found = turns(member, operation)
            ratio = statistics.median(found["ours"]) / statistics.median(found["bare"])
            results[name] = {"elements": own["elements"], "ratio": ratio} | found
            if rank == 0:
                shown = {way: [round(value / 1e6, 4) for value in values] for way, values in found.items()}
                print(f"{name} ours/bare {ratio:.5f} ms {json.dumps(shown)}", flush=True)
            del operation
            if member.here.type != "cpu":
                torch.get_device_module(member.here).empty_cache()
        if rank == 0:
            (out / "collectives.json").write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("CHIPASSAY_DEVICE", sys.argv[2])
    os.environ.setdefault("CHIPASSAY_COLLECTIVE", sys.argv[3])
    main(Path(sys.argv[1]), int(sys.argv[4]) if len(sys.argv) > 4 else 1)
