"""Weights whose lock is right and whose tensors are not the architecture's: the case fails with one line that names the first."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from safetensors.torch import load_file, save_file  # noqa: E402

from kit import weights  # noqa: E402
from kit.worker.engines import diffusers  # noqa: E402
from kit.worker.weights import LOCK, BadWeights  # noqa: E402
from tests.conftest import ROOT  # noqa: E402
from tests.taught import band  # noqa: E402

pytestmark = pytest.mark.torch
DENOISER = diffusers.FILES["denoiser"]


def changed(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """The taught weights with another denoiser, locked anew."""
    top = folder / "taught"
    shutil.copytree(ROOT / weights.SHIPPED / "taught", top)
    tensors = load_file(top / DENOISER)
    change(tensors)
    save_file(tensors, top / DENOISER)
    lock = json.loads((top / LOCK).read_text(encoding="utf-8"))
    data = (top / DENOISER).read_bytes()
    lock["files"][DENOISER] = {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (top / LOCK).write_text(json.dumps(lock), encoding="utf-8")


def lacking(tensors: dict[str, Any]) -> None:
    del tensors["conv_in.weight"]


def reshaped(tensors: dict[str, Any]) -> None:
    tensors["conv_in.weight"] = tensors["conv_in.weight"][:, :1].contiguous()


def longer(tensors: dict[str, Any]) -> None:
    tensors["class_embedding.weight"] = torch.zeros(1)


@pytest.mark.parametrize(
    ("change", "first"), [(lacking, "conv_in.weight"), (reshaped, "conv_in.weight"), (longer, "class_embedding.weight")]
)
def test_tensors_of_another_architecture(change: Any, first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed(tmp_path, change)
    monkeypatch.setenv(weights.FOLDER, str(tmp_path))
    with pytest.raises(BadWeights) as caught:
        diffusers.load(band.case(), torch.device("cpu"))
    name = "stable-diffusion-taught"
    assert str(caught.value) == f"{DENOISER} is not of architecture {name}: 1 tensors differ, the first is {first}"
