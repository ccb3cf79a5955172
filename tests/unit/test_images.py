"""Parts of image building that need no engine."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from kit import base, builder, chip, environments, image, launch, lock, recipe, sbom
from kit.errors import ENVIRONMENT, FAILED, KitError
from tests.conftest import ROOT


def test_sbom_has_one_component_a_package_and_the_same_bytes() -> None:
    debian, python = [["b", "2", "amd64"], ["a", "1:1", "all"]], [["Torch", "2.13"], ["my_pkg", "1"]]
    made = sbom.document(debian, python)
    assert made == sbom.document(debian[::-1], python[::-1])
    parts = json.loads(made)["components"]
    assert [part["purl"] for part in parts] == [
        "pkg:deb/debian/a@1:1?arch=all",
        "pkg:deb/debian/b@2?arch=amd64",
        "pkg:pypi/torch@2.13",
        "pkg:pypi/my-pkg@1",
    ]


def test_what_reads_the_image_is_valid_python() -> None:
    compile(sbom.READ, "read", "exec")


def test_unknown_builder_is_misuse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(builder.CHOICE, "kaniko")
    with pytest.raises(KitError, match="unknown builder 'kaniko'"):
        builder.chosen()


def test_missing_buildah_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KitError, match="buildah is missing"):
        builder._buildah(["images"])


class Engine:
    """Takes any tar and says that it held one image."""

    class images:  # noqa: N801 - the SDK's own name
        @staticmethod
        def load(data: object) -> list[object]:
            return [type("Image", (), {"id": "sha256:" + "1" * 64})]


def archived(folder: Path, sha256: str) -> recipe.Recipe:
    return recipe.Recipe({"base": {"archive": {"file": "base.tar", "sha256": sha256, "source": "the vendor's site"}}}, folder)


def test_archive_is_taken_by_its_hash_and_refused_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(base.ARCHIVES, str(tmp_path))
    data = b"whole archive"
    made = archived(tmp_path, hashlib.sha256(data).hexdigest())
    with pytest.raises(KitError, match="is not here .*get it from: the vendor's site") as missing:
        base.ensure(made, Engine, print)
    assert missing.value.exit_code == ENVIRONMENT
    (tmp_path / "base.tar").write_bytes(data)
    assert base.ensure(made, Engine, print).sealed()["kind"] == "archive"
    (tmp_path / "base.tar").write_bytes(data[:-1])
    with pytest.raises(KitError, match="file of 12 bytes is .*cut short") as cut:
        base.ensure(made, Engine, print)
    assert cut.value.exit_code == FAILED


def test_digest_is_unchecked_until_a_day_or_a_pin_says_otherwise(tmp_path: Path) -> None:
    digest = "sha256:" + "a" * 64
    made = recipe.Recipe({"base": {"registry": {"reference": f"python@{digest}", "source": "seen"}}}, tmp_path)
    assert base.unchecked(made)
    (tmp_path / base.PIN).write_text(json.dumps({"base": "sha256:" + "b" * 64}))
    assert base.unchecked(made)
    (tmp_path / base.PIN).write_text(json.dumps({"base": digest}))
    assert not base.unchecked(made)
    dated = recipe.Recipe(
        {"base": {"registry": {"reference": f"python@{digest}", "source": "seen", "checked": "2026-11-24"}}}, tmp_path / "x"
    )
    assert not base.unchecked(dated)


@pytest.mark.parametrize(("official", "kind", "refused"), [(True, "registry", True), (False, "registry", False), (True, "debian", False)])
def test_official_plan_refuses_an_unchecked_base(official: bool, kind: str, refused: bool) -> None:
    product = chip.load("cpu")
    identity = image.ImageIdentity("name", "sha256:" + "0" * 64, None, "linux/amd64", {"base": {"kind": kind}})
    plan = type("Plan", (), {"official": official})
    if refused:
        with pytest.raises(KitError, match="base image was never checked .*pin it: python -m kit image pin cpu"):
            launch._check_base(plan, product, identity)
    else:
        launch._check_base(plan, product, identity)


def test_a_base_that_brings_torch_stays_visible_and_the_lock_holds_none() -> None:
    made = recipe.load(chip.load("amd"))
    assert "python3 -m venv --system-site-packages /opt/venv" in made.dockerfile
    pins = {name for path in made.locks for name in lock.read(path)}
    assert {"deepspeed", "transformers", "peft", "diffusers"} <= pins
    assert not {name for name in pins if name.startswith(("torch", "triton", "nvidia", "rocm"))}
    assert base.unchecked(made)


@pytest.mark.parametrize("name", ["cpu", "nvidia", "ascend"])
def test_other_images_see_nothing_of_their_base(name: str) -> None:
    made = recipe.load(chip.load(name))
    assert made.dockerfile == (ROOT / recipe.DOCKERFILE).read_text(encoding="utf-8")
    assert recipe.VENV in made.dockerfile


def test_no_environment_is_made_from_a_lock_without_torch() -> None:
    with pytest.raises(KitError, match="torch comes with the image's base.* --isolation none") as refused:
        environments.prepare(chip.load("amd"), print)
    assert refused.value.exit_code == ENVIRONMENT


@pytest.mark.parametrize(
    ("said", "next_step"),
    [
        ("E: install arch-test for foreign architecture support", "build on a machine of kind aarch64, or .*qemu-user-static"),
        ("E: Unable to fetch some archives", "check that a Debian mirror can be reached"),
    ],
)
def test_what_mmdebstrap_lacks_has_a_next_step(said: str, next_step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mmdebstrap").write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
    (tmp_path / "mmdebstrap").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    made = recipe.load(chip.load("ascend"))
    with pytest.raises(KitError, match=f"mmdebstrap failed: {said}; {next_step}") as failed:
        base._mmdebstrap(made.base["debian"], made.target.machine, tmp_path / "base.tar")
    assert failed.value.exit_code == ENVIRONMENT
