"""The end of a training that was told to stop is no crash, however its processes end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import torch.distributed as dist  # noqa: E402

from bench.stability import case, measured  # noqa: E402
from kit.worker.ranks import free_endpoint  # noqa: E402
from kit.worker.stability import loop  # noqa: E402
from tests.conftest import ROOT  # noqa: E402
from tests.stability.standin import StandIn  # noqa: E402
from tests.stability.test_supervisor import command, ready  # noqa: E402
from verify.metrics import stability  # noqa: E402

pytestmark = pytest.mark.torch
TURNS = 3  # without the mend each rank of each turn aborts with more than even odds


@pytest.mark.parametrize(("how", "poll_s"), [("interpreter", 0.1), ("word", 0.1), ("word", 3)], ids=["interpreter", "word", "seen late"])
def test_how_a_process_ends_behind_its_last_step_is_no_crash(tmp_path: Path, how: str, poll_s: float) -> None:
    """Nor where the agent has started all ranks again before the supervisor looks: there is nothing left for them to do."""
    made = case(1, 1) | {"hang_s": 60}
    ready(tmp_path, made)
    environment = os.environ | {"STANDIN_BAD_END": how, "STANDIN_POLL_S": str(poll_s)}
    done = subprocess.run(command(tmp_path, 1), check=False, cwd=ROOT, env=environment, capture_output=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-2000:]
    found = measured(made, tmp_path / "attempt-1/events-00000.jsonl")
    assert [(crash.fault, crash.incarnation) for _, crash in found.crashes] == [("process_end", 0)], "the one that was put in"
    assert [finding.rule for finding in stability.rules(made, found)] == ["stability.rehearsal"]


def test_a_clean_stop_leaves_no_error_in_the_log(tmp_path: Path) -> None:
    """Whoever ends torchrun's agent while its ranks still end finds a traceback of that signal in the log: nobody's error."""
    made = case(0, 1)
    ready(tmp_path, made)
    done = subprocess.run(
        command(tmp_path, 1), check=False, cwd=ROOT, env=os.environ | {"STANDIN_BAD_END": "late"}, capture_output=True, timeout=1200
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = measured(made, tmp_path / "attempt-1/events-00000.jsonl")
    assert (found.crashes, [finding for finding in stability.rules(made, found) if finding.severity == "error"]) == ([], [])
    assert b"Traceback" not in done.stderr
    assert b"signal" not in done.stderr


class Collective(StandIn):
    """One that agrees through gloo, whose own threads get no processor as soon as somebody else wants it."""

    def agree(self, loss: float, *, stop: bool) -> tuple[float, bool]:
        both = torch.tensor([loss, 1.0])
        dist.broadcast(both, src=0)
        return loss, bool(both[1].item())


def starved() -> None:
    """All threads but the first wait for an idle processor."""
    for thread in os.listdir("/proc/self/task"):
        if int(thread) != os.getpid():
            os.sched_setscheduler(int(thread), os.SCHED_IDLE, os.sched_param(0))


def rank(folder: Path) -> None:
    """A rank that is told to stop at its first step."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[0]})
    dist.init_process_group("gloo")
    dist.all_reduce(torch.ones(1))
    starved()
    sys.argv = ["", "", str(folder)]
    loop.run(Collective, case(0, 1), folder)


def test_a_rank_ends_well_while_its_library_still_holds_on(tmp_path: Path) -> None:
    """Gloo's thread may hold the last tensor for a while; where the interpreter ends meanwhile, the process aborts."""
    codes = []
    for _ in range(TURNS):
        port = free_endpoint().rpartition(":")[2]
        place = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "x"}
        program = [sys.executable, "-m", "tests.stability.test_end", str(tmp_path)]
        both = [subprocess.Popen(program, cwd=ROOT, env=place | {"RANK": str(number)}) for number in range(2)]
        codes += [process.wait(timeout=1200) for process in both]
    assert codes == [0] * 2 * TURNS


if __name__ == "__main__":
    rank(Path(sys.argv[1]))
