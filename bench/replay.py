"""Speed and memory of verify on a synthetic sealed run, beside hashing the same files by the same processes in the same minutes.

    python -m bench replay --size 4 --repeats 3

Wall time of the whole command, start-up and all; memory is the sum over all of its processes of what each holds (RSS), so
that pages which they share count several times. Figures of CPU time say what a quiet machine would do.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench import synthetic
from tests.adversarial import builder
from verify.files import Evidence
from verify.reading import Task, answers

EVERY_S = 0.02
GB = 10**9


@dataclass(frozen=True)
class Cost:
    """Of one command or call: wall and CPU seconds, peak bytes of all its processes."""

    wall_s: float
    cpu_s: float
    peak_bytes: int = 0


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _tree_bytes(process: int) -> int:
    """Resident bytes of a process and all below it; those that end meanwhile count nothing."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
        below = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="ascii").split()
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(_tree_bytes(int(child)) for child in below)


def _command(*args: str) -> Cost:
    before, begin, peak = _children_s(), time.perf_counter(), 0
    with subprocess.Popen([sys.executable, "-m", "verify", *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as child:
        while child.poll() is None:
            peak = max(peak, _tree_bytes(child.pid))
            time.sleep(EVERY_S)
        said = child.stdout.read() if child.stdout else b""
    if child.returncode:
        raise SystemExit(f"verify ended with {child.returncode}: {said[-2000:].decode()}")
    return Cost(time.perf_counter() - begin, _children_s() - before, peak)


def _hashing(run: Path) -> Cost:
    """The same files by the same processes, hashed and no more."""
    evidence = Evidence(run / "evidence")
    tasks = [Task(path.relative_to(evidence.top).as_posix()) for path in sorted(evidence.top.rglob("*")) if path.is_file()]
    before, begin = _children_s(), time.perf_counter()
    found = list(answers(evidence, tasks))
    assert all(answer.seen for answer in found)
    return Cost(time.perf_counter() - begin, _children_s() - before)


def _best(costs: list[Cost]) -> Cost:
    return Cost(min(c.wall_s for c in costs), min(c.cpu_s for c in costs), max(c.peak_bytes for c in costs))


def _alternate(first: Callable[[], Cost], second: Callable[[], Cost], repeats: int) -> tuple[list[Cost], list[Cost]]:
    pairs = [(first(), second()) for _ in range(repeats)]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def _start_up() -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = builder.build(Path(folder))
        shown = [min(_command(*args).wall_s for _ in range(5)) for args in (["--help"], [str(run), "--policy", "self"])]
    print(f"start-up, best of 5: --help {shown[0]:.2f} s, a run of two small cases {shown[1]:.2f} s")


def _report(made: synthetic.Made, replays: list[Cost], hashings: list[Cost]) -> None:
    ours, hashing = _best(replays), _best(hashings)
    each = made.size_bytes / made.events
    print(f"{made.size_bytes / GB:.2f} GB, {made.events:,} events of {each:.0f} bytes; synthetic, nothing was measured")
    for name, best, every in (("verify", ours, replays), ("hashing", hashing, hashings)):
        walls = ", ".join(f"{cost.wall_s:.2f}" for cost in every)
        print(f"{name}: {best.wall_s:.2f} s = {made.size_bytes / best.wall_s / GB:.3f} GB/s (of {walls} s), CPU {best.cpu_s:.2f} s")
    print(f"verify: {made.events / ours.wall_s / 1e6:.2f} million events a second, {ours.cpu_s / made.events * 1e9:.0f} ns of CPU an event")
    print(f"verify / hashing: {hashing.wall_s / ours.wall_s:.3f} of its speed by wall time, {hashing.cpu_s / ours.cpu_s:.3f} by CPU time")
    print(f"peak memory of all processes of verify: {ours.peak_bytes / 2**20:.0f} MiB")


def _count(run: Path) -> synthetic.Made:
    files = list(run.glob("evidence/cases/*/attempt-*/events-*"))
    count = 0
    for path in files:
        with path.open("rb") as file:
            while data := file.read(2**20):
                count += data.count(b"\n")
    return synthetic.Made(run, count, sum(path.stat().st_size for path in files))


def main(argv: list[str]) -> None:
    """Build or take a run, replay and hash it in turn, print what each took."""
    parser = argparse.ArgumentParser(prog="bench replay")
    parser.add_argument("--size", type=float, default=0.2, metavar="GB", help="events of the synthetic run (default: %(default)s)")
    parser.add_argument("--ranks", type=int, default=32, help="of the training case (default: %(default)s)")
    parser.add_argument("--serving", type=float, default=synthetic.SERVING_SHARE, help="share of text generation (default: %(default)s)")
    parser.add_argument("--run", type=Path, help="measure on this sealed run instead")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as folder:
        made = _count(options.run) if options.run else synthetic.build(Path(folder), int(options.size * GB), options.ranks, options.serving)
        print(f"{len(os.sched_getaffinity(0))} cores, load average {os.getloadavg()[0]:.1f}, best of {options.repeats}")
        _start_up()
        _report(made, *_alternate(lambda: _command(str(made.run), "--policy", "self"), lambda: _hashing(made.run), options.repeats))
