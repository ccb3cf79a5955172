"""What goes wrong on real machines: a case that fails, one that never ends, an image that is not the recorded one."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest

from kit import chip, image, recipe
from kit.errors import ENVIRONMENT, FAILED
from tests.conftest import ROOT
from tests.integration.test_main_job import ISOLATIONS, NO_ENGINE, containers_of, kit, only_run, verify

LIMIT_S = 15


def toml(value: Any) -> str:
    """A value of a plan as TOML; inline tables for objects."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(part)}" for key, part in value.items()) + " }"
    return json.dumps(value)


def troubled(path: Path) -> Path:
    """Three cases of the smoke plan: one whose data is missing, one that is well, one that takes far too long."""
    smoke = tomllib.loads((ROOT / "manifests/plans/smoke.toml").read_text(encoding="utf-8"))
    train, text = (next(case for case in smoke["case"] if case["suite"] == suite) for suite in ("pretrain", "text_generation"))
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


@dataclass(frozen=True)
class Tree:
    """A copy of this tree with a recipe of its own, recorded as built into the real image, so that no test disturbs that one."""

    folder: Path
    recipe: str
    config: str

    @property
    def name(self) -> str:
        return f"chipassay/cpu:{self.recipe[:12]}"

    def kit(self, *args: str) -> subprocess.CompletedProcess[str]:
        return kit(*args, env={"CHIPASSAY_CACHE": str(self.folder / "cache")}, cwd=self.folder)


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    real = image.ensure(chip.load("cpu"), print)
    folder = tmp_path / "tree"
    for name in ("kit", "verify", "manifests", "images", "baselines", "requirements"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "Dockerfile", folder)
    text = (folder / "images/cpu/image.toml").read_text(encoding="utf-8") + f"# {tmp_path}\n"
    (folder / "images/cpu/image.toml").write_text(text, encoding="utf-8")
    made = recipe.Recipe(tomllib.loads(text), folder / "images/cpu").sha256()
    record = folder / f"cache/images/cpu-{made[:12]}.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps(real.record | {"recipe": made}), encoding="utf-8")
    copied = Tree(folder, made, real.config)
    yield copied
    with contextlib.suppress(docker.errors.ImageNotFound):
        docker.from_env().images.remove(copied.name)


def test_an_image_is_known_by_its_digest_and_not_by_its_name(tree: Tree) -> None:
    assert tree.config in tree.kit("image", "verify", "cpu").stdout
    client = docker.from_env()
    labels = {"chipassay.recipe": tree.recipe}
    container = client.containers.create(tree.config)
    repository, tag = tree.name.split(":")
    container.commit(repository, tag, conf={"Labels": labels})
    container.remove()
    assert client.images.get(tree.name).id != tree.config
    assert tree.config in tree.kit("image", "verify", "cpu").stdout


def refused_line(tree: Tree, why: str, *digests: str) -> None:
    done = tree.kit("run", "--isolation", "container", "--out", str(tree.folder / "runs"))
    assert done.returncode == FAILED
    [line] = done.stderr.strip().splitlines()
    assert line.startswith(f"kit: image is not the locked one ({tree.name})")
    assert all(part in line for part in (why, *digests)), line
    assert not (tree.folder / "runs").exists() or list((tree.folder / "runs").iterdir()) == []


def test_a_foreign_image_under_the_name_is_refused(tree: Tree) -> None:
    other = docker.from_env().images.list("chipassay/base")[0]
    assert other.tag(tree.name)
    refused_line(tree, "record of its build", tree.config, other.id)


def test_an_image_that_is_not_the_pinned_one_is_refused(tree: Tree) -> None:
    pinned = f"sha256:{'0' * 64}"
    pin = {"recipe": tree.recipe, "config": pinned, "manifest": None, "platform": "linux/amd64"}
    (tree.folder / "images/cpu/image.pin.json").write_text(json.dumps(pin), encoding="utf-8")
    refused_line(tree, "image.pin.json", tree.config, pinned)


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


def test_a_plan_that_requires_a_container_stops_without_an_engine(tmp_path: Path) -> None:
    text = (ROOT / "manifests/plans/smoke.toml").read_text(encoding="utf-8")
    (tmp_path / "plan.toml").write_text(text.replace('isolation = "preferred"', 'isolation = "required"'), encoding="utf-8")
    done = kit("run", "--plan", str(tmp_path / "plan.toml"), "--out", str(tmp_path / "runs"), env=NO_ENGINE)
    assert done.returncode == ENVIRONMENT
    [line] = done.stderr.strip().splitlines()
    assert line.startswith("kit: no container engine answers")
    assert line.endswith("install or start Docker or Podman")
    assert list((tmp_path / "runs").iterdir()) == []
