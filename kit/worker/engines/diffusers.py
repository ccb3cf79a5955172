"""Text to image with the modules of the diffusers library: text encoder, denoiser with guidance, decoder; deterministic DDIM steps.

The loop is ours, so that its parts can be timed and one denoiser step can be compiled as a whole: guidance and the DDIM update
included (Song, Meng, Ermon, "Denoising diffusion implicit models", 2021, with eta = 0, which makes a step linear in x and in what the
model predicts).
"""

from __future__ import annotations

import json
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from .. import weights
from ..device import DTYPES

Case = dict[str, Any]
Parts = dict[str, torch.nn.Module]
Seen = Callable[[int, torch.Tensor], None]
FILES = {
    "text_encoder": "text_encoder/model.safetensors",
    "denoiser": "unet/diffusion_pytorch_model.safetensors",
    "decoder": "vae/diffusion_pytorch_model.safetensors",
}


def architecture(case: Case) -> str:
    """Name of the case's architecture, as data files and locks of weights have it."""
    return f"{case['model']['family']}-{case['model']['version']}"


def shape(name: str) -> dict[str, Any]:
    """The configuration of every part, from the data file of the architecture."""
    data = pkgutil.get_data(__package__.rpartition(".")[0] + ".models", f"diffusion/{name}.json")
    if data is None:
        raise FileNotFoundError(f"architecture '{name}' is not in the worker archive")
    return dict(json.loads(data))


def parts(config: dict[str, Any]) -> Parts:
    """The three parts with fresh weights."""
    return {
        "text_encoder": CLIPTextModel(CLIPTextConfig(**config["text_encoder"])),
        "denoiser": UNet2DConditionModel(**config["denoiser"]),
        "decoder": AutoencoderKL(**config["decoder"]),
    }


def byte_ids(config: dict[str, Any], text: str) -> list[int]:
    """Token ids of a text without a tokenizer: its bytes, padded."""
    length = config["max_position_embeddings"]
    ids = [config["bos_token_id"], *text.encode()[: length - 2], config["eos_token_id"]]
    return ids + [config["pad_token_id"]] * (length - len(ids))


class Step(torch.nn.Module):
    """One denoiser step as a whole: the prediction with guidance, then the update. A module, so that a compiler knows its weights."""

    def __init__(self, denoiser: torch.nn.Module, guidance: float) -> None:
        super().__init__()
        self.denoiser, self.guidance = denoiser, guidance

    def forward(
        self, latents: torch.Tensor, embeddings: torch.Tensor, time: torch.Tensor, keep: torch.Tensor, move: torch.Tensor
    ) -> torch.Tensor:
        predicted = self.denoiser(torch.cat([latents, latents]), time, encoder_hidden_states=embeddings, return_dict=False)[0]
        without, guided = predicted.chunk(2)
        predicted = without + self.guidance * (guided - without)
        return (keep * latents + move * predicted).to(latents.dtype)


