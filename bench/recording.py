"""Cost of recording one event, against a bare write of the same bytes to the same disk."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from kit.worker.record import Recorder

EVENTS = 100_000
REPEATS = 5


def _ns_per_call(call: Callable[[], object]) -> float:
    begin = time.perf_counter_ns()
    for _ in range(EVENTS):
        call()
    return (time.perf_counter_ns() - begin) / EVENTS


def _recorded(folder: Path) -> float:
    folder.mkdir()
    recorder = Recorder(folder, rank=0, case={"id": "bench", "suite": "pretrain"}, attempt=1, world_size=1)
    cost = _ns_per_call(
        lambda: recorder.event(
            "step",
            step=7,
            phase="measured",
            begin_ns=123456789,
            loss=2.3025850929940455,
            loss_dp_mean=2.3025850929940455,
            tokens=4096,
            real_tokens=4096,
            grad_norm=1.25,
            loss_scale=None,
            skipped=False,
        )
    )
    recorder.close()
    return cost


def _bare(path: Path, line: bytes) -> float:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    cost = _ns_per_call(lambda: os.write(handle, line))
    os.close(handle)
    return cost


def main() -> None:
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        ours = [_recorded(folder / f"r{i}") for i in range(REPEATS)]
        line = (folder / "r0/events-00000.jsonl").read_bytes().splitlines(keepends=True)[-1]
        bare = [_bare(folder / f"b{i}", line) for i in range(REPEATS)]
    a, b = statistics.median(ours), statistics.median(bare)
    print(
        f"event of {len(line)} bytes, {EVENTS} x {REPEATS}: {a / 1000:.2f} us an event "
        f"(min {min(ours) / 1000:.2f}, max {max(ours) / 1000:.2f}); "
        f"bare write {b / 1000:.2f} us; ratio {a / b:.1f}"
    )
