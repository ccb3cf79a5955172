"""Two nodes under one supervisor, by the stand-in: what happens on the second is told once, in its class, and gone on from."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from bench.stability import case, measured
from kit import archive
from kit.worker.ranks import free_endpoint
from kit.worker.stability import nodes
from kit.worker.stability.journal import Slot, now
from kit.worker.stability.loop import DONE
from tests.conftest import ROOT
from tests.stability.standin import GO_ON
from verify.metrics import stability

pytestmark = pytest.mark.torch
LONG_S = 1200
LIMITS = {"hang_s": 15, "start_s": 900}  # a keeper's word takes half a second, and a busy machine its time


class Pair:
    """Supervisor and keeper of one attempt, each with what it started."""

    def __init__(self, folder: Path, made: dict[str, Any]) -> None:
        self.folder, self.made = folder, made | {"nodes": 2}
        (folder / "kept").mkdir()
        (folder / "case.json").write_text(json.dumps(self.made), encoding="utf-8")
        if not made["faults"]:
            (folder / "kept" / GO_ON).touch()
        self.environment = os.environ | {"STANDIN_ENDPOINT": free_endpoint()}
        self.supervisor = self.start("supervise", folder / "out")
        self.keeper = self.start("keep", 1)

    def start(self, role: str, what: object) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.stability.standin", role, self.folder / "case.json", self.folder / "kept", what, 1]
        with (self.folder / f"{role}.log").open("ab") as log:
            return subprocess.Popen(list(map(str, command)), cwd=ROOT, env=self.environment, stdout=log, stderr=log, start_new_session=True)

    def lines(self, kind: str) -> list[dict[str, Any]]:
        """What the journal tells so far."""
        path = self.folder / "kept/journal.jsonl"
        whole = path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""
        return [line for line in map(json.loads, whole.splitlines()) if line["e"] == kind]

    def life(self, number: int) -> None:
        """Wait until that start has done three steps."""
        deadline = time.monotonic() + LONG_S
        while (
            len(self.lines("start")) <= number
            or len(self.lines("step")) < 3
            or self.lines("step")[-3]["end_ns"] < self.lines("start")[-1]["at_ns"]
        ):
            assert self.supervisor.poll() is None, (self.folder / "supervise.log").read_text()[-3000:]
            assert time.monotonic() < deadline, self.lines("crash")
            time.sleep(0.2)

    def processes(self, below: int) -> list[int]:
        """Children of a process of the second node."""
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                if int(path.read_text().rpartition(")")[2].split()[1]) == below:
                    found.append(int(path.parent.name))
        return found

    def end(self) -> stability.Measured:
        """Both came to their end by themselves; what was recorded."""
        (self.folder / "kept" / GO_ON).unlink(missing_ok=True)
        assert self.supervisor.wait(timeout=LONG_S) == 0, (self.folder / "supervise.log").read_text()[-3000:]
        assert self.keeper.wait(timeout=LONG_S) == 0, (self.folder / "keep.log").read_text()[-3000:]
        return measured(self.made, self.folder / "out/events-00000.jsonl")


@contextlib.contextmanager
def pair(folder: Path, made: dict[str, Any]) -> Iterator[Pair]:
    both = Pair(folder, made)
    try:
        yield both
    finally:
        for process in (both.supervisor, both.keeper):
            process.kill()
            process.wait()


def test_faults_put_in_on_the_second_node_are_told_in_their_class(tmp_path: Path) -> None:
    kinds = ("kill_rank", "out_of_memory", "hang")  # all of the last rank, which is there
    made = case(0, 1) | LIMITS | {"faults": [{"kind": kind, "step": 20 * number} for number, kind in enumerate(kinds, start=1)]}
    with pair(tmp_path, made) as both:
        found = both.end()
    assert [finding for finding in stability.rules(both.made, found) if finding.severity == "error"] == []
    told = Counter(crash.fault for _, crash in found.crashes)
    assert told == {"process_end": 1, "out_of_memory": 1, "hang": 1}
    assert "stability.detected" not in {finding.rule for finding in stability.rules(both.made, found)}


def test_a_node_that_is_lost_counts_once_and_comes_back(tmp_path: Path) -> None:
    """Its rank, its agent, and then all of it: the supervisor waits until it is there again."""
    with pair(tmp_path, case(0, 1) | LIMITS | {"hang_s": 60}) as both:
        both.life(0)
        [agent] = both.processes(both.keeper.pid)
        [rank] = both.processes(agent)
        os.kill(rank, signal.SIGKILL)
        both.life(1)
        [agent] = both.processes(both.keeper.pid)
        os.kill(agent, signal.SIGKILL)
        both.life(2)
        both.keeper.kill()
        both.keeper.wait()
        deadline = time.monotonic() + LONG_S
        while len(both.lines("crash")) < 3 and time.monotonic() < deadline:
            time.sleep(0.1)
        both.keeper = both.start("keep", 1)
        both.life(3)
        found = both.end()
    assert [str(finding) for finding in stability.rules(both.made, found)] == []
    assert [crash.fault for _, crash in found.crashes] == ["process_end"] * 3
    assert [life.start.incarnation for life in found.lives] == [0, 1, 2, 3]


def worker(folder: Path, node: int, kept: Path, **variables: str) -> tuple[int, str]:
    """Exit code and last words of the worker of a node."""
    (folder / "worker.pyz").write_bytes(archive.to_bytes())
    (folder / "job.json").write_text(json.dumps({"case": case(0, 1) | {"nodes": 2}, "attempt": 1}), encoding="utf-8")
    out = folder / f"out-{node}"
    out.mkdir()
    kept.mkdir(exist_ok=True)
    told = {"CHIPASSAY_NODE": str(node), "CHIPASSAY_CHECKPOINTS": str(kept), "CHIPASSAY_DEVICE": "cpu"} | variables
    done = subprocess.run(
        [sys.executable, str(folder / "worker.pyz"), str(folder / "job.json"), str(out)],
        check=False, cwd=folder, env=os.environ | told, text=True, capture_output=True, timeout=LONG_S,
    )  # fmt: skip
    events = (out / "events-00000.jsonl").read_text() if node == 0 else ""
    return done.returncode, (json.loads(events.splitlines()[-1])["reason"] if events else done.stderr.splitlines()[-1])


def test_a_node_that_does_not_come_is_named(tmp_path: Path) -> None:
    code, said = worker(tmp_path, 0, tmp_path / "kept", CHIPASSAY_RENDEZVOUS=free_endpoint(), CHIPASSAY_RENDEZVOUS_S="2")
    assert (code, said) == (1, "RollCallError: node 1 did not come to the rendezvous within 2 s")


def test_a_node_that_does_not_know_its_place_says_so(tmp_path: Path) -> None:
    code, said = worker(tmp_path, 1, tmp_path / "kept", CHIPASSAY_RENDEZVOUS="")
    assert code == 78
    assert said.startswith("worker: the case is for 2 nodes, but CHIPASSAY_NODE is 1 and CHIPASSAY_RENDEZVOUS is ''")


def test_ranks_started_by_somebody_else_are_refused(tmp_path: Path) -> None:
    code, said = worker(tmp_path, 0, tmp_path / "kept", CHIPASSAY_RENDEZVOUS="127.0.0.1:1", RANK="0")
    assert (code, said) == (
        1,
        "GaveUp: the supervisor starts the ranks of this case; give --remote a template that starts one command a node",
    )


def test_a_folder_that_is_not_shared_is_said(tmp_path: Path) -> None:
    """The nodes meet, but what one wrote the other does not see."""
    endpoint = free_endpoint()
    (tmp_path / "zero").mkdir()
    program = (
        "import sys; from kit.worker import rendezvous; from pathlib import Path; sys.argv[0] = sys.argv[2];"
        "rendezvous.answer(rendezvous.Place(0, 2, sys.argv[1], 300), Path(sys.argv[0]))"
    )
    (tmp_path / "worker.pyz").write_bytes(archive.to_bytes())
    first = subprocess.Popen([sys.executable, "-c", program, endpoint, str(tmp_path / "worker.pyz")], cwd=ROOT)
    code, said = worker(tmp_path, 1, tmp_path / "own", CHIPASSAY_RENDEZVOUS=endpoint, CHIPASSAY_RENDEZVOUS_S="300")
    assert first.wait(timeout=LONG_S) == 0
    assert (code, said) == (78, "worker: node 1 does not see what node 0 wrote; name a folder that all nodes share with --checkpoints DIR")


def told(folder: Path, beat: int, code: int | None = None) -> None:
    said = {"attempt": 1, "node": 1, "beat": beat, "incarnation": 0, "code": code, "ranks": [], "words": [], "killed": 0}
    (folder / "node-00001.json").write_text(json.dumps(said), encoding="utf-8")


def test_a_node_is_lost_by_its_agents_end_or_by_its_silence(tmp_path: Path) -> None:
    watched = nodes.Nodes(nodes.Node(tmp_path, range(1), lambda *_: []), 2, 1)
    watched.incarnation = 0
    assert watched.lost(0) is None, "nothing was heard yet"
    told(tmp_path, 1)
    assert watched.lost(0) is None
    watched.beats[1] = (1, now() - (nodes.LOST_S + 1) * 10**9)
    assert watched.lost(0) == "node 1 fell silent"
    told(tmp_path, 2)
    assert watched.lost(0) is None
    watched.beats[1] = (2, now() - (nodes.QUIET_S + 1) * 10**9)
    assert watched.quiet(nodes.QUIET_S) == "node 1 fell silent"
    told(tmp_path, 3)
    assert watched.quiet(nodes.QUIET_S) is None, "what it said while nobody listened counts"
    told(tmp_path, 3, -9)
    assert watched.lost(0) == "the agent of node 1 ended with -9"
    assert watched.lost(1) is None, "that was the start before"


def test_a_node_with_other_software_is_not_taken_back(tmp_path: Path) -> None:
    own = nodes.Node(tmp_path, range(1, 2), lambda *_: [])
    nodes.Nodes(nodes.Node(tmp_path, range(1), lambda *_: [sys.executable, "-c", ""]), 2, 1, {"torch": "1"}).start(0, 0)
    keeper = nodes.Keeper(own, 1, 1, lambda theirs: f"torch {theirs['torch']}")
    assert keeper.is_back()
    assert keeper.run() == "torch 1"
    assert not nodes.Keeper(own, 1, 2).is_back(), "orders of another attempt"


AGENT = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
pathlib.Path({ready!r}).touch()
time.sleep({lasts_s})
"""