class DiffusersEngine:
    """A latent diffusion model on one device."""

    def __init__(self, case: Case, config: dict[str, Any], parts: Parts, device: torch.device) -> None:
        self.case, self.config, self.device = case, config, device
        self.dtype = DTYPES[case["dtype"]]
        self.parts = parts
        self.parameters = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
        self.tokenizer = "bytes"
        self.words: Callable[..., Any] | None = None
        self.weights_sha256: str | None = None
        self.step: Callable[..., torch.Tensor] = Step(parts["denoiser"], case["guidance"])
        tables = [table.to(device) for table in schedule(config["scheduler"], case["steps"])]
        self.schedule = list(zip(*(table.unbind() for table in tables), strict=True))
        self.compiled = False

    def compile(self) -> None:
        """Have one denoiser step compiled as a whole, in the mode that the case names."""
        torch._dynamo.reset()
        self.compiled = True
        self.step = torch.compile(self.step, mode=self.case["compile"], fullgraph=True, dynamic=False)

    @torch.no_grad()
    def encode(self, prompts: list[str]) -> torch.Tensor:
        """Embeddings of shape [2 x batch, tokens, width]: no prompt first, then the prompts."""
        ids = torch.tensor([self._ids(text) for text in [""] * len(prompts) + prompts], device=self.device)
        return self.parts["text_encoder"](input_ids=ids).last_hidden_state

    def _ids(self, text: str) -> list[int]:
        """Token ids, padded: the folder's own tokenizer, or bytes, which do for weights that know no words."""
        if self.words:
            return list(self.words(text, padding="max_length", truncation=True).input_ids)
        return byte_ids(self.config["text_encoder"], text)

    def noise(self, seed: int) -> torch.Tensor:
        """Starting latents, drawn on the host so that every chip starts from the same."""
        side = self.case["side"] // 8
        generator = torch.Generator().manual_seed(seed)
        start = torch.randn(self.case["batch"], self.config["denoiser"]["in_channels"], side, side, generator=generator)
        return start.to(self.device, self.dtype)

    @torch.no_grad()
    def denoise(
        self, latents: torch.Tensor, embeddings: torch.Tensor, seen: Callable[[int, torch.Tensor], None] | None = None
    ) -> torch.Tensor:
        """All steps; `seen` is shown the latents after each."""
        for number, (time, keep, move) in enumerate(self.schedule, start=1):
            latents = self.step(latents, embeddings, time, keep, move)
            if self.compiled:  # a compiled step gives the same memory each time
                latents = latents.clone()
            if seen:
                seen(number, latents)
        return latents

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Pictures as bytes of shape [batch, height, width, 3], on the host."""
        pixels = self.parts["decoder"].decode(latents / self.config["decoder"]["scaling_factor"], return_dict=False)[0]
        return ((pixels.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu()

    def unload(self) -> None:
        """Drop the weights."""
        self.parts.clear()
        del self.step
        if self.device.type != "cpu":
            torch.get_device_module(self.device).empty_cache()


def kept(config: dict[str, Any]) -> torch.Tensor:
    """What is left of a picture's variance at each time step of training, in float64."""
    betas = torch.linspace(config["beta_start"] ** 0.5, config["beta_end"] ** 0.5, config["train_steps"], dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0)


def schedule(config: dict[str, Any], steps: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Time steps, and for each the factors of x and of the prediction: x' = keep x + move prediction."""
    share = kept(config)
    stride = config["train_steps"] // steps
    times = torch.arange(steps - 1, -1, -1) * stride + config["steps_offset"]
    now, after = share[times], share[(times - stride).clamp(min=0)]
    if config["prediction"] == "epsilon":
        keep = (after / now).sqrt()
        move = (1 - after).sqrt() - keep * (1 - now).sqrt()
    else:
        keep = (after * now).sqrt() + ((1 - after) * (1 - now)).sqrt()
        move = ((1 - after) * now).sqrt() - (after * (1 - now)).sqrt()
    return times, keep.float(), move.float()


def load(case: Case, device: torch.device) -> DiffusersEngine:
    """The case's model: weights drawn from its seed on the host, the same for every chip, or those of a locked folder."""
    name = architecture(case)
    config = shape(name)
    torch.manual_seed(case["seed"])
    made = parts(config)
    folder, digest = weights.checked(case["weights"], name) if case["weights"] != "random" else (None, None)
    if folder:
        _fill(made, folder, name)
    layout = torch.channels_last if case["channels_last"] else torch.contiguous_format
    for role, part in made.items():
        part.eval().requires_grad_(False).to(device, DTYPES[case["dtype"]])
        if role != "text_encoder":
            part.to(memory_format=layout)
    engine = DiffusersEngine(case, config, made, device)
    engine.weights_sha256 = digest
    if folder and (folder / "tokenizer").is_dir():
        from transformers import CLIPTokenizer

        engine.tokenizer, engine.words = "file", CLIPTokenizer.from_pretrained(str(folder / "tokenizer"))
    return engine


def _fill(parts: Parts, folder: Path, name: str) -> None:
    """Read each part's file; every name and shape must be the architecture's."""
    from safetensors.torch import load_file

    for role, part in parts.items():
        found = load_file(folder / FILES[role])
        wanted = part.state_dict()
        odd = [key for key in sorted(found.keys() ^ wanted.keys()) if not key.endswith("position_ids")]
        odd += [key for key in sorted(found.keys() & wanted.keys()) if found[key].shape != wanted[key].shape]
        if odd:
            raise weights.BadWeights(f"{FILES[role]} is not of architecture {name}: {len(odd)} tensors differ, the first is {odd[0]}")
        part.load_state_dict(found, strict=False)
