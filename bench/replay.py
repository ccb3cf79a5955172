"""Speed of verify on a synthetic sealed run, against hashing the same bytes in the same process."""

from __future__ import annotations

import hashlib
import statistics
import tempfile
import time
from pathlib import Path

from tests.adversarial import builder
from verify.replay import replay

STEPS = 50_000
REPEATS = 3


def main() -> None:
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        run = builder.build(Path(name), steps=STEPS)
        files = [path for path in (run / "evidence").rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        begin = time.perf_counter()
        for path in files:
            hashlib.sha256(path.read_bytes()).digest()
        hashing = time.perf_counter() - begin
        times = []
        for _ in range(REPEATS):
            begin = time.perf_counter()
            outcome = replay(run, "self")
            times.append(time.perf_counter() - begin)
        assert outcome.verdict == "verified", outcome.findings
    taken = statistics.median(times)
    print(
        f"{size / 1e6:.1f} MB, {STEPS} steps: replay {taken:.2f} s = {size / taken / 1e6:.1f} MB/s; "
        f"hashing alone {size / hashing / 1e6:.0f} MB/s; ratio {taken / hashing:.0f}"
    )
