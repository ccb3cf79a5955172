"""Suites are found by name: those of verify, looked for once, and those of other packages by their entry point."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kit import plan
from kit.errors import KitError
from verify import metrics
from verify.findings import Unchecked

MODULE = "SECTION = 'training'\nPART = 'other'\nEVENTS = ()\nRULES = {}\n"


def forgotten() -> None:
    """The suites are looked for again, as in a process that has just begun."""
    importlib.invalidate_caches()
    metrics.suites.cache_clear()
    metrics._foreign.cache_clear()


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of packages on the path of imports; afterwards nobody remembers what was in it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    monkeypatch.undo()
    forgotten()


def installed(folder: Path, package: str, entry: str) -> None:
    """What an installer leaves in a folder of packages."""
    made = folder / f"{package}-1.dist-info"
    made.mkdir()
    (made / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n")
    (made / "entry_points.txt").write_text(f"[chipassay.suites]\n{entry}\n")
    forgotten()


def test_the_folder_of_suites_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    forgotten()
    asked: list[Any] = []
    listed = pkgutil.iter_modules
    monkeypatch.setattr(pkgutil, "iter_modules", lambda *given: asked.append(given) or listed(*given))
    found = [metrics.suites() for _ in range(3)]
    for name in found[0]:
        metrics.load(name)
    assert len(asked) == 1
    assert found[0] == found[1] == found[2] == tuple(sorted(found[0]))
    own = {path.stem for path in Path(metrics.__file__).parent.glob("*.py")} - {"__init__"}
    assert own <= set(found[0])


def test_a_suite_of_another_package_is_known(packages: Path) -> None:
    (packages / "outoftree_suite.py").write_text(MODULE)
    installed(packages, "outoftree_suite", "foundry = outoftree_suite")
    assert "foundry" in metrics.suites()
    assert metrics.load("foundry").PART == "other"
    with pytest.raises(Unchecked, match="unknown suite 'refinery'; known: .*foundry"):
        metrics.load("refinery")


def test_a_suite_that_cannot_be_imported_is_an_error(packages: Path) -> None:
    installed(packages, "broken_suite", "foundry = module_that_is_not_there")
    with pytest.raises(ModuleNotFoundError, match="module_that_is_not_there"):
        metrics.load("foundry")


@pytest.mark.parametrize("entries", [["pretrain = outoftree_suite"], ["foundry = outoftree_suite", "foundry = another_suite"]])
def test_no_package_takes_the_place_of_a_suite(packages: Path, entries: list[str]) -> None:
    """Formulas of verify must not be others because of what is installed beside it."""
    for number, entry in enumerate(entries):
        installed(packages, f"package{number}", entry)
    name = entries[0].partition(" ")[0]
    with pytest.raises(Unchecked, match=rf"suite '{name}' is there twice \(entry point of .*package\d\); uninstall one of them"):
        metrics.suites()
    with pytest.raises(KitError, match=rf"suite '{name}' is there twice"):
        plan.load("smoke")
