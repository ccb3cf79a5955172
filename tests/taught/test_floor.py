"""The least work of a denoiser, counted on the architectures themselves, without weights."""

from __future__ import annotations

import json
from typing import Any

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from tests.conftest import ROOT  # noqa: E402
from verify.data import table  # noqa: E402
from verify.metrics import text_to_image  # noqa: E402

pytestmark = pytest.mark.torch
SIDE, WORDS = 32, 77  # places of the latents in either direction, tokens of a prompt
SAVED = 4  # products of a 3 x 3 convolution over those of F(4 x 4, 3 x 3)


def counted(module: Any, inputs: tuple[Any, ...], output: Any) -> int:
    """Operations of a layer that sees every place; 0 for layers of text and time."""
    twice = 2 * module.weight.numel()
    if isinstance(module, torch.nn.Conv2d):
        return int(twice * output.shape[-1] * output.shape[-2] // (SAVED if module.kernel_size == (3, 3) else 1))
    return int(twice * inputs[0].shape[1]) if inputs[0].dim() == 3 and inputs[0].shape[1] != WORDS else 0


@pytest.mark.parametrize("row", table(text_to_image.DATA)["architecture"], ids=lambda row: row["name"])
def test_the_floor_of_a_denoiser_step(row: dict[str, Any]) -> None:
    found: list[int] = []
    config = json.loads((ROOT / f"kit/worker/models/diffusion/{row['name']}.json").read_bytes())["denoiser"]
    with torch.device("meta"):
        model = diffusers.UNet2DConditionModel.from_config(config)
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
                module.register_forward_hook(lambda *seen: found.append(counted(*seen)))
        model(torch.empty(1, 4, SIDE, SIDE), torch.tensor(1), torch.empty(1, WORDS, model.config.cross_attention_dim))
    assert row["place_flop"] == sum(found) // SIDE**2