@pytest.mark.parametrize(
    ("well", "restarts", "lasts_s", "code"),
    [(True, 0, 2, 0), (True, 1, LONG_S, -signal.SIGKILL), (False, 0, LONG_S, 3), (False, 1, LONG_S, 3)],
    ids=["waited for", "killed", "told to end", "told to end before it restarts"],
)
def test_an_agent_whose_ranks_ended_well_sees_no_signal(tmp_path: Path, well: bool, restarts: int, lasts_s: int, code: int) -> None:
    ready = tmp_path / "ready"
    program = AGENT.format(ready=str(ready), lasts_s=lasts_s)
    node = nodes.Node(tmp_path, range(1), lambda *_: [sys.executable, "-c", program])
    node.start(0, restarts)
    deadline = time.monotonic() + LONG_S
    while not ready.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    node.end(well=well)
    assert node.code() == code


def test_ranks_have_stopped_where_each_said_so(tmp_path: Path) -> None:
    node = nodes.Node(tmp_path, range(2, 4), lambda *_: [])
    for rank in (2, 3):
        assert not node.stopped(0)
        slot = Slot(tmp_path, rank)
        slot.begin(0)
        slot.say(0, DONE, "")
    assert node.stopped(0)
    assert not node.stopped(1)
    slot.begin(1)
    slot.say(1, "loss", "")
    assert not node.stopped(1)
