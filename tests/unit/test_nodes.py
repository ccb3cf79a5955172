"""Cases on several nodes, without any: hostfiles, how a command travels, what ends what, and whose word the reason is."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kit import attempt, nodes, plan
from kit.archive import Archive
from kit.errors import KitError
from kit.job import Isolation, Job, NodeCommand, Outcome
from kit.worker import ranks, rendezvous
from tests.adversarial.builder import source

TWO = nodes.Site((("a", 4), ("b", 4)), "sh -c {command} {host}", "10.0.0.1:7000")


def hostfile(folder: Path, text: str) -> Path:
    path = folder / "hosts"
    path.write_text(text)
    return path


def test_a_hostfile_is_read_as_deepspeed_reads_it(tmp_path: Path) -> None:
    site = nodes.read(hostfile(tmp_path, "# ours\nnode-1 slots=8\n\nnode-2 slots=8 # the other\n"), None, None)
    assert site.hosts == (("node-1", 8), ("node-2", 8))
    assert site.rendezvous == "node-1:29400"
    assert nodes.read(None, None, "10.0.0.1").rendezvous == "10.0.0.1:29400"


@pytest.mark.parametrize("text", ["", "node-1\n", "node-1 slots=x\n", "-oProxyCommand=x slots=1\n", "a slots=1\na slots=1\n", "\xff\n"])
def test_a_hostfile_that_is_none_is_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(KitError, match="hostfile") as caught:
        nodes.read(path, None, None)
    assert "\n" not in str(caught.value)


def test_a_missing_hostfile_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(KitError, match="cannot be read"):
        nodes.read(tmp_path / "nowhere", None, None)


def test_a_command_travels_as_one_text_for_ssh_as_words_for_others_and_once_to_all() -> None:
    hosts = (("a", 1), ("b", 1))
    command = ["env", "A=x y", "python"]
    assert nodes.Site(hosts, nodes.DEFAULT_REMOTE).carried(1, command) == ["ssh", "-o", "BatchMode=yes", "b", "env 'A=x y' python"]
    assert nodes.Site(hosts, "ip netns exec {host}").carried(1, command) == ["ip", "netns", "exec", "b", *command]
    assert nodes.Site(hosts, "ip netns exec {host}").carried(0, command) == command
    assert nodes.Site((), "srun --nodes=4").carried(0, command) == ["srun", "--nodes=4", *command]


@pytest.mark.parametrize(
    ("case", "site", "cards", "expected"),
    [
        ({"cards": 8, "nodes": 1}, nodes.ALONE, 1, "needs 8 cards on this node, 1 are here"),
        ({"cards": 8, "nodes": 1}, nodes.ALONE, 8, None),
        ({"cards": 8}, nodes.ALONE, None, None),
        ({"cards": 32, "nodes": 4}, TWO, 8, "needs 4 nodes, 2 are named"),
        ({"cards": 32, "nodes": 4}, nodes.Site((), "srun"), 8, None),
        ({"cards": 16, "nodes": 2}, TWO, 8, "needs 8 cards on each node, 4 are here"),
        ({"cards": 8, "nodes": 2}, TWO, 8, None),
        ({"cards": 16, "processes": 1, "nodes": 2, "suite": "stability"}, TWO, 8, "needs 8 cards on each node, 4 are here"),
    ],
)
def test_a_case_that_needs_more_than_there_is_says_so(
    case: dict[str, Any], site: nodes.Site, cards: int | None, expected: str | None
) -> None:
    found = nodes.missing(case, site, cards)
    assert (found is None) if expected is None else str(found).startswith(expected)


def test_nodes_are_one_where_a_plan_does_not_say() -> None:
    made = plan.resolve(source(), "tests")
    assert [case["nodes"] for case in made.cases] == [1, 1]


@pytest.mark.parametrize("value", [3, 0, "2", True])
def test_processes_must_spread_evenly_over_nodes(value: object) -> None:
    document = source()
    document["case"][0]["matrix"] = {"nodes": [value]}
    with pytest.raises(KitError, match="spread evenly"):
        plan.resolve(document, "tests")


@dataclass
class Inner:
    """A runner whose nodes do what they are told."""

    scripts: list[str]
    isolation: Isolation = field(default_factory=lambda: Isolation("none"))

    def node_command(self, job: Job, node: int | None, endpoint: str) -> NodeCommand:
        return NodeCommand([sys.executable, "-c", self.scripts[node or 0], endpoint], [])

    def command(self, job: Job) -> list[str]:
        return ["alone"]

    def run(self, job: Job, tick: Any) -> Outcome:
        return Outcome("alone")

    def stop_leftovers(self, run_name: str) -> None: ...


def job(folder: Path, limit_s: int = 20, number: int = 2) -> Job:
    return Job("run", {"id": "x", "nodes": number, "time_limit_s": limit_s}, 1, folder, Archive(Path("worker.pyz"), ""))


FOREVER = "import os, time; open(os.environ['PIDS'] + str(os.getpid()), 'w').close(); time.sleep(600)"


@pytest.fixture
def pids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "pids"
    folder.mkdir()
    monkeypatch.setenv("PIDS", f"{folder}/")
    monkeypatch.setattr(nodes, "SETTLE_S", 0.5)
    return folder


def alive(folder: Path, patience_s: float = 60) -> list[str]:
    """Those that run still when patience ends: one that was killed may need a moment behind the shell that carried it."""
    end = time.monotonic() + patience_s
    while (found := _running(folder)) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def _running(folder: Path) -> list[str]:
    """A zombie waits for whoever is process 1 here, and runs no more."""
    return [path.name for path in folder.iterdir() if _state(path.name) not in {None, "Z"}]


def _state(number: str) -> str | None:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None


def outcome(folder: Path, *scripts: str, limit_s: int = 20) -> Outcome:
    return nodes.NodesRunner(Inner(list(scripts)), TWO).run(job(folder, limit_s), lambda: None)


def test_all_nodes_end_well(tmp_path: Path) -> None:
    assert outcome(tmp_path, "print('zero')", "print('one')") == Outcome(None)
    assert (tmp_path / "stdout.log").read_text() == "zero\n"
    assert (tmp_path / "node-0001.stdout.log").read_text() == "one\n"


def test_one_node_is_the_inner_runners(tmp_path: Path) -> None:
    made = nodes.NodesRunner(Inner([]), TWO)
    assert made.run(job(tmp_path, number=1), lambda: None) == Outcome("alone")


def test_a_node_that_ends_badly_ends_the_others(tmp_path: Path, pids: Path) -> None:
    assert outcome(tmp_path, FOREVER, "import sys; sys.exit(7)") == Outcome("worker of node 1 exited with 7")
    assert alive(pids) == []


def test_a_node_that_is_killed_is_named(tmp_path: Path, pids: Path) -> None:
    assert outcome(tmp_path, FOREVER, "import os; os.kill(os.getpid(), 9)").reason in {
        "worker of node 1 was killed by signal 9",
        "worker of node 1 exited with 137",  # where the shell that carries the command does not give way to it
    }


def test_the_time_limit_ends_all_nodes(tmp_path: Path, pids: Path) -> None:
    assert outcome(tmp_path, FOREVER, FOREVER, limit_s=2) == Outcome("time limit of 2 s reached", timed_out=True)
    assert alive(pids) == []


COUNTED = """
import os, sys, time
path = os.environ["PIDS"] + sys.argv[-1].replace(":", "-")
tries = os.path.getsize(path) if os.path.exists(path) else 0
open(path, "a").write("x")
sys.exit(9 if tries < 2 else 0)
"""
UNTIL_THIRD = """
import os, sys, time
path = os.environ["PIDS"] + sys.argv[-1].replace(":", "-")
while not (os.path.exists(path) and os.path.getsize(path) == 3):
    time.sleep(0.05)
