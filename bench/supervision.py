"""What supervision costs a step: the same training with and without it, by turns in one run, `python -m bench supervision`.

Two ranks of the smoke plan's supervised training over gloo, started as the worker starts them. In every pair of blocks one is stepped by
the supervised loop (journal, sign of life, word of whether to stop) under a supervisor that looks on, the other by the bare training with
the supervisor stopped (SIGSTOP). Blocks of a pair are compared with each other only, since other work of the machine comes and goes.
"""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.stability import ON_CPU, training  # noqa: E402

PAIRS, STEPS, WARM = 40, 10, 10
RESULT = "result.json"
DRAWS = 2000


def rank(case: dict[str, Any], folder: Path) -> None:
    """Both kinds of blocks, the first kind changing from pair to pair; rank 0 leaves what each took."""
    from kit.worker.stability import faults, journal, loop
    from kit.worker.stability.trainee import Trainee

    loop.die_with_agent()
    supervisor = int(os.environ[faults.WATCHED_BY])
    trained = Trainee(case)
    slot = journal.Slot(folder, trained.rank)
    slot.begin(loop.incarnation())
    me = loop.Rank(trained, case, folder, journal.Journal(folder), slot, loop.incarnation())
    injector = faults.Injector([], me.journal, trained.rank, trained.ranks, trained.meet)
    number, found = 0, []
    for _ in range(WARM):
        number = stepped(me, injector, number, supervised=True)
    for pair in range(PAIRS):
        for supervised in (True, False) if pair % 2 else (False, True):
            if trained.rank == 0:
                os.kill(supervisor, signal.SIGCONT if supervised else signal.SIGSTOP)
            trained.meet()
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(STEPS):
                number = stepped(me, injector, number, supervised=supervised)
            found.append((pair, supervised, time.perf_counter() - wall, time.process_time() - cpu))
    if trained.rank == 0:
        os.kill(supervisor, signal.SIGCONT)
        (folder / RESULT).write_text(json.dumps(found), encoding="utf-8")
    trained.meet()
    slot.say(loop.incarnation(), loop.DONE, "")
    os._exit(0)


def stepped(me: Any, injector: Any, number: int, *, supervised: bool) -> int:
    """One step; the next one's number."""
    from kit.worker.stability import loop

    if supervised:
        loop._step(me, injector, number)
    else:
        me.training.step(number)
    return number + 1


def supervise(case: dict[str, Any], folder: Path) -> None:
    """The real supervisor over these ranks; what it took of the processor is printed."""
    from kit.worker.stability import nodes, supervisor
    from kit.worker.suites import stability

    command = [sys.executable, str(Path(__file__).resolve()), "rank", str(folder)]
    ranks = nodes.Node(folder, range(case["cards"]), lambda _, left: stability.agent(case["cards"], command, left))
    begin = time.monotonic()
    supervisor.Session(case, folder, ranks, 1, lambda *_, **__: None).run()
    print(f"supervisor: {time.process_time() / (time.monotonic() - begin):.2%} of a core, also while ranks started")


def interval(values: list[float]) -> str:
    """Mean and its bootstrap interval of 95 %."""
    draw = random.Random(7)
    means = sorted(statistics.fmean(draw.choices(values, k=len(values))) for _ in range(DRAWS))
    return f"{statistics.fmean(values):.4f} ({means[DRAWS // 40]:.4f} to {means[-DRAWS // 40]:.4f})"


def main() -> None:
    """Run, and print ratios and microseconds."""
    case = training(0, 1) | {"hang_s": 3600, "start_s": 3600, "checkpoint_every": 10**6}
    with tempfile.TemporaryDirectory() as kept:
        folder = Path(kept)
        (folder / "case").write_text(json.dumps(case), encoding="utf-8")
        told = os.environ | ON_CPU | {"CHIPASSAY_CHECKPOINTS": str(folder)}
        subprocess.run([sys.executable, str(Path(__file__).resolve()), "supervise", str(folder)], check=True, cwd=ROOT, env=told)
        found = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    for name, at in (("wall time", 2), ("processor time of rank 0", 3)):
        pairs: dict[int, dict[bool, float]] = {}
        for line in found:
            pairs.setdefault(line[0], {})[line[1]] = line[at]
        ratio = [both[True] / both[False] for both in pairs.values()]
        more = statistics.median((both[True] - both[False]) / STEPS * 1e6 for both in pairs.values())
        bare = statistics.median(both[False] / STEPS * 1e3 for both in pairs.values())
        print(f"{name}: with / without {interval(ratio)}, {len(ratio)} pairs of {STEPS} steps; median {more:.0f} us of {bare:.1f} ms")
    print(f"load {os.getloadavg()[1]:.0f}")


if __name__ == "__main__":
    role, where = sys.argv[1], Path(sys.argv[2])
    {"rank": rank, "supervise": supervise}[role](json.loads((where / "case").read_text(encoding="utf-8")), where)
