"""Things slipped into a pinned container beside an honest worker: a preloaded library, a mount, another archive (attack row 32)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from kit import archive
from tests.conftest import ROOT
from tests.integration.test_main_job import ISOLATIONS, only_run, verify

CASE = "text-generation-llama-tiny-c1"
SLIP = """
import sys
from docker.types import Mount
from kit import cli, container

honest = container.request
folder, worker = sys.argv[1:3]


def slipped(given, task):
    made = honest(given, task)
    made["environment"] |= {"LD_PRELOAD": "/usr/lib/slipped/libslipped.so"}
    made["mounts"] = [mount for mount in made["mounts"] if mount["Target"] != "/worker.pyz"]
    made["mounts"] += [Mount("/worker.pyz", worker, type="bind", read_only=True), Mount("/usr/lib/slipped", folder, type="bind", read_only=True)]
    return made


container.request = slipped
sys.exit(cli.main(sys.argv[3:]))
"""


def test_what_is_slipped_into_a_container_is_refused(tmp_path: Path) -> None:
    (tmp_path / "slip.py").write_text(SLIP, encoding="utf-8")
    (tmp_path / "worker.pyz").write_bytes(archive.to_bytes() + b"\0")
    (tmp_path / "worker.pyz").chmod(0o644)
    (tmp_path / "slipped").mkdir()
    (tmp_path / "slipped/libslipped.so").write_bytes(b"not a library: the loader says so and goes on")
    command = [sys.executable, str(tmp_path / "slip.py"), str(tmp_path / "slipped"), str(tmp_path / "worker.pyz")]
    command += ["run", "--plan", "smoke", "--case", CASE, "--isolation", "container", "--out", str(tmp_path / "runs")]
    environment = os.environ | ISOLATIONS["container"] | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True)
    run = only_run(tmp_path / "runs")
    assert done.returncode == 1, done.stderr
    said = json.loads((run / f"evidence/cases/{CASE}/attempt-1/inside-rank0000.json").read_bytes())
    assert said["variables"]["LD_PRELOAD"] == "/usr/lib/slipped/libslipped.so"
    target = tmp_path / "result.json"
    assert verify(str(run), "--policy", "self", "--json", str(target)).returncode == 1
    broken = {finding["rule"] for finding in json.loads(target.read_text())["findings"]}
    assert broken == {"inside.variables", "inside.mounts", "inside.worker"}