"""


def supervised(folder: Path, *scripts: str, limit_s: int = 600) -> Outcome:
    case = {"id": "x", "nodes": 2, "time_limit_s": limit_s, "duration_s": 1}
    made = Job("run", case, 1, folder, Archive(Path("worker.pyz"), ""))
    return nodes.NodesRunner(Inner(list(scripts)), TWO).run(made, lambda: None)


def test_a_node_of_a_supervised_training_is_brought_back_until_the_first_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "AGAIN_S", 0)
    (tmp_path / "tries").mkdir()
    monkeypatch.setenv("PIDS", f"{tmp_path}/tries/")
    assert supervised(tmp_path, UNTIL_THIRD, COUNTED) == Outcome(None)
    [path] = (tmp_path / "tries").iterdir()
    assert path.read_text() == "xxx"


def test_a_supervised_training_that_is_over_waits_for_no_node_that_was_lost(tmp_path: Path) -> None:
    assert supervised(tmp_path, "pass", "import sys; sys.exit(9)") == Outcome(None)


def test_the_end_of_the_first_node_ends_a_supervised_training(tmp_path: Path, pids: Path) -> None:
    assert supervised(tmp_path, "import sys; sys.exit(3)", FOREVER) == Outcome("worker of node 0 exited with 3")
    assert alive(pids) == []


def test_a_node_that_may_not_take_part_is_not_asked_again(tmp_path: Path, pids: Path) -> None:
    refusal = "import sys; print('worker: node 1 differs from node 0: x', file=sys.stderr); sys.exit(78)"
    found = supervised(tmp_path, FOREVER, refusal)
    assert found == Outcome("worker of node 1 exited with 78")
    assert attempt.state_of(tmp_path, found) == ("failed", "node 1 differs from node 0: x")
    assert alive(pids) == []


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / name.replace("__", "-").replace("_log", ".log").replace("_std", ".std")).write_text(text)
    return folder


def test_a_killed_rank_is_the_reason_whichever_node_speaks_of_it(tmp_path: Path) -> None:
    write(tmp_path, stderr_log="noise\nworker: rank 0: RuntimeError: connection closed by peer\n")
    (tmp_path / "node-0001.stderr.log").write_text("worker: rank 1 was killed by SIGKILL\nmore noise\n")
    assert attempt.state_of(tmp_path, Outcome("worker of node 0 exited with 1")) == ("failed", "rank 1 was killed by SIGKILL")


def test_a_node_that_was_only_stopped_is_not_the_reason(tmp_path: Path) -> None:
    write(tmp_path, stderr_log="worker: stopped by SIGTERM\n")
    (tmp_path / "node-0001.stderr.log").write_text("worker: something else\n")
    assert attempt.state_of(tmp_path, Outcome("x")) == ("failed", "node 1: something else")


def test_the_rank_that_fell_silent_is_named_at_the_time_limit(tmp_path: Path) -> None:
    now = time.time()
    for rank, age in ((0, 0), (1, 30), (2, 1)):
        path = tmp_path / ("events-00000.jsonl" if rank == 0 else f"events-rank{rank:04}-00000.jsonl")
        path.write_text("{}\n")
        os.utime(path, (now - age, now - age))
    late = Outcome("time limit of 60 s reached", timed_out=True)
    assert attempt.state_of(tmp_path, late) == ("failed", "time limit of 60 s reached; rank 1 fell silent 30 s before")
    (tmp_path / "events-rank0001-00000.jsonl").unlink()
    assert attempt.state_of(tmp_path, late)[1] == "time limit of 60 s reached; all ranks were alive to the end"


def failure(exitcode: int, timestamp: int) -> SimpleNamespace:
    return SimpleNamespace(exitcode=exitcode, timestamp=timestamp)


def test_a_rank_killed_by_a_signal_is_blamed_before_those_that_gave_up_for_it(tmp_path: Path) -> None:
    assert ranks.blame({0: failure(1, 5), 1: failure(-9, 6), 2: failure(-15, 4)}, tmp_path) == "rank 1 was killed by SIGKILL"


def test_a_rank_that_gave_up_is_blamed_in_its_own_words(tmp_path: Path) -> None:
    (tmp_path / "events-rank0001-00000.jsonl").write_text('{"e":"case_end","state":"failed","reason":"ValueError: no"}\n')
    assert ranks.blame({0: failure(1, 7), 1: failure(1, 5)}, tmp_path) == "rank 1: ValueError: no"
    assert ranks.blame({3: failure(74, 7)}, tmp_path) == "rank 3: exited with 74"


def test_nodes_that_differ_are_named_with_what_differs() -> None:
    same = {"torch": "2.13.0", "Python": "3.11.7"}
    assert rendezvous.differences({0: same, 1: dict(same)}) is None
    assert rendezvous.differences({0: same, 1: same, 2: same | {"torch": "2.11.0"}}) == (
        "node 2 differs from node 0: torch 2.11.0 instead of 2.13.0"
    )
    many = dict.fromkeys("abcde", "1")
    assert rendezvous.differences({0: {}, 1: many}) == (
        "node 1 differs from node 0: a 1 instead of none, b 1 instead of none, c 1 instead of none and 2 more"
    )


def test_the_site_tells_a_node_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    case = {"nodes": 4}
    monkeypatch.setenv("SLURM_NODEID", "3")
    monkeypatch.setenv(rendezvous.ENDPOINT, "10.0.0.1:7000")
    place = rendezvous.of(case, "")
    assert (place.node, place.nodes, place.roll_call) == (3, 4, ("10.0.0.1", 7001))
    monkeypatch.setenv(rendezvous.NODE, "1")
    assert rendezvous.of(case, "").node == 1
    assert rendezvous.of({}, "127.0.0.1:5").endpoint == "127.0.0.1:5"


@pytest.mark.parametrize(("number", "endpoint"), [("4", "a:1"), ("x", "a:1"), ("1", "a"), ("1", "")])
def test_a_node_that_does_not_know_its_place_says_so(number: str, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(rendezvous.NODE, number)
    monkeypatch.setenv(rendezvous.ENDPOINT, endpoint)
    with pytest.raises(rendezvous.RollCallError, match="4 nodes"):
        rendezvous.of({"nodes": 4}, "")
