"""Locks that no index satisfies and wheels that are not the locked ones: one line, what to do, nothing left half made."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from kit import lock, wheelhouse
from kit.errors import ENVIRONMENT, KitError
from kit.files import sha256_file

TARGET = wheelhouse.Target("3.11", "2.28", "x86_64")


@pytest.fixture
def index(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is pip's only index, with one wheel in it."""
    folder = home / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "tiny-1.0-py3-none-any.whl", "w") as file:
        info = "tiny-1.0.dist-info"
        file.writestr("tiny.py", "")
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "PIP_CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(name, value)
    return folder


def a_lock(home: Path, name: str, version: str, sha256: str) -> Path:
    path = home / f"chip/{name}.lock"
    path.parent.mkdir(exist_ok=True)
    path.write_text(lock.render([lock.Pin(name, version, (sha256,))]), encoding="utf-8")
    return path


def test_wheel_with_the_locked_hash_is_taken(index: Path, home: Path) -> None:
    right = a_lock(home, "tiny", "1.0", sha256_file(index / "tiny-1.0-py3-none-any.whl"))
    house = wheelhouse.prepare([right], [], TARGET, lambda _: None)
    assert [path.name for path in (house.folder / "wheels").iterdir()] == ["tiny-1.0-py3-none-any.whl"]


def test_wheel_with_another_hash_is_refused(index: Path, home: Path) -> None:
    wrong = a_lock(home, "tiny", "1.0", "0" * 64)
    with pytest.raises(KitError, match="pip download failed") as caught:
        wheelhouse.prepare([wrong], [], TARGET, lambda _: None)
    assert caught.value.exit_code == ENVIRONMENT
    assert "hash" in str(caught.value).lower()
    assert "\n" not in str(caught.value)
    assert not list((home / "cache/wheelhouse").glob("*/record.json"))


def test_lock_that_the_index_cannot_satisfy(index: Path, home: Path) -> None:
    missing, right = a_lock(home, "nowhere", "3", "0" * 64), a_lock(home, "tiny", "1.0", sha256_file(index / "tiny-1.0-py3-none-any.whl"))
    said: list[str] = []
    assert wheelhouse.prepare([missing, right], [], TARGET, said.append).lock_file == "chip/tiny.lock"
    assert said[1].startswith("lock nowhere.lock cannot be had here (No matching distribution found for nowhere==3")
    with pytest.raises(KitError, match="pip download failed: No matching distribution found for nowhere==3") as caught:
        wheelhouse.prepare([missing], [], TARGET, said.append)
    assert caught.value.exit_code == ENVIRONMENT
