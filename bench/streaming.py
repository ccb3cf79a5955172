"""Cost of the streaming run log: a beat at the start and at the end of a 72-hour run, memory, recovery, replay."""

from __future__ import annotations

import statistics
import tempfile
import time
import tracemalloc
from array import array
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kit.heartbeat import Heart
from kit.record import RunLog
from verify import runlog

BEATS = 72 * 60
RANKS = 2
NEW_BYTES = 20_000
SAMPLE = 200


def _grow(files: list[Path], data: bytes) -> None:
    for path in files:
        with path.open("ab") as file:
            file.write(data)


def main() -> None:
    key = Ed25519PrivateKey.generate()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        run = Path(name) / "run"
        folder = run / "evidence/cases/a/attempt-1"
        folder.mkdir(parents=True)
        log = RunLog(run, key)
        log.append(
            "open",
            run="run",
            plan_sha256="0" * 64,
            kit_version="0",
            worker_sha256="0" * 64,
            isolation="none",
            heartbeat_s=60,
            challenge_sha256=None,
            run_key="0" * 64,
        )
        log.append("case-start", case="a", attempt=1)
        heart = Heart(log, folder)
        files = [folder / "events-00000.jsonl", *(folder / f"events-rank{rank:04}-00000.jsonl" for rank in range(1, RANKS))]
        costs, memory = array("d", bytes(8 * BEATS)), {}
        tracemalloc.start()
        for number in range(BEATS):
            _grow(files, b"x" * NEW_BYTES)
            begin = time.perf_counter_ns()
            heart.beat()
            costs[number] = (time.perf_counter_ns() - begin) / 1e6
            if number in {SAMPLE, BEATS - 1}:
                memory[number] = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        log.close()
        sizes = {path.name: path.stat().st_size / 1e6 for path in (run / "runlog").iterdir()}
        begin = time.perf_counter()
        RunLog(run, key).close()
        recovery_s = time.perf_counter() - begin
        begin = time.perf_counter()
        found = runlog.read(run / "runlog")
        faults = [*found.findings, *runlog.checkpoints(found, runlog.ORIGIN + "run", lambda _: key.public_key())]
        replay_s = time.perf_counter() - begin
        assert faults == [], faults
    print(
        f"{BEATS} beats with {RANKS} open segments growing by {NEW_BYTES} bytes: median of the first {SAMPLE} "
        f"{statistics.median(costs[:SAMPLE]):.1f} ms, of the last {SAMPLE} {statistics.median(costs[-SAMPLE:]):.1f} ms; "
        f"memory after {SAMPLE} beats {memory[SAMPLE] / 1e6:.2f} MB, after {BEATS} {memory[BEATS - 1] / 1e6:.2f} MB"
    )
    print(", ".join(f"{name} {size:.2f} MB" for name, size in sorted(sizes.items())))
    print(f"opened again in {recovery_s:.2f} s; entries and {len(found.notes)} signatures checked in {replay_s:.2f} s")
