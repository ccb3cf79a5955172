"""Which folder of weights a worker is given, what is sealed about it, and that a container gets no other and cannot write it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from kit import archive, chip, container, grants, launchers, weights
from kit.job import Job

TAUGHT = {"id": "x", "weights": "taught"}


def own(folder: Path, name: str) -> Path:
    top = folder / name
    top.mkdir(parents=True)
    (top / weights.LOCK).write_text("{}", encoding="utf-8")
    return top


def test_the_declared_folder_comes_before_the_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(weights.FOLDER, raising=False)
    assert weights.declared(TAUGHT) == weights.root() / weights.SHIPPED / "taught"
    monkeypatch.setenv(weights.FOLDER, str(tmp_path))
    assert weights.declared(TAUGHT) == weights.root() / weights.SHIPPED / "taught"
    assert weights.declared({"weights": "mine"}) is None
    assert weights.declared(TAUGHT) != own(tmp_path, "taught") == weights.declared(TAUGHT)


@pytest.mark.parametrize("case", [{"weights": "random"}, {}, {"weights": "nowhere"}])
def test_a_case_without_weights_on_the_host_gets_none(case: dict[str, str]) -> None:
    assert weights.declared(case) is None
    assert weights.variables(case) == {}
    assert weights.granted([case]) == {}


def test_a_container_reads_one_folder_and_the_seal_names_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top = own(tmp_path, "mine")
    own(tmp_path, "other")
    monkeypatch.setenv(weights.FOLDER, str(tmp_path))
    case = {"id": "x", "weights": "mine"}
    given = grants.of(chip.load("cpu"), (), weights=weights.granted([case, {"weights": "random"}]))
    assert given.sealed()["weights"] == {"mine": hashlib.sha256(b"{}").hexdigest()}
    task = container.task("image", Job("RUN", case, 1, tmp_path / "attempt", archive.Archive(tmp_path / "worker.pyz", "0" * 64)))
    asked = container.request(given, task)
    mounts = {mount["Target"]: (mount["Source"], mount["ReadOnly"]) for mount in asked["mounts"]}
    assert mounts["/weights/mine"] == (str(top), True)
    assert len(mounts) == 3
    assert asked["environment"][weights.FOLDER] == "/weights"
    assert str(tmp_path) not in str(given.sealed())


def test_a_bare_worker_is_told_the_folder_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own(tmp_path, "mine")
    monkeypatch.setenv(weights.FOLDER, str(tmp_path))
    assert weights.variables({"weights": "mine"}) == {weights.FOLDER: str(tmp_path)}
    task = launchers.Task("x", "image", Path("/w.pyz"), Path("/f"), weights=tmp_path / "mine")
    assert f"{weights.FOLDER}={tmp_path}" in launchers.bare(chip.load("cpu"), grants.of(chip.load("cpu"), ()), task)


def test_data_is_a_second_folder_with_a_lock_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(weights.DATA_FOLDER, str(tmp_path))
    case = {"id": "x", "data": "corpus"}
    assert weights.dataset(case) is None
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / weights.DATA_LOCK).write_text("{}", encoding="utf-8")
    assert weights.dataset(case) == tmp_path / "corpus"
    assert weights.variables(case) == {weights.DATA_FOLDER: str(tmp_path)}
    assert weights.granted([case]) == {"corpus": hashlib.sha256(b"{}").hexdigest()}
    task = container.task("image", Job("RUN", case, 1, tmp_path / "attempt", archive.Archive(tmp_path / "worker.pyz", "0" * 64)))
    asked = container.request(grants.of(chip.load("cpu"), ()), task)
    assert ("/data/corpus", str(tmp_path / "corpus"), True) in {(m["Target"], m["Source"], m["ReadOnly"]) for m in asked["mounts"]}
    assert asked["environment"][weights.DATA_FOLDER] == "/data"
    assert f"{weights.DATA_FOLDER}={tmp_path}" in launchers.bare(chip.load("cpu"), grants.of(chip.load("cpu"), ()), task)
