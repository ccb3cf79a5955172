"""What goes wrong on real machines: a case that fails, one that never ends, an image that is not the recorded one."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import docker
import pytest

from kit import chip, image
from kit.errors import FAILED
from tests.conftest import ROOT
from tests.integration.test_main_job import ISOLATIONS, containers_of, kit, only_run, verify

LIMIT_S = 15


def toml(value: Any) -> str:
    """A value of a plan as TOML; inline tables for objects."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(part)}" for key, part in value.items()) + " }"
    return json.dumps(value)


def troubled(path: Path) -> Path:
    """Three cases of the smoke plan: one whose data is missing, one that is well, one that takes far too long."""
    smoke = tomllib.loads((ROOT / "manifests/plans/smoke.toml").read_text(encoding="utf-8"))
    train, text = smoke["case"]
    del text["matrix"]
    cases = [
        train | {"id": "fails", "data": "nowhere.txt"},
        text | {"id": "well", "concurrency": 1, "measured_rounds": 1},
        text | {"id": "endless", "concurrency": 1, "measured_rounds": 1000, "time_limit_s": LIMIT_S},
    ]
    head = "".join(f"{key} = {toml(value)}\n" for key, value in smoke.items() if key != "case")
    body = "".join("\n[[case]]\n" + "".join(f"{key} = {toml(value)}\n" for key, value in case.items()) for case in cases)
    path.write_text(head + body, encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", ISOLATIONS)
def test_a_case_that_fails_or_never_ends_is_recorded_and_the_rest_go_on(kind: str, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    done = kit("run", "--plan", str(troubled(tmp_path / "plan.toml")), "--out", str(out), env=ISOLATIONS[kind])
    assert done.returncode == 1, done.stderr
    run = only_run(out)
    cases = json.loads((run / "evidence/cases.json").read_text())["cases"]
    found = {case["id"]: (case["state"], case["attempts"][0]["reason"]) for case in cases}
    assert found["well"] == ("done", None)
    assert found["endless"] == ("failed", f"time limit of {LIMIT_S} s reached")
    assert found["fails"][0] == "failed"
    assert "nowhere.txt" in str(found["fails"][1])
    assert done.stdout.count("0 (failed)") == 2
    assert verify(str(run), "--policy", "self").returncode == 0
    if kind == "container":
        assert containers_of(run) == []


def test_an_image_that_is_not_the_recorded_one(tmp_path: Path) -> None:
    identity = image.ensure(chip.load("cpu"), print)
    client = docker.from_env()
    other = client.images.list("chipassay/base")[0]
    assert other.tag(identity.reference)
    try:
        done = kit("run", "--isolation", "container", "--out", str(tmp_path / "runs"))
    finally:
        client.images.get(identity.config).tag(identity.reference)
    assert done.returncode == FAILED
    [line] = done.stderr.strip().splitlines()
    assert line.startswith(f"kit: image is not the locked one ({identity.reference})")
    assert identity.config in line
    assert other.id in line
    assert not (tmp_path / "runs").exists() or list((tmp_path / "runs").iterdir()) == []


def test_an_image_goes_from_machine_to_machine(tmp_path: Path) -> None:
    exported = tmp_path / "cpu.tar"
    assert kit("image", "export", "cpu", str(exported)).returncode == 0
    elsewhere = {"CHIPASSAY_CACHE": str(tmp_path / "cache")}
    assert kit("image", "verify", "cpu", env=elsewhere).returncode == 3
    done = kit("image", "import", "cpu", str(exported), env=elsewhere)
    assert done.returncode == 0, done.stderr
    assert kit("image", "verify", "cpu", env=elsewhere).stdout == kit("image", "verify", "cpu").stdout
    with exported.open("ab") as file:
        file.write(b"\0")
    refused = kit("image", "import", "cpu", str(exported), env=elsewhere)
    assert (refused.returncode, "export was changed" in refused.stderr) == (1, True)
