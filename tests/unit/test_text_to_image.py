"""Text to image: exact numbers from made-up events, the reference gate, weights that are not what they claim, bad cases."""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from kit import plan
from kit.errors import KitError
from kit.worker import weights
from tests.adversarial import builder
from tests.adversarial import pictures as built
from tests.conftest import ROOT
from verify import replay
from verify.data import table
from verify.metrics import text_to_image


def test_a_run_with_the_case_is_verified(tmp_path: Path) -> None:
    outcome = replay.replay(built.build(tmp_path), "self")
    assert (outcome.verdict, outcome.findings) == ("verified", [])
    found = {name: float(metric.value) for name, metric in outcome.cases[-1].metrics.items()}
    assert found == {
        "throughput": pytest.approx(1 / 0.025),
        "latency_s": 0.025,
        "text_encoder_ms": 1.0,
        "denoiser_ms": 20.0,
        "decoder_ms": 4.0,
        "denoiser_steps_per_s": 500.0,
        "load_time_s": 0.004,
        "cold_load_time_s": 0.008,
        "memory_gb": 5.0,
        "compile_time_s": 0.014,
    }
    assert outcome.cases[-1].facts == {"weights": "random", "mode": "default", "quality": "NA (random weights)"}


def test_a_case_without_a_reference_is_said_to_be_unproven(tmp_path: Path) -> None:
    def another_seed(bench: builder.Bench) -> None:
        made = built.with_case(bench)
        bench.plan.document["cases"][-1]["seed"] = bench.handed[built.PICTURES]["case"]["seed"] = 7
        built.of("model", made)[0].update(seed=7)

    outcome = replay.replay(builder.build(tmp_path, another_seed), "self")
    assert [(finding.rule, finding.severity) for finding in outcome.findings] == [("text_to_image.unproven", "warning")]


def test_reference_is_within_its_tolerance_of_itself_only() -> None:
    stored = built.stored()
    assert text_to_image.latent_error_squares(stored["10"], stored["10"]) == 0
    near = [value * 1.0005 for value in stored["10"]]
    assert 0 < text_to_image.latent_error_squares(near, stored["10"]) < 1e-6
    assert text_to_image.latent_error_squares(stored["5"], stored["10"]) > 0.01


def test_every_architecture_of_the_worker_is_counted() -> None:
    files = {path.stem for path in (ROOT / "kit/worker/models/diffusion").glob("*.json")}
    assert files == {row["name"] for row in table(text_to_image.DATA)["architecture"]}


# --- weights --------------------------------------------------------------------------------------------------------


def locked(folder: Path, **files: bytes) -> Path:
    """A folder of weights with its lock."""
    top = folder / "w"
    top.mkdir()
    listed = {}
    for name, data in files.items():
        (top / name).write_bytes(data)
        listed[name] = {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (top / weights.LOCK).write_text(json.dumps({"schemaVersion": 1, "architecture": "a", "files": listed}), encoding="utf-8")
    return top


def test_locked_weights_are_known_by_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top = locked(tmp_path, x=b"1", y=b"2")
    monkeypatch.setenv(weights.FOLDER, str(tmp_path))
    assert weights.checked("w", "a") == (top, hashlib.sha256((top / weights.LOCK).read_bytes()).hexdigest())


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda top: (top / "x").write_bytes(b"!"), "weights file x is not the locked one"),
        (lambda top: (top / "x").unlink(), "weights file x is missing"),
        (lambda top: (top / weights.LOCK).unlink(), "no weights.lock.json"),
    ],
)
def test_weights_that_are_not_the_locked_ones(harm: Any, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    harm(locked(tmp_path, x=b"1", y=b"2"))
    monkeypatch.setenv(weights.FOLDER, str(tmp_path))
    with pytest.raises(weights.BadWeights, match=said):
        weights.checked("w", "a")


def test_weights_of_another_architecture_and_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked(tmp_path, x=b"1")
    monkeypatch.setenv(weights.FOLDER, str(tmp_path))
    with pytest.raises(weights.BadWeights, match="are of architecture a, the case asks for b"):
        weights.checked("w", "b")
    monkeypatch.delenv(weights.FOLDER)
    with pytest.raises(weights.BadWeights, match="names no folder"):
        weights.checked("w", "a")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"side": 513}, "513 is not a multiple of 8"),
        ({"model": {"family": "stable-diffusion", "version": "1.6"}}, "'1.6' is not allowed"),
        ({"compile": "reduce-overheads"}, "did you mean 'reduce-overhead'"),
        ({"latents_at": [1, 11]}, "latents_at"),
        ({"guidance": 1}, "out of range"),
    ],
)
def test_bad_case_is_one_line(change: dict[str, Any], said: str) -> None:
    source = tomllib.loads((ROOT / "manifests/plans/smoke.toml").read_text(encoding="utf-8"))
    [case] = [case for case in source["case"] if case["suite"] == "text_to_image"]
    case |= change
    with pytest.raises(KitError, match=said) as caught:
        plan.resolve(source, "p.toml")
    assert "\n" not in str(caught.value)
