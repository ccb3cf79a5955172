"""Faults put in against faults told: a stand-in for a training, supervised as the real one is, `python bench/stability.py FAULTS SECONDS`.

The stand-in has no model: two processes that sleep 10 ms a step and save a number. Its loop, journal, slots, supervisor and
torchrun's agent are the real ones. What verify makes of the record is printed.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.adversarial.stabilities import CASE  # noqa: E402
from verify import events  # noqa: E402
from verify.metrics import stability  # noqa: E402

KINDS = ("kill_rank", "hang", "out_of_memory", "nan", "kill_all", "device_error", "full_disk", "clock_step", "diverged")
EVERY = 20  # of which one is the supervisor's own end
SPACING = 20


def case(count: int, duration_s: int) -> dict[str, Any]:
    """Faults of all kinds in turn."""
    kinds = itertools.cycle(KINDS)
    listed = ["kill_supervisor" if number % EVERY == EVERY - 1 else next(kinds) for number in range(count)]
    found = [{"kind": kind, "step": SPACING * (1 + number)} for number, kind in enumerate(listed)]
    return CASE | {
        "cards": 2,
        "duration_s": duration_s,
        "checkpoint_every": 5,
        "max_restarts": 10_000,
        "hang_s": 3,
        "start_s": 60,
        "faults": found,
    }


def supervised(made: dict[str, Any], folder: Path) -> tuple[int, Path]:
    """Attempts until one comes to its end; how many there were, and the last one's events."""
    (folder / "kept").mkdir()
    (folder / "case.json").write_text(json.dumps(made), encoding="utf-8")
    for attempt in itertools.count(1):
        out = folder / f"attempt-{attempt}"
        command = [sys.executable, "-m", "tests.stability.standin", "supervise", folder / "case.json", folder / "kept", out, str(attempt)]
        done = subprocess.run(list(map(str, command)), check=False, cwd=ROOT, stderr=subprocess.DEVNULL)
        if done.returncode == 0:
            return attempt, out / "events-00000.jsonl"
    raise AssertionError


def measured(made: dict[str, Any], path: Path) -> stability.Measured:
    """What verify reads."""
    kind = events.union(stability.EVENTS)
    lines = path.read_bytes().splitlines()
    return stability.measure(made, [(0, [events.parse(line, kind, path.name) for line in lines])])


def main(count: int, duration_s: int) -> None:
    """Run, and print put in and told by class."""
    made = case(count, duration_s)
    with tempfile.TemporaryDirectory() as folder:
        attempts, path = supervised(made, Path(folder))
        found = measured(made, path)
    wanted = Counter(stability.SEEN_AS.get(event.fault, "clock_step") for event in found.injected)
    told = Counter(crash.fault for _, crash in found.crashes) + Counter({"clock_step": found.steps_clocks})
    print(f"{len(found.injected)} faults put in over {attempts} attempts; class: put in / told")
    for name in sorted(wanted | told):
        print(f"  {name:14} {wanted[name]:4} {told[name]:4}")
    for finding in stability.rules(made, found):
        print(finding.severity, finding)
    shown = {name: float(metric.value) for name, metric in stability.metrics(made, found).items() if not name.startswith("crashes_")}
    print(json.dumps(shown))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
