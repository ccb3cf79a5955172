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
from tests.taught import band, pictures
from verify import quality, replay
from verify.data import table, violations
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


def test_calls_of_odd_nanoseconds_are_no_copies(tmp_path: Path) -> None:
    outcome = replay.replay(builder.build(tmp_path, lambda bench: built.ragged(built.with_case(bench))), "self")
    assert outcome.findings == []


def test_reference_is_within_its_tolerance_of_itself_only() -> None:
    stored = built.stored()
    assert text_to_image.latent_error_squares(stored["10"], stored["10"]) == 0
    near = [value * 1.0005 for value in stored["10"]]
    assert 0 < text_to_image.latent_error_squares(near, stored["10"]) < 1e-6
    assert text_to_image.latent_error_squares(stored["5"], stored["10"]) > 0.01


def test_every_architecture_of_the_worker_is_counted() -> None:
    files = {path.stem for path in (ROOT / "kit/worker/models/diffusion").glob("*.json")}
    assert files == {row["name"] for row in table(text_to_image.DATA)["architecture"]}


# --- quality --------------------------------------------------------------------------------------------------------


def test_distance_is_that_of_the_formula_worked_by_hand() -> None:
    """Two black pictures and two white: kernels of colour are (1 + 1)^3 = 8 among equals, (-1 + 1)^3 = 0 between; of texture 1 and 8."""
    flat, loud = [[0] * quality.VALUES] * 2, [[32_000] * quality.VALUES] * 2
    black, white = {"colour": flat, "texture": flat}, {"colour": [[quality.MOST_MILLI] * quality.VALUES] * 2, "texture": loud}
    assert quality.distances(black, white) == {"colour": 16, "texture": 1 + 8 - 2}
    assert quality.distances(black, black) == {"colour": 0, "texture": 0}


def test_distance_of_one_origin_is_about_nothing_and_at_times_below() -> None:
    [row] = table(quality.DATA)["band"]
    held_out = {name: table(row["held_out"])[name] for name in quality.FEATURES}
    found = [quality.distances(band.of(pictures.TRAINING[start:], 32), held_out) for start in (0, 192, 384, 576)]
    assert all(abs(value) < 0.03 for one in found for value in one.values())
    assert any(value < 0 for one in found for value in one.values())


def test_taught_pictures_are_within_their_band_and_counted(tmp_path: Path) -> None:
    outcome = replay.replay(built.build(tmp_path, built.with_taught), "self")
    assert (outcome.verdict, outcome.findings) == ("verified", [])
    found = outcome.cases[-1]
    assert found.facts["quality"] == "within the band"
    [row] = table(quality.DATA)["band"]
    assert float(found.metrics["colour_distance"].value) <= row["colour"]["most"]
    assert row["texture"]["least"] <= float(found.metrics["texture_distance"].value) <= row["texture"]["most"]


def test_true_weights_without_a_band_are_unproven_and_random_ones_not_judged(tmp_path: Path) -> None:
    def of_others(bench: builder.Bench) -> None:
        made = built.with_taught(bench)
        built.of("model", made)[0].update(weights_sha256="0" * 64)

    outcome = replay.replay(builder.build(tmp_path, of_others), "self")
    assert {(finding.rule, finding.severity) for finding in outcome.findings} == {("text_to_image.unproven", "warning")}
    assert any("pictures are not judged" in finding.found for finding in outcome.findings)
    assert outcome.cases[-1].facts["quality"] == "unproven"
    assert "texture_distance" not in outcome.cases[-1].metrics


def test_a_band_is_for_every_seed_and_for_nothing_else() -> None:
    def known(**change: Any) -> bool:
        return quality.band("stable-diffusion-taught", built.TAUGHT_CASE | change, built.LOCK_SHA256) is not None

    assert known()
    assert known(seed=7, dtype="float16")
    assert not any(known(**{name: 8}) for name in ("batch", "side", "steps", "guidance", "prompt"))


def test_stored_data_keeps_its_schema_and_the_held_out_file_is_what_the_recipe_draws() -> None:
    assert violations(table(quality.DATA), "text_to_image", "x", "x") == []
    [row] = table(quality.DATA)["band"]
    held_out = table(row["held_out"])
    assert {name: held_out[name] for name in quality.FEATURES} == band.of(pictures.HELD_OUT, 64)
    assert row["key"] == quality.key("stable-diffusion-taught", band.case(), built.LOCK_SHA256)


def test_the_shipped_weights_are_the_locked_ones_and_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(weights.FOLDER, str(ROOT / "baselines/weights"))
    folder, digest = weights.checked("taught", "stable-diffusion-taught")
    assert digest == built.LOCK_SHA256
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 2 * 10**6


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
    with pytest.raises(weights.BadWeights, match="no folder of weights 'w' was given"):
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
    case = next(case for case in source["case"] if case["id"] == "text-to-image-tiny")
    case |= change
    with pytest.raises(KitError, match=said) as caught:
        plan.resolve(source, "p.toml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("tflops", "expected"), [(0.01, ["plausible.peak"]), (0.1, [])])
def test_a_denoiser_faster_than_the_data_sheet_is_a_warning(tflops: float, expected: list[str], tmp_path: Path) -> None:
    """Two calls of ten steps on 64 places, with and without the prompt, in 40 ms: 0.019 TFLOPS at least."""

    def described(bench: builder.Bench) -> None:
        built.with_case(bench)
        peak = {"product": "a chip", "name": "fake", "kind": "float32", "value": tflops, "unit": "TFLOPS", "source": "tests"}
        bench.environment["chip"]["peaks"] = [peak]

    outcome = replay.replay(builder.build(tmp_path, described), "self")
    assert [finding.rule for finding in outcome.findings] == expected
    assert outcome.verdict == "verified"
    traits = outcome.cases[-1].traits
    assert traits
    assert traits.durations == {"denoiser": [20 * built.MS] * 2, "decoder": [4 * built.MS] * 2}
    assert (traits.work and traits.work.flop, traits.busy_ns, traits.span_ns) == (295168 * 64 * 2 * 10 * 2, 50 * built.MS, 55 * built.MS)


def test_copied_times_of_calls_are_a_warning(tmp_path: Path) -> None:
    """Forty calls, the last twenty of which decode as long, to the nanosecond, as the first twenty."""

    def copied(bench: builder.Bench) -> None:
        made = built.with_case(bench)
        for case in (bench.plan.document["cases"][-1], bench.handed[built.PICTURES]["case"]):
            case["measured_calls"] = 40
        [last] = [event for event in built.of("call", made) if event["call"] == 2]
        made[:] = [event for event in made if event["e"] not in {"memory", "case_end"}]
        for number in range(3, 41):
            begin = last["begin_ns"] + 10 * built.MS + 20 * built.MS * (number - 2)
            encoded = begin + built.MS + number  # of its own in each call: one that is copied as a whole is refused
            made.append(last | {"call": number, "begin_ns": begin, "encoded_ns": encoded, "denoised_ns": begin + 11 * built.MS})
        for event in built.of("call", made):
            event["t"] = event["denoised_ns"] + 3_000_000 + 7919 * (1 + (event["call"] - 1) % 20) ** 2
        made += [
            {"t": 900 * built.MS, "e": "memory", "peak_bytes": 10**9},
            {"t": 901 * built.MS, "e": "case_end", "state": "done", "reason": None},
        ]

    outcome = replay.replay(builder.build(tmp_path, copied), "self")
    assert {(finding.rule, finding.severity) for finding in outcome.findings} == {("plausible.repeated", "warning")}
