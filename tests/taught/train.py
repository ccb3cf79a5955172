"""Teaches the small pipeline its pictures: `python -m tests.taught.train FOLDER`, about three minutes of one CPU core.

Weights are rounded to float16, written in the library's layout, and locked. Another processor or library rounds otherwise, so that
a second training gives other bytes; the band (baselines/text_to_image.toml) belongs to the locked ones.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from kit.worker import weights
from kit.worker.engines import diffusers as engine
from tests.taught import pictures

ARCHITECTURE = "stable-diffusion-taught"
SEED = 20261124
DECODER_STEPS, DENOISER_STEPS = 400, 1000
BATCH, NO_PROMPT, KEEP = 32, 0.15, 0.99


def train(folder: Path) -> None:
    """Decoder first, then text encoder and denoiser on its latents; files and lock below `folder`."""
    torch.manual_seed(SEED)
    config = engine.shape(ARCHITECTURE)
    parts = engine.parts(config)
    shown = torch.stack([_tensor(pictures.picture(number)) for number in pictures.TRAINING])
    latents = latents_of(shown)
    _decoder(parts["decoder"], shown, latents)
    ids = torch.tensor([engine.byte_ids(config["text_encoder"], text) for text in ("", *pictures.PROMPTS)])
    _denoiser(parts, latents, ids, engine.kept(config["scheduler"]).float())
    write(parts, folder)


def _tensor(data: bytes) -> torch.Tensor:
    """[3, height, width] in [-1, 1]."""
    flat = torch.frombuffer(bytearray(data), dtype=torch.uint8).float()
    return (flat / 127.5 - 1).view(pictures.SIDE, pictures.SIDE, 3).permute(2, 0, 1)


def latents_of(shown: torch.Tensor) -> torch.Tensor:
    """Mean colours of 8 x 8 parts and how much each part varies, brought to mean 0 and deviation 1: no encoder need be learnt."""
    pool = torch.nn.functional.avg_pool2d
    middle = pool(shown, 8)
    varies = (pool(shown.square(), 8) - middle.square()).mean(1, keepdim=True).clamp(min=0).sqrt()
    raw = torch.cat([middle, varies], 1)
    return (raw - raw.mean((0, 2, 3), keepdim=True)) / raw.std((0, 2, 3), keepdim=True)


def _decoder(model: torch.nn.Module, shown: torch.Tensor, latents: torch.Tensor) -> None:
    """Train the decoder alone; the encoder stays as it was drawn and is never used."""
    learnt = [*model.decoder.parameters(), *model.post_quant_conv.parameters()]
    optimizer, rate = _optimizer(learnt, 5e-3, DECODER_STEPS)
    for step in range(DECODER_STEPS):
        chosen = torch.randint(len(shown), (BATCH // 4,))
        some = latents[chosen]
        loss = (model.decode(some + 0.05 * torch.randn_like(some)).sample - shown[chosen]).square().mean()
        _descend(optimizer, rate, loss, model, step)


def _denoiser(parts: engine.Parts, latents: torch.Tensor, ids: torch.Tensor, kept: torch.Tensor) -> None:
    """Predict the noise; some pictures without their prompt, for guidance. What is kept is a running mean of the weights."""
    both = torch.nn.ModuleList([parts["text_encoder"], parts["denoiser"]])
    mean = {name: value.clone() for name, value in both.state_dict().items()}
    optimizer, rate = _optimizer(both.parameters(), 2e-3, DENOISER_STEPS)
    for step in range(DENOISER_STEPS):
        chosen = torch.randint(len(latents), (BATCH,))
        said = (chosen % len(pictures.PROMPTS) + 1) * (torch.rand(BATCH) > NO_PROMPT)
        noise, times = torch.randn(BATCH, *latents.shape[1:]), torch.randint(len(kept), (BATCH,))
        share = kept[times].view(-1, 1, 1, 1)
        embeddings = parts["text_encoder"](input_ids=ids).last_hidden_state[said]
        mixed = share.sqrt() * latents[chosen] + (1 - share).sqrt() * noise
        predicted = parts["denoiser"](mixed, times, encoder_hidden_states=embeddings).sample
        _descend(optimizer, rate, (predicted - noise).square().mean(), both, step)
        for name, value in both.state_dict().items():
            mean[name].lerp_(value, 1 - KEEP) if value.is_floating_point() and step > 50 else mean[name].copy_(value)
    both.load_state_dict(mean)


def _optimizer(parameters, rate: float, steps: int):  # type: ignore[no-untyped-def]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=1e-4)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)


def _descend(optimizer, rate, loss: torch.Tensor, model: torch.nn.Module, step: int) -> None:  # type: ignore[no-untyped-def]
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    rate.step()
    if step % 50 == 0:
        print(f"step {step}: loss {float(loss.detach()):.4f}, {time.process_time():.0f} s of CPU", file=sys.stderr, flush=True)


def write(parts: engine.Parts, folder: Path) -> None:
    """Files in float16 and their lock."""
    listed = {}
    for role, part in parts.items():
        path = folder / engine.FILES[role]
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: value.half().contiguous() for name, value in part.state_dict().items()}, path)
        listed[engine.FILES[role]] = {"size_bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    lock = {"schemaVersion": 1, "architecture": ARCHITECTURE, "files": listed}
    (folder / weights.LOCK).write_text(json.dumps(lock, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(Path(sys.argv[1]))
