"""An audit for real: a vendor's run under a challenge, the lab's own runs of the sample, publication, all by command line.

Cases run in the environment made from the lock, as where no container engine answers. Two honest runs on a shared machine
may differ by more than the tolerances allow: what is tested is that the chain holds and says what its own numbers say.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

NO_ENGINE = {"DOCKER_HOST": "unix:///nonexistent/engine.sock"}
WIDE = ROOT / "baselines/tolerances/provisional.toml"


def call(module: str, *args: str, config: Path) -> subprocess.CompletedProcess[str]:
    env = os.environ | NO_ENGINE | {"CHIPASSAY_CONFIG": str(config)}
    return subprocess.run(
        [sys.executable, "-m", module, *args], check=False, cwd=ROOT, env=env, text=True, capture_output=True, timeout=1500
    )


def ok(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def table(folder: Path) -> Path:
    """The shipped table with CVs of 50 %: the two sides share this machine with whatever else it does."""
    path = folder / "wide.toml"
    path.write_text(re.sub("^cv = .*$", "cv = 0.5", WIDE.read_text(encoding="utf-8"), flags=re.MULTILINE), encoding="utf-8")
    return path


@pytest.mark.slow
def test_an_audit_from_challenge_to_publication(tmp_path: Path) -> None:
    vendor, lab, office = tmp_path / "vendor-config", tmp_path / "lab-config", str(tmp_path / "lab")
    ok(call("kit", "lab", "challenge", "--vendor", "acme", "--party", "lab-a", "--policy", "self", "--folder", office,
            "--tolerances", str(table(tmp_path)), "--k", "pretrain=1", "text_generation=1", "text_to_image=1", config=lab))  # fmt: skip
    [asked] = Path(office).glob("*/audit/challenge.dsse.json")
    ok(call("kit", "run", "--plan", "smoke", "--challenge", str(asked), "--out", str(tmp_path / "runs"), config=vendor))
    [run] = [path for path in (tmp_path / "runs").iterdir() if path.is_dir()]
    again = call("kit", "run", "--plan", "smoke", "--challenge", str(asked), "--out", str(tmp_path / "runs"), config=vendor)
    assert (again.returncode, "used before" in again.stderr) == (2, True)
    ok(call("kit", "lab", "receipt", str(run), "--folder", office, "--policy", "self", config=lab))
    drawn = [line.split()[1] for line in ok(call("kit", "lab", "reveal", str(run), "--folder", office, config=lab)).splitlines()[1:]]
    suites = ("pretrain", "specifications", "text-generation", "text-to-image")
    assert sorted(suite for suite in suites for name in drawn if name.startswith(suite)) == list(suites)  # one of each
    ok(call("kit", "lab", "audit", str(run), "--folder", office, "--policy", "self", config=lab))
    audit = asked.parent
    said = json.loads(ok(call("verify", "audit", str(run), str(audit), "--policy", "self", "--json", "-", config=lab)))
    assert (said["verdict"], said["audit"]["verdict"], sorted(said["audit"]["sample"])) == ("verified", "pass", sorted(drawn))
    assert call("verify", "audit", str(run), str(audit), config=lab).returncode == 2
    result = tmp_path / "RESULT"
    ok(call("kit", "lab", "publish", str(run), "--folder", office, "--policy", "self", "--out", str(result), config=lab))
    shutil.rmtree(office)
    ok(call("verify", "publication", str(result), "--policy", "self", config=lab))
    events = next(result.glob("run/*/evidence/cases/*/attempt-1/events-00000.jsonl"))
    events.write_bytes(events.read_bytes().replace(b'"t"', b'"T"', 1))
    assert call("verify", "publication", str(result), "--policy", "self", config=lab).returncode == 1
