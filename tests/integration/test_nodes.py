"""Two nodes for real: network namespaces joined by a pair of links where this user may make them, else two loopback addresses.

Ranks talk over gloo; what differs from two hosts is the kernel, the clock and the file system that they share.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.integration.test_main_job import NO_ENGINE, only_run, verify

HERE = ["--isolation", "none"] if importlib.util.find_spec("torch") else []  # else the environment made from the lock
PLAN = """
schemaVersion = 1
name = "nodes"
title = { en = "Two nodes", zh = "双节点" }
source = "tests"
isolation = "preferred"
official = false
"""
CASE = """
[[case]]
id = "%(operation)s"
suite = "communication"
operation = "%(operation)s"
cards = 2
processes = 2
nodes = %(nodes)d
elements = 65536
dtype = "float32"
warmups = 5
trials = %(trials)d
samples = 8
fabric_bytes = 65536
seed = 7
time_limit_s = %(limit)d
%(more)s
"""


def plan(path: Path, *operations: str, nodes: int = 2, trials: int = 20, limit: int = 300) -> Path:
    more = {"pt2pt": "peer = 1"}
    cases = [CASE % {"operation": o, "nodes": nodes, "trials": trials, "limit": limit, "more": more.get(o, "")} for o in operations]
    path.write_text(PLAN + "".join(cases), encoding="utf-8")
    return path


@dataclass(frozen=True)
class Site:
    """How node 0 is entered, how it reaches node 1, where they meet."""

    kind: str
    enter: list[str]
    remote: str
    hosts: Path
    rendezvous: str


def ip(*args: str) -> bool:
    with contextlib.suppress(OSError):
        return subprocess.run(["ip", *args], check=False, capture_output=True).returncode == 0
    return False


def joined(names: list[str]) -> bool:
    """Two namespaces, a link between them, an address each."""
    made = all(ip("netns", "add", name) and ip("-n", name, "link", "set", "lo", "up") for name in names)
    ends = [f"v{name[-10:]}" for name in names]
    made = made and ip("link", "add", ends[0], "netns", names[0], "type", "veth", "peer", "name", ends[1], "netns", names[1])
    for number, (name, end) in enumerate(zip(names, ends, strict=True), start=1):
        made = made and ip("-n", name, "addr", "add", f"10.77.7.{number}/24", "dev", end) and ip("-n", name, "link", "set", end, "up")
    return made


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    names = [f"ca{os.getpid()}n{number}" for number in range(2)]
    hosts = tmp_path_factory.mktemp("site") / "hosts"
    try:
        if joined(names):
            hosts.write_text("".join(f"{name} slots=1\n" for name in names), encoding="utf-8")
            yield Site("namespaces", ["ip", "netns", "exec", names[0]], "ip netns exec {host}", hosts, "10.77.7.1")
        else:
            print("no namespaces here: two loopback addresses stand for two nodes")
            hosts.write_text("127.0.0.1 slots=1\n127.0.0.2 slots=1\n", encoding="utf-8")
            yield Site("loopback", [], "env NODE={host}", hosts, "127.0.0.1")
    finally:
        for name in names:
            ip("netns", "del", name)


def command(site: Site, plan: Path, out: Path, remote: str | None = None) -> list[str]:
    options = ["--hosts", str(site.hosts), "--rendezvous", site.rendezvous, "--remote", remote or site.remote]
    return [*site.enter, sys.executable, "-m", "kit", "run", *HERE, "--plan", str(plan), "--out", str(out), *options]


def run(site: Site, plan: Path, out: Path, remote: str | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | NO_ENGINE | variables
    return subprocess.run(
        command(site, plan, out, remote), check=False, cwd=ROOT, env=environment, text=True, capture_output=True, timeout=1200
    )


def reason(out: Path) -> str:
    [case] = json.loads((only_run(out) / "evidence/cases.json").read_text())["cases"]
    return str(case["attempts"][-1]["reason"])


def processes(out: Path, *variables: str) -> list[int]:
    """Workers of a run that live, less those that are zombies, with these variables."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (path / "cmdline").read_bytes().decode(errors="replace")
            told = (path / "environ").read_bytes().decode(errors="replace").split("\0")
            if f"{out}/" in words and "case.json" in words and set(variables) <= set(told):
                found.append(int(path.name))
    return found


