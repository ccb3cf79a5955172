"""Images of a small recipe out of the tree: two builds give one digest, the list of contents, and an import without a network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kit import imports, lock
from kit.errors import KitError
from kit.files import cache_folder, sha256_file
from tests.conftest import ROOT

BUILDER = "buildah" if shutil.which("buildah") else "engine"  # the engine's own builder puts the time into the digest


@pytest.fixture
def chips(tmp_path: Path) -> Path:
    """A folder with the fake chip, whose image holds one package on the processor's base."""
    folder = tmp_path / "chips/fake"
    shutil.copytree(ROOT / "tests/chips/fake", folder)
    text = (ROOT / "images/cpu/image.toml").read_text(encoding="utf-8")
    head, rest = text.split("[base.registry]")
    head = head.replace("source_only", 'imports = ["packaging.version:Version"]\nsource_only')
    head = head.replace('locks = ["requirements.lock", "requirements-public.lock"]', 'locks = ["requirements.lock"]')
    (folder / "image.toml").write_text(head.replace('["deepspeed"]', "[]") + rest[rest.index("[base.debian]") :], encoding="utf-8")
    shutil.copy(ROOT / "images/cpu/base.lock", folder)
    (folder / "requirements.lock").write_text(
        lock.render([lock.read(ROOT / "images/cpu/requirements.lock")["packaging"]]), encoding="utf-8"
    )
    return tmp_path / "chips"


def kit(chips: Path, cache: Path, *args: str, wrap: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    cache.mkdir(exist_ok=True)
    if not (cache / "bases").exists():
        (cache_folder() / "bases").mkdir(parents=True, exist_ok=True)
        (cache / "bases").symlink_to(cache_folder() / "bases")
    env = os.environ | {"CHIPASSAY_CACHE": str(cache), "CHIPASSAY_CHIPS": str(chips), "CHIPASSAY_BUILDER": BUILDER}
    return subprocess.run(
        [*wrap, sys.executable, "-m", "kit", "image", *args], check=False, cwd=ROOT, env=env, text=True, capture_output=True, timeout=900
    )


def built(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return next(line for line in done.stdout.splitlines() if line.startswith("config "))


def test_two_builds_give_one_digest_and_the_image_travels_without_network(chips: Path, tmp_path: Path) -> None:
    first = built(kit(chips, tmp_path / "one", "build", "fake"))
    second = built(kit(chips, tmp_path / "two", "build", "fake"))
    assert (first == second) == (BUILDER == "buildah")
    listed = [next((tmp_path / cache / "images").glob("*.cdx.json")) for cache in ("one", "two")]
    assert sha256_file(listed[0]) == sha256_file(listed[1])
    names = {part["name"] for part in json.loads(listed[0].read_bytes())["components"]}
    assert {"packaging", "libc6", "python3"} <= names
    record = json.loads(next((tmp_path / "one/images").glob("fake-*[0-9a-f].json")).read_text())
    assert record["sbom"] == sha256_file(listed[0])
    done = kit(chips, tmp_path / "one", "export", "fake", str(tmp_path / "image.tar"))
    assert done.returncode == 0, done.stderr
    import docker

    docker.from_env().images.remove(first.removeprefix("config "), force=True)
    alone = ("unshare", "--net")
    assert built(kit(chips, tmp_path / "three", "import", "fake", str(tmp_path / "image.tar"), wrap=alone)) == first
    checked = kit(chips, tmp_path / "three", "verify", "fake", wrap=alone)
    assert (built(checked), "imports packaging.version:Version" in checked.stdout) == (first, True)
    with pytest.raises(KitError, match="cannot import.*packaging:missing: AttributeError.*no_such_module: ModuleNotFoundError"):
        imports.check(docker.from_env(), first.removeprefix("config "), ["json", "packaging:missing", "no_such_module"])
    with (tmp_path / "image.tar").open("r+b") as file:
        file.truncate(1000)
    cut = kit(chips, tmp_path / "three", "import", "fake", str(tmp_path / "image.tar"))
    assert (cut.returncode, "export was changed" in cut.stderr) == (1, True)
    docker.from_env().images.remove(first.removeprefix("config "), force=True)
