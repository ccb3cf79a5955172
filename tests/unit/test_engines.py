"""Engines are found by name: those of the worker, and those of other packages by their entry point."""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
from pathlib import Path

import pytest

import kit.worker
from kit.worker import engines
from tests.conftest import ROOT

EXAMPLE = ROOT / "examples/engine"


def installed(folder: Path, name: str, entry: str, version: str = "1.0") -> None:
    """What an installer leaves in a folder of packages: name, version, entry points."""
    made = folder / f"{name}-{version}.dist-info"
    made.mkdir()
    (made / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (made / "entry_points.txt").write_text(f"[chipassay.engines]\n{entry}\n")


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages on the path of imports; the worker is a package of its own, as in its archive."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "worker", kit.worker)
    monkeypatch.setitem(sys.modules, "worker.engines", engines)
    monkeypatch.delitem(sys.modules, "counting_engine", raising=False)
    return tmp_path


def test_the_example_of_another_package_generates_by_the_protocol(packages: Path) -> None:
    shutil.copy(EXAMPLE / "counting_engine.py", packages)
    declared = (EXAMPLE / "pyproject.toml").read_text(encoding="utf-8").partition('[project.entry-points."chipassay.engines"]\n')[2]
    installed(packages, "chipassay_counting_engine", declared.splitlines()[0].replace('"', ""))
    engine = engines.module("counting").load({"model": {"vocab_size": 10}}, None)
    items = list(engine.generate([engines.Request(4, [1, 2]), engines.Request(5, [9])], 3))
    made = {
        number: [i for item in items if isinstance(item, engines.Chunk) and item.request == number for i in item.ids] for number in (4, 5)
    }
    assert made == {4: [3, 4, 5], 5: [0, 1, 2]}
    assert [type(item) for item in items[-2:]] == [engines.Done, engines.Done]
    assert [item.ns for item in items] == sorted(item.ns for item in items)


def test_an_engine_that_cannot_be_imported_says_so(packages: Path) -> None:
    installed(packages, "broken", "broken = module_that_is_not_there")
    with pytest.raises(engines.MissingEngine, match=r"engine 'broken' cannot be imported: No module named 'module_that_is_not_there'"):
        engines.module("broken")


def test_an_engine_that_nobody_has() -> None:
    with pytest.raises(engines.MissingEngine, match="engine 'warp' cannot be imported"):
        engines.module("warp")


@pytest.mark.parametrize(
    ("found", "fits"),
    [("0.18.0", True), ("0.16", True), ("0.18.3.post1", True), ("0.19.0", False), ("0.9.2", False), ("1.0", False)],
)
def test_a_version_that_does_not_fit_is_named(found: str, fits: bool, packages: Path) -> None:
    installed(packages, "some_engine", "some = x", found)
    if fits:
        assert engines.wanted("some-engine", "0.16", "0.19") == found
        return
    with pytest.raises(engines.MissingEngine, match=rf"wanted some-engine >=0.16,<0.19, found {found}; "):
        engines.wanted("some-engine", "0.16", "0.19")


def test_a_package_that_is_missing_is_named() -> None:
    assert "no-such-engine" not in {dist.name for dist in importlib.metadata.distributions()}
    with pytest.raises(engines.MissingEngine, match="wanted no-such-engine >=1,<2, found none"):
        engines.wanted("no-such-engine", "1", "2")