def wait_for_rank(out: Path, rank: int, process: subprocess.Popen[str]) -> int:
    """The process of a rank once its group stands."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        events = list(out.glob(f"*/evidence/cases/*/attempt-1/events-rank{rank:04}-00000.jsonl"))
        if events and b'"place"' in events[0].read_bytes():
            [pid] = processes(out, f"RANK={rank}")
            return pid
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.1)
    raise AssertionError("the rank never came")


def disturbed(site: Site, plan: Path, out: Path, number: signal.Signals) -> None:
    """Start a run and send rank 1 a signal."""
    process = subprocess.Popen(
        command(site, plan, out), cwd=ROOT, env=os.environ | NO_ENGINE, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    with process:
        os.kill(wait_for_rank(out, 1, process), number)
        assert process.wait(timeout=600) == 1


def test_two_nodes_meet_measure_their_network_and_are_verified(site: Site, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    done = run(site, plan(tmp_path / "plan.toml", "all_reduce", "pt2pt"), out)
    assert done.returncode == 0, done.stderr
    folder = only_run(out)
    result = json.loads(folder.with_name(f"{folder.name}.result.json").read_text())
    assert result["verdict"] == "verified"
    assert {case["state"] for case in result["cases"]} == {"done"}
    assert all(case["metrics"]["internode_gbps"]["value"] > 0 for case in result["cases"])
    assert {finding["rule"] for finding in result["findings"]} == {"communication.placement"}, "two nodes of one host are told"
    attempt = folder / "evidence/cases/pt2pt/attempt-1"
    assert {"stderr.log", "node-0001.stderr.log", "events-rank0001-00000.jsonl"} <= {path.name for path in attempt.iterdir()}
    assert verify(str(folder), "--policy", "self").returncode == 0
    assert processes(out) == []


SUPERVISED = """
[[case]]
id = "supervised"
suite = "stability"
cards = 2
processes = 1
nodes = 2
engine = "deepspeed"
zero_stage = 1
checkpoint_activations = false
offload = "none"
loss_chunks = 1
global_batch = 2
micro_batch = 1
optimizer = { learning_rate = 0.001, betas = [0.9, 0.95], eps = 1e-8, weight_decay = 0.01, clip = 1.0, schedule = "constant" }
dtype = "float32"
compile = false
deterministic = false
attention = ["FLASH_ATTENTION", "MATH"]
seed = 1024
data = "shakespeare.txt"
tokenizer = "bytes"
packing = "none"
weights = "random"
checkpoint_format = "safetensors"
duration_s = 1
checkpoint_every = 2
max_restarts = 9
hang_s = 120
start_s = 600
diverged_above = 20.0
faults = [{ kind = "kill_rank", step = 3 }, { kind = "kill_node", step = 6 }]
time_limit_s = 1100

[case.model]
architecture = "llama"
hidden_size = 64
num_layers = 1
num_heads = 2
num_kv_heads = 2
ffn_size = 128
vocab_size = 256
sequence_length = 32
"""


def test_a_training_over_two_nodes_outlives_a_rank_and_a_node(site: Site, tmp_path: Path) -> None:
    """A rank of the second node is killed, then all of that node, which the kit brings back: two crashes, each told once."""
    path, out = tmp_path / "plan.toml", tmp_path / "runs"
    path.write_text(PLAN + SUPERVISED, encoding="utf-8")
    done = run(site, path, out)
    assert done.returncode == 0, done.stderr
    folder = only_run(out)
    result = json.loads(folder.with_name(f"{folder.name}.result.json").read_text())
    [case] = result["cases"]
    assert (result["verdict"], case["state"]) == ("verified", "done")
    assert case["metrics"]["crashes_process_end"]["value"] == case["metrics"]["crashes"]["value"] == 2
    assert {finding["rule"] for finding in result["findings"]} == {"stability.rehearsal"}
    assert processes(out) == []


def test_a_node_that_does_not_come_is_named_within_the_limit(site: Site, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    done = run(site, plan(tmp_path / "plan.toml", "all_reduce"), out, 'sh -c "sleep 600" {host}', CHIPASSAY_RENDEZVOUS_S="20")
    assert done.returncode == 1, done.stderr
    assert reason(out) == "node 1 did not come to the rendezvous within 20 s"
    assert processes(out) == []


def test_a_node_with_other_software_is_refused_by_name(site: Site, tmp_path: Path) -> None:
    stray = tmp_path / "stray/stray-1.0.dist-info"
    stray.mkdir(parents=True)
    (stray / "METADATA").write_text("Metadata-Version: 2.1\nName: stray\nVersion: 1.0\n", encoding="utf-8")
    out = tmp_path / "runs"
    done = run(site, plan(tmp_path / "plan.toml", "all_reduce"), out, f"{site.remote} env PYTHONPATH={stray.parent}")
    assert done.returncode == 1, done.stderr
    assert reason(out) == "node 1 differs from node 0: stray 1.0 instead of none"


def test_a_rank_that_is_killed_on_another_node_is_the_reason(site: Site, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    disturbed(site, plan(tmp_path / "plan.toml", "all_reduce", trials=10_000), out, signal.SIGKILL)
    assert reason(out) == "rank 1 was killed by SIGKILL"
    assert processes(out) == []


def test_a_rank_that_hangs_is_named_at_the_time_limit_and_leaves_no_process(site: Site, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    disturbed(site, plan(tmp_path / "plan.toml", "all_reduce", nodes=1, trials=10_000, limit=60), out, signal.SIGSTOP)
    assert reason(out).startswith("time limit of 60 s reached; rank 1 fell silent ")
    assert processes(out) == []
