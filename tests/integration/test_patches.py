"""A vendor's patch on a small recipe: in the image, in the environment, in both records; and one that does not fit."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import docker
import pytest

from kit import chip, environments
from tests.integration.test_images import built, chips, kit  # noqa: F401 - a fixture

ADDED = "PATCHED = 1"


@pytest.fixture
def patched(chips: Path, tmp_path: Path) -> Path:  # noqa: F811 - the fixture
    """The chips folder of the small recipe, with a patch that adds a line to the one package's __init__.py."""
    house = kit(chips, tmp_path / "cache", "wheelhouse", "fake")
    assert house.returncode == 0, house.stderr
    [wheel] = (Path(house.stdout.strip()) / "wheels").glob("packaging-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        old = archive.read("packaging/__init__.py").decode()
    lines = old.splitlines()
    text = "--- a/packaging/__init__.py\n+++ b/packaging/__init__.py\n"
    text += f"@@ -{len(lines)} +{len(lines)},2 @@\n {lines[-1]}\n+{ADDED}\n"
    (chips / "fake/patches").mkdir()
    (chips / "fake/patches/0001.patch").write_text(text, encoding="utf-8")
    return chips


def test_a_patch_is_in_image_environment_and_record(patched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = built(kit(patched, tmp_path / "cache", "build", "fake")).split()[1]
    said = docker.from_env().containers.run(config, ["-c", "import packaging; print(packaging.PATCHED)"], remove=True)
    assert said.strip() == b"1"
    record = json.loads(next((tmp_path / "cache/images").glob("fake-*[0-9a-f].json")).read_text())
    [patch] = record["patches"]
    assert (patch["file"], patch["paths"]) == ("0001.patch", [{"path": "packaging/__init__.py", "added": 1, "removed": 0}])
    monkeypatch.setenv("CHIPASSAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CHIPASSAY_CHIPS", str(patched))
    made = environments.prepare(chip.load("fake"), print)
    assert made.patches == record["patches"]
    [module] = made.python.parent.parent.glob("lib/python3*/site-packages/packaging/__init__.py")
    assert module.read_text(encoding="utf-8").endswith(f"\n{ADDED}\n")


def test_a_patch_that_does_not_fit_stops_the_build_in_one_line(patched: Path, tmp_path: Path) -> None:
    path = patched / "fake/patches/0001.patch"
    path.write_text(path.read_text(encoding="utf-8").replace("\n ", "\n x"), encoding="utf-8")
    done = kit(patched, tmp_path / "cache", "build", "fake")
    assert done.returncode == 3
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("kit: "), done.stderr
    assert "patch does not apply: 0001.patch: packaging/__init__.py: from line" in last
