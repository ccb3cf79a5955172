"""Text generation in a closed loop at a fixed concurrency (report section 4.1).

`concurrency` sessions submit one request each, every round anew. The suite is the clock: a chunk is stamped when its
token ids have reached the host. Nothing is averaged here.
"""

from __future__ import annotations

from typing import Any

import torch

from .. import device, loading
from ..record import Recorder

Case = dict[str, Any]


def run(case: Case, recorder: Recorder) -> None:
    """Load the model as often as asked, then warm-up and measured rounds, recording every chunk."""
    here = device.choose(0)
    recorder.event("environment", **device.facts(here))
    engine = loading.engine(case, recorder, here)
    recorder.event("model", parameters=engine.num_parameters, weights="random", weights_sha256=None, seed=case["seed"], dtype=case["dtype"])
    generator = torch.Generator().manual_seed(case["seed"])
    for number in range(case["warmup_rounds"] + case["measured_rounds"]):
        recorder.event("round_start", round=number, phase="warmup" if number < case["warmup_rounds"] else "measured")
        _round(case, recorder, engine, number, _prompts(case, generator))
    engine.unload()


def _prompts(case: Case, generator: torch.Generator) -> list[list[int]]:
    """Random token ids of the exact length, one row a session; no two prompts share a prefix worth caching."""
    size = (case["concurrency"], case["input_tokens"])
    return torch.randint(case["model"]["vocab_size"], size, generator=generator).tolist()


def _round(case: Case, recorder: Recorder, engine: Any, number: int, prompts: list[list[int]]) -> None:
    first = number * case["concurrency"]
    left = {first + index: case["output_tokens"] for index in range(len(prompts))}
    for request, prompt in zip(left, prompts, strict=True):
        recorder.event("submit", request=request, round=number, prompt_tokens=len(prompt))
    for chunk in engine.stream(prompts, case["output_tokens"]):
        now = recorder.now()
        for index, ids in chunk:
            recorder.event("tokens", now, request=first + index, ids=ids)
            left[first + index] -= len(ids)
        for request in [request for request, tokens in left.items() if tokens <= 0]:
            recorder.event("finish", request=request, reason="length")
            del left[request]
    for request in left:
        recorder.event("finish", request=request, reason="error")
