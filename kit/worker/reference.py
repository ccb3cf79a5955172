"""What a float32 model of the same weights says of an engine's tokens."""

from __future__ import annotations

import gc
from typing import Any

import torch

from . import device
from .models import causal

Case = dict[str, Any]
Judged = tuple[list[float], list[float]]


@torch.inference_mode()
def judge(case: Case, here: torch.device, continued: list[tuple[list[int], list[int]]]) -> list[Judged]:
    """(negative log-likelihood, gap to the likeliest) of every continued token, in nats, each given all before it."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        model = causal.build(case, causal.folder(case, here)[0], here, torch.float32)
        return [_one(model, here, prompt, ids) for prompt, ids in continued]
    finally:
        torch.set_float32_matmul_precision(before)
        model = None
        free(here)


def _one(model: Any, here: torch.device, prompt: list[int], ids: list[int]) -> Judged:
    """One pass over prompt and continuation; a token is judged by the logits of the place before it."""
    whole = torch.tensor([prompt + ids], device=here)
    logits = model(input_ids=whole, use_cache=False, logits_to_keep=len(ids) + 1).logits[0, :-1]
    likely = torch.log_softmax(logits.double(), -1)
    taken = likely.gather(1, whole[0, len(prompt) :, None])[:, 0]
    gap = likely.amax(1) - taken
    return (-taken).clamp(min=0).tolist(), gap.tolist()


def free(here: torch.device) -> None:
    """Give back what nobody holds any more."""
    gc.collect()
    if here.type != "cpu":
        device.synchronize(here)
        torch.get_device_module(here).empty_cache()
