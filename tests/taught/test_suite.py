"""The suite with its taught weights, in this interpreter: pictures in the band, broken denoisers beyond it, memory that runs out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from kit import weights  # noqa: E402
from kit.worker import engines, main  # noqa: E402
from tests.conftest import ROOT  # noqa: E402
from tests.taught import band, pictures  # noqa: E402
from verify import pictures as kept  # noqa: E402
from verify import quality  # noqa: E402
from verify.files import Evidence  # noqa: E402
from verify.metrics import text_to_image  # noqa: E402

pytestmark = pytest.mark.torch
NAME = "stable-diffusion-taught"


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHIPASSAY_DEVICE", "cpu")
    monkeypatch.setenv(weights.FOLDER, str(ROOT / weights.SHIPPED))


def known() -> quality.Band:
    lock = weights.granted([band.case()])["taught"]
    found = quality.band(NAME, band.case(), lock)
    assert found
    return found


def judged(found: dict[str, list[list[int]]]) -> dict[str, str]:
    stored = known()
    return quality.judge(stored, quality.distances(found, stored.held_out))


@pytest.mark.parametrize("seed", [1024, 7])
def test_honest_pictures_are_in_the_band(seed: int) -> None:
    assert judged(band.made(band.case() | {"seed": seed})) == {}


@pytest.mark.parametrize("harm", [band.silent, band.timeless])
def test_a_broken_denoiser_is_too_bad(harm: Any) -> None:
    assert "too bad" in judged(band.made(band.case(), harm)).values()


def test_the_training_pictures_are_too_good() -> None:
    assert judged(band.of(pictures.TRAINING, 32)) == {"texture": "too good"}


def ran(case: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """Events of the case as the worker writes them."""
    folder.mkdir()
    main._run_rank(case, 1, folder)
    return [json.loads(line) for line in (folder / "events-00000.jsonl").read_bytes().splitlines()]


def test_running_out_of_memory_fails_the_case_and_the_next_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is a fake, raised where a card would raise it."""

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("fake, injected by a test: out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(engines.module("diffusers").DiffusersEngine, "denoise", full)
        events = ran(band.case(), tmp_path / "first")
    end, peak = events[-1], events[-2]
    assert (end["e"], end["state"], peak["e"]) == ("case_end", "failed", "memory")
    assert end["reason"].startswith("OutOfMemory: batch 32, 64 px, float32 needs more memory than there is: ")
    told = re.search(r"([0-9.]+) GB were held at most", end["reason"])
    assert told
    assert 0.1 < float(told[1]) <= peak["peak_bytes"] / 1e9 + 0.005
    assert "smaller batch or side" in end["reason"]
    events = ran(band.case(), tmp_path / "second")
    assert events[-1]["state"] == "done"
    told = [
        text_to_image.Picture(**{name: value for name, value in event.items() if name != "e"})
        for event in events
        if event["e"] == "picture"
    ]
    assert len(told) == 32
    assert list(kept.kept("x", 64, told, Evidence(tmp_path), "second")) == []


def test_another_error_is_not_called_a_lack_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(engines.module("diffusers").DiffusersEngine, "denoise", broken)
    assert ran(band.case(), tmp_path / "x")[-1]["reason"] == "RuntimeError: shape mismatch"
