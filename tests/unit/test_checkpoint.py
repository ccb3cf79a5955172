"""Checkpoints: exact seconds come out, memory does not pass for a disk, and a folder that cannot do is refused before the run."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from kit import environment, storage
from kit.errors import FAILED, KitError
from tests.adversarial import checkpoints as built
from tests.adversarial.builder import Event
from verify import events, profile, replay
from verify.metrics import checkpoint
from verify.scoring import formulas


def replayed(folder: Path, change: Callable[[list[Event]], Any] = lambda _: None) -> Any:
    return replay.replay(built.build(folder, change), "self")


def test_slowest_rank_counts(tmp_path: Path) -> None:
    outcome = replayed(tmp_path)
    assert (outcome.verdict, outcome.findings) == ("verified", [])
    case = outcome.cases[-1]
    found = {name: metric.value for name, metric in case.metrics.items()}
    size, raw = Fraction(2 * (2000 + 6000)), Fraction(2**24, 20_000_000)
    assert found == {
        "save_total_s": Fraction(120, 1000), "save_model_ms": 30, "save_optimizer_ms": 50,
        "load_total_s": Fraction(50, 1000), "load_warm_s": Fraction(10, 1000), "checkpoint_gb": size / 10**9,
        "save_gb_per_s": size / 120_000_000, "load_gb_per_s": size / 50_000_000, "raw_write_gb_per_s": raw, "raw_read_gb_per_s": raw,
        "save_of_raw": size / 120_000_000 / raw, "load_of_raw": size / 50_000_000 / raw,
    }  # fmt: skip
    assert case.facts == {"weights": "random", "storage": "ext4 on made up", "page_cache": "cold"}


def test_metrics_are_those_that_the_profile_scores(tmp_path: Path) -> None:
    table = next(table for table in profile.load("report-0.2.1").tables if table.id == "checkpoint")
    asked = {part.metric for part in table.parts} | {shown["metric"] for shown in table.shown}
    assert asked <= replayed(tmp_path).cases[-1].metrics.keys()


def test_score_by_hand() -> None:
    # F8, ruling 1: saving in half the time, loading in twice: 0.7 * 2 + 0.3 * 0.5
    parts = [(Fraction(7, 10), formulas.inverse(Fraction(5), Fraction(10))), (Fraction(3, 10), formulas.inverse(Fraction(8), Fraction(4)))]
    assert formulas.weighted(parts) == Fraction(155, 100)


def large(events: list[Event]) -> None:
    """As if the checkpoint had two gigabytes: faster than the disk of the same round."""
    for save in built.of("save", events):
        save["optimizer_bytes"] = 2 * 10**9
    for cache in built.of("cache", events):
        cache["size_bytes"] = 3 * 10**9


WARNED: dict[str, tuple[str, Callable[[list[Event]], Any]]] = {
    "in memory": ("checkpoint.storage", lambda e: built.of("storage", e)[0].update(file_system="tmpfs")),
    "a cache that was not dropped": ("checkpoint.cold", lambda e: built.of("cache", e)[0].update(resident_bytes=161)),
    "faster than the disk": ("checkpoint.ceiling", large),
}


@pytest.mark.parametrize("name", WARNED)
def test_finding_without_refusal(name: str, tmp_path: Path) -> None:
    rule, change = WARNED[name]
    outcome = replayed(tmp_path, change)
    assert outcome.verdict == "verified"
    assert {(finding.rule, finding.severity) for finding in outcome.findings} == {(rule, "warning")}


@pytest.mark.parametrize(("raw_bytes", "rules"), [(9 * 2**21 + 5, set()), (2**25, {"checkpoint.raw"})])
def test_the_raw_file_has_whole_blocks(raw_bytes: int, rules: set[str]) -> None:
    """The worker's are of 2 MiB: a plan may ask for 18 MiB and some bytes."""
    case = built.CASE | {"raw_bytes": raw_bytes}
    size = raw_bytes // 2**21 * 2**21 if not rules else built.RAW
    made = [(rank, built.events(rank)) for rank in range(2)]
    for event in built.of("ceiling", made[0][1]):
        event["size_bytes"] = size
    kind = events.union(checkpoint.EVENTS)
    blocks = [(rank, [events.parse(json.dumps(event).encode(), kind, "test") for event in lines]) for rank, lines in made]
    assert {finding.rule for finding in checkpoint.rules(case, checkpoint.measure(case, blocks))} == rules


def test_a_cache_of_one_per_cent_is_cold(tmp_path: Path) -> None:
    assert replayed(tmp_path, lambda e: built.of("cache", e)[0].update(resident_bytes=160)).findings == []


def attempt(runs: Path) -> Path:
    return runs / "RUN/evidence/cases/checkpoint-x/attempt-1"


def test_folder_is_the_case_s_own_and_goes_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(storage.FOLDER, str(tmp_path / "fast"))
    storage.prepare(built.CASE, attempt(tmp_path))
    own = storage.folder(built.CASE, attempt(tmp_path))
    assert own == tmp_path / "fast/RUN/checkpoint-x"
    assert list(own.iterdir()) == []
    storage.clear(built.CASE, attempt(tmp_path))
    assert not (tmp_path / "fast").exists()


def test_folder_lies_beside_the_runs_where_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(storage.FOLDER, raising=False)
    assert storage.folder(built.CASE, attempt(tmp_path)) == tmp_path / ".checkpoints/RUN/checkpoint-x"
    assert storage.folder({"id": "x"}, attempt(tmp_path)) is None


def test_too_small_storage_is_said_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "free_bytes", lambda _: 10**11)
    case = copy.deepcopy(built.CASE) | {"model": {"parameters": 7_321_948_160}}  # InternLM-7B in float32: 117 GB a checkpoint, two of them
    with pytest.raises(
        KitError, match=r"too small .*234319118336 bytes are needed at least, 100000000000 are free; name another"
    ) as caught:
        storage.prepare(case, attempt(tmp_path))
    assert caught.value.exit_code == FAILED


def test_products_are_counted_where_the_plan_names_no_parameters() -> None:
    # width 64, two heads, one layer: 2 * 64 * 64 + 2 * 64 * 64 + 2 * 64 * 128 weights, a head of 64 * 256, 16 bytes each, two copies
    assert storage.least_bytes(built.CASE) == (4 * 64 * 64 + 2 * 64 * 128 + 64 * 256) * 16 * 2 + 2**24


def test_unwritable_storage_is_said_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv(storage.FOLDER, str(tmp_path / "file"))
    with pytest.raises(KitError, match="folder for checkpoints cannot be written"):
        storage.prepare(built.CASE, attempt(tmp_path))


def test_an_option_names_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from kit import cli

    monkeypatch.setenv(storage.FOLDER, "before")
    assert cli.main(["run", "--plan", "smoke", "--case", "pretrain-*", "--dry-run", "--json", "--checkpoints", str(tmp_path)]) == 0
    assert os.environ[storage.FOLDER] == str(tmp_path)


def test_largest_bounds_are_those_of_the_kit() -> None:
    assert storage.OPTIMIZER_BYTES == checkpoint.OPTIMIZER_BYTES
