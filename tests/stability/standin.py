"""A training that weighs nothing, supervised by the very loop of the real one: no model, a file for a checkpoint, sockets for a barrier.

Run by torchrun's agent as `python standin.py CASE.json FOLDER`, and as `python standin.py supervise CASE.json FOLDER OUT ATTEMPT` it
is the supervisor of one attempt, in a process of its own, so that it can be killed; of a case on several nodes, `keep CASE.json FOLDER
NODE ATTEMPT` is another node. The nodes are loop-back addresses.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from kit.worker import rendezvous
from kit.worker.record import Recorder
from kit.worker.stability import loop, nodes, supervisor
from kit.worker.suites import stability

STEP_S = 0.01
GO_ON = "go-on"
LATE_S = 600


class StandIn:
    """Ranks meet by files in the folder: each says which round it has come to."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.case, self.folder = case, Path(sys.argv[2])
        self.rank, self.ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.life, self.round = loop.incarnation(), 0
        run = os.environ["TORCHELASTIC_RUN_ID"]  # one a start where there are several nodes
        self.token = f"{run if case.get('nodes', 1) > 1 else os.getppid()}-{self.life}"

    def facts(self) -> list[tuple[str, dict[str, Any]]]:
        return [
            ("environment", {"python": "3.11", "torch": "none", "device": "cpu", "device_name": "stand-in", "packages": {}}),
            (
                "model",
                {"parameters": 1, "weights": "random", "weights_sha256": None, "seed": self.case["seed"], "dtype": self.case["dtype"]},
            ),
            ("data", {"source": self.case["data"], "sha256": "0" * 64, "tokens": 1}),
        ]

    def restore(self) -> int:
        path = self.folder / "state"
        return int(path.read_text()) if path.exists() else 0

    def step(self, number: int) -> float:
        time.sleep(STEP_S)
        return 4.0 + 1 / (1 + number)

    def agree(self, loss: float, *, stop: bool) -> tuple[float, bool]:
        if self.rank == 0:
            (self.folder / f"word-{self.token}-{self.round}").write_text("1" if stop else "0")
        self.meet()
        return loss, (self.folder / f"word-{self.token}-{self.round - 1}").read_text() == "1"

    def meet(self) -> None:
        for name in (
            f"met-{self.token}-{self.round - 2}-{self.rank}",
            *([f"word-{self.token}-{self.round - 2}"] if self.rank == 0 else []),
        ):
            (self.folder / name).unlink(missing_ok=True)
        (self.folder / f"met-{self.token}-{self.round}-{self.rank}").touch()
        while not all((self.folder / f"met-{self.token}-{self.round}-{rank}").exists() for rank in range(self.ranks)):
            time.sleep(0.001)
        self.round += 1

    def save(self, next_step: int) -> None:
        (self.folder / f"begun-{self.rank}").write_bytes(bytes(8192))  # more than a full disk takes
        self.meet()
        if self.rank == 0:
            (self.folder / "begun-0").write_text(str(next_step))
            (self.folder / "begun-0").replace(self.folder / "state")
        self.meet()

    def is_device_error(self, error: BaseException) -> bool:
        return False

    def is_out_of_memory(self, error: BaseException) -> bool:
        return isinstance(error, MemoryError)


def command(folder: Path) -> list[str]:
    return [sys.executable, str(Path(__file__).resolve()), str(folder / "case"), str(folder)]


def own(case: dict[str, Any], folder: Path, node: int, attempt: int) -> nodes.Node:
    """A node of several."""
    place = rendezvous.Place(node, case["nodes"], os.environ["STANDIN_ENDPOINT"])
    each = case["cards"] // case["nodes"]
    made = lambda first, _: stability.agent_of_several(place, each, f"{attempt}-{first}", 120, command(folder))  # noqa: E731
    return nodes.Node(folder, range(node * each, (node + 1) * each), made)


def bad_end() -> None:
    """Have this process die of its own end, as torch's may: in the interpreter's last moments, or behind its last word; or be late."""
    how = os.environ.get("STANDIN_BAD_END")
    if how == "interpreter":
        atexit.register(os.abort)
    elif how in {"word", "late"}:
        leave, late = loop._leave, lambda: time.sleep(LATE_S)
        loop._leave = lambda code: leave(code) if code else (os.abort if how == "word" else late)()


class Open(supervisor.Session):
    """A session that also goes on for as long as a file says so: how long starts take, no test can know."""

    def _over(self) -> bool:
        return super()._over() and not (self.folder / GO_ON).exists()


def supervise(case: dict[str, Any], folder: Path, out: Path, attempt: int, host: supervisor.Host | None = None) -> None:
    """One attempt; its events go to `out`."""
    supervisor.POLL_S = float(os.environ.get("STANDIN_POLL_S", supervisor.POLL_S))
    out.mkdir(parents=True)
    recorder = Recorder(out, rank=0, case=case, attempt=attempt, world_size=1)
    (folder / "case").write_text(json.dumps(case))
    if case.get("nodes", 1) > 1:
        ranks: nodes.Ranks = nodes.Nodes(own(case, folder, 0, attempt), case["nodes"], attempt)
    else:
        ranks = nodes.Node(folder, range(case["cards"]), lambda _, left: stability.agent(case["cards"], command(folder), left))
    Open(case, folder, ranks, attempt, recorder.event, host or supervisor.Host()).run()
    recorder.event("case_end", state="done", reason=None)
    recorder.close()


if __name__ == "__main__":
    if sys.argv[1] == "supervise":
        boot = os.environ.get("STANDIN_BOOT")
        host = supervisor.Host(boot=lambda: str(boot)) if boot else None
        supervise(json.loads(Path(sys.argv[2]).read_text()), Path(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5]), host)
    elif sys.argv[1] == "keep":
        node, attempt = map(int, sys.argv[4:6])
        sys.exit(nodes.Keeper(own(json.loads(Path(sys.argv[2]).read_text()), Path(sys.argv[3]), node, attempt), node, attempt).run())
    else:
        bad_end()
        loop.run(StandIn, json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
