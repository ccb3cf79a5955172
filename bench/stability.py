"""Faults put in against faults told: `python bench/stability.py FAULTS SECONDS`, and with a real training `... FAULTS SECONDS training`.

Without that word a stand-in is supervised as the real training is. It has no model: two processes that sleep 10 ms a step and save a
number; loop, journal, slots, supervisor and torchrun's agent are the real ones. The real training is the worker itself with the tiny
model of the plan `smoke`, two ranks over gloo. What verify makes of the record is printed.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from kit import archive, plan  # noqa: E402
from tests.adversarial.stabilities import CASE  # noqa: E402
from verify import events  # noqa: E402
from verify.metrics import stability  # noqa: E402

KINDS = ("kill_rank", "hang", "out_of_memory", "nan", "kill_all", "device_error", "full_disk", "clock_step", "diverged")
EVERY = 20  # of which one is the supervisor's own end
SPACING = 20
ON_CPU = {"CHIPASSAY_DEVICE": "cpu", "CHIPASSAY_COLLECTIVE": "gloo", "OMP_NUM_THREADS": "1"}
Maker = Callable[[Path, int], list[str]]


def listed(count: int, spacing: int = SPACING) -> list[dict[str, Any]]:
    """Faults of all kinds in turn."""
    kinds = itertools.cycle(KINDS)
    found = ["kill_supervisor" if number % EVERY == EVERY - 1 else next(kinds) for number in range(count)]
    return [{"kind": kind, "step": spacing * (1 + number)} for number, kind in enumerate(found)]


def case(count: int, duration_s: int) -> dict[str, Any]:
    """Of the stand-in."""
    return CASE | {
        "cards": 2,
        "duration_s": duration_s,
        "checkpoint_every": 5,
        "max_restarts": 10_000,
        "hang_s": 3,
        "start_s": 60,
        "faults": listed(count),
    }


def training(count: int, duration_s: int) -> dict[str, Any]:
    """The smoke plan's supervised training; limits for a busy machine."""
    [found] = [case for case in plan.load("smoke").cases if case["suite"] == "stability"]
    more = {"duration_s": duration_s, "max_restarts": 10_000, "hang_s": 30, "start_s": 600, "checkpoint_every": 2}
    return found | more | {"faults": listed(count, spacing=4)}


def stand_in(folder: Path, attempt: int) -> list[str]:
    """Command of an attempt."""
    out = folder / f"attempt-{attempt}"
    return [sys.executable, "-m", "tests.stability.standin", "supervise", *map(str, (folder / "case.json", folder / "kept", out, attempt))]


def worker(folder: Path, attempt: int) -> list[str]:
    """The same of the worker itself."""
    out, job, packed = folder / f"attempt-{attempt}", folder / f"job-{attempt}.json", folder / "worker.pyz"
    out.mkdir()
    job.write_text(json.dumps({"case": json.loads((folder / "case.json").read_bytes()), "attempt": attempt}), encoding="utf-8")
    packed.write_bytes(archive.to_bytes())
    return [sys.executable, str(packed), str(job), str(out)]


def supervised(made: dict[str, Any], folder: Path, command: Maker = stand_in) -> tuple[int, Path]:
    """Attempts until one comes to its end; how many there were, and the last one's events."""
    (folder / "kept").mkdir()
    (folder / "case.json").write_text(json.dumps(made), encoding="utf-8")
    told = os.environ | ON_CPU | {"CHIPASSAY_CHECKPOINTS": str(folder / "kept")}
    for attempt in itertools.count(1):
        done = subprocess.run(
            command(folder, attempt), check=False, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=told
        )
        if done.returncode == 0:
            return attempt, folder / f"attempt-{attempt}/events-00000.jsonl"
        if done.returncode != -9:
            raise SystemExit(f"attempt {attempt} ended with {done.returncode}")
    raise AssertionError


def measured(made: dict[str, Any], path: Path) -> stability.Measured:
    """What verify reads."""
    kind = events.union(stability.EVENTS)
    lines = path.read_bytes().splitlines()
    return stability.measure(made, [(0, [events.parse(line, kind, path.name) for line in lines])])


def main(count: int, duration_s: int, *, real: bool) -> None:
    """Run, and print put in and told by class."""
    made = (training if real else case)(count, duration_s)
    with tempfile.TemporaryDirectory() as folder:
        attempts, path = supervised(made, Path(folder), worker if real else stand_in)
        found = measured(made, path)
    wanted = Counter(stability.SEEN_AS.get(event.fault, "clock_step") for event in found.injected)
    told = Counter(crash.fault for _, crash in found.crashes) + Counter({"clock_step": found.steps_clocks})
    print(f"{len(found.injected)} faults put in over {attempts} attempts; class: put in / told")
    for name in sorted(wanted | told):
        print(f"  {name:14} {wanted[name]:4} {told[name]:4}")
    for finding in stability.rules(made, found):
        print(finding.severity, finding)
    shown = {name: float(metric.value) for name, metric in stability.metrics(made, found).items() if not name.startswith("crashes_")}
    print(json.dumps(shown), f"load {os.getloadavg()[1]:.0f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]), real=sys.argv[3:] == ["training"])
