"""The main job for real: run, seal, verify, tamper, kill, resume, interrupt - through the command line.

`--isolation none` would need torch in this interpreter; these tests use what a user gets: a container where an engine
answers, and the environment made from the lock where none does.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kit import plan
from tests.conftest import ROOT

NO_ENGINE = {"DOCKER_HOST": "unix:///nonexistent/engine.sock"}
MAY_BE_ZERO = {"greedy_gap_max"}  # how far tokens are from the judge's own choice: best is not at all
ISOLATIONS = {"container": {}, "environment": NO_ENGINE}


def kit(*args: str, env: dict[str, str] | None = None, cwd: Path = ROOT, timeout: float = 1500) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kit", *args],
        check=False,
        cwd=cwd,
        env=os.environ | (env or {}),
        text=True,
        capture_output=True,
        timeout=timeout,
    )


def verify(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "verify", *args], check=False, cwd=ROOT, text=True, capture_output=True, timeout=300)


def only_run(out: Path) -> Path:
    [run] = [path for path in out.iterdir() if path.is_dir()]
    return run


def start(out: Path, env: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "kit", "run", "--case", "pretrain-*", "--out", str(out)],
        cwd=ROOT,
        env=os.environ | env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - one call; jobs in the background ignore Ctrl-C
    )


def wait_for_steps(out: Path, process: subprocess.Popen[str], steps: int = 3) -> None:
    deadline = time.monotonic() + 1200
    while time.monotonic() < deadline:
        events = list(out.glob("*/evidence/cases/*/attempt-1/events-00000.jsonl"))
        if events and events[0].read_bytes().count(b'"step"') >= steps:
            return
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.05)
    raise AssertionError("the case never got to its steps")


def containers_of(run: Path) -> list[str]:
    import docker

    return [c.name for c in docker.from_env().containers.list(all=True, filters={"label": f"chipassay.run={run.name}"})]


@pytest.mark.parametrize("kind", ISOLATIONS)
def test_smoke_end_to_end(kind: str, tmp_path: Path) -> None:
    done = kit("run", "--plan", "smoke", "--out", str(tmp_path), env=ISOLATIONS[kind])
    assert done.returncode == 0, done.stderr
    run = only_run(tmp_path)
    result = json.loads((tmp_path / f"{run.name}.result.json").read_text())
    assert result["verdict"] == "verified"
    assert {case["id"]: case["state"] for case in result["cases"]} == {case["id"]: "done" for case in plan.load("smoke").cases}
    for case in result["cases"]:
        zero = {name for name, metric in case["metrics"].items() if not metric["value"] > 0}
        assert zero <= MAY_BE_ZERO, (case["id"], zero)
    assert json.loads((run / "evidence/environment.json").read_text())["isolation"]["kind"] == kind
    assert ("NO CONTAINER" in done.stderr) == (kind == "environment")
    assert "tgs" in done.stdout
    assert verify(str(run), "--policy", "self").returncode == 0
    assert verify(str(run)).returncode == 2
    assert subprocess.run(["sh", "docs/check.sh", str(run)], cwd=ROOT, check=False).returncode == 0
    events = run / "evidence/cases/pretrain-llama-tiny/attempt-1/events-00000.jsonl"
    events.write_bytes(events.read_bytes().replace(b'"loss"', b'"Loss"', 1))
    assert verify(str(run), "--policy", "self").returncode == 1
    assert subprocess.run(["sh", "docs/check.sh", str(run)], cwd=ROOT, check=False).returncode == 1


@pytest.mark.parametrize("kind", ISOLATIONS)
def test_killed_run_is_resumed(kind: str, tmp_path: Path) -> None:
    process = start(tmp_path, ISOLATIONS[kind])
    wait_for_steps(tmp_path, process)
    process.kill()
    process.wait()
    run = only_run(tmp_path)
    unsealed = verify(str(run), "--policy", "self")
    assert (unsealed.returncode, "python -m kit seal RUN" in unsealed.stdout) == (1, True)
    done = kit("run", "--resume", str(run), "--case", "pretrain-*", env=ISOLATIONS[kind])
    assert done.returncode == 0, done.stderr
    cases = json.loads((run / "evidence/cases.json").read_text())["cases"]
    assert [a["state"] for a in cases[0]["attempts"]] == ["interrupted", "done"]
    assert [c["state"] for c in cases if c["suite"] == "pretrain"] == ["done", "done"]
    assert {c["state"] for c in cases if c["suite"] != "pretrain"} == {"not_run"}
    assert (run / "evidence/cases/pretrain-llama-tiny/attempt-1/events-00000.jsonl").stat().st_size > 0
    assert verify(str(run), "--policy", "self").returncode == 0


@pytest.mark.parametrize("kind", ISOLATIONS)
def test_interrupt_leaves_a_sealable_run_and_no_worker(kind: str, tmp_path: Path) -> None:
    process = start(tmp_path, ISOLATIONS[kind])
    wait_for_steps(tmp_path, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    run = only_run(tmp_path)
    assert process.returncode == 1
    assert "--resume" in err.splitlines()[-1]
    assert "Traceback" not in err
    if kind == "container":
        assert containers_of(run) == []
    assert subprocess.run(["pgrep", "-f", str(run)], check=False, capture_output=True).returncode == 1
    sealed = kit("seal", str(run))
    assert sealed.returncode == 1  # the record is verified, a case is not done
    assert verify(str(run), "--policy", "self").returncode == 0
