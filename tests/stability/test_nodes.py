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
from kit.worker.ranks import free_endpoint
from kit.worker.stability import nodes
from tests.conftest import ROOT
from tests.stability.standin import GO_ON
from verify.metrics import stability

pytestmark = pytest.mark.torch
LONG_S = 600


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
    made = case(0, 1) | {"faults": [{"kind": kind, "step": 20 * number} for number, kind in enumerate(kinds, start=1)]}
    with pair(tmp_path, made) as both:
        found = both.end()
    assert [finding for finding in stability.rules(both.made, found) if finding.severity == "error"] == []
    told = Counter(crash.fault for _, crash in found.crashes)
    assert told == {"process_end": 1, "out_of_memory": 1, "hang": 1}
    assert "stability.detected" not in {finding.rule for finding in stability.rules(both.made, found)}


def test_a_node_that_is_lost_counts_once_and_comes_back(tmp_path: Path) -> None:
    """Its rank, its agent, and then all of it: the supervisor waits until it is there again."""
    with pair(tmp_path, case(0, 1) | {"hang_s": 30}) as both:
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


def told(folder: Path, beat: int, code: int | None = None) -> None:
    said = {"attempt": 1, "node": 1, "beat": beat, "incarnation": 0, "code": code, "ranks": [], "words": [], "killed": 0}
    (folder / "node-00001.json").write_text(json.dumps(said), encoding="utf-8")


def test_a_node_is_lost_by_its_agents_end_or_by_its_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = nodes.Nodes(nodes.Node(tmp_path, range(1), lambda *_: []), 2, 1)
    assert watched.lost(0) is None, "nothing was heard yet"
    told(tmp_path, 1)
    assert watched.lost(0) is None
    monkeypatch.setattr(nodes, "LOST_S", 0)
    time.sleep(0.01)
    assert watched.lost(0) == "node 1 fell silent"
    told(tmp_path, 2)
    assert watched.lost(0) is None
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
