"""Outputs of a float32 model for baselines/text_generation.toml: `python -m tests.taught_text.reference NAME SOURCE`, printed as TOML.

NAME is a folder of weights below $CHIPASSAY_WEIGHTS or of those that come with the kit, of the shape that tests/taught_text teaches.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import torch

from kit import weights
from kit.worker import generation
from kit.worker.models import causal
from tests.taught_text.train import CASE
from verify.data import root
from verify.generation import judged

TOKENS = 32


@torch.inference_mode()
def outputs(case: dict[str, Any], here: torch.device) -> list[tuple[list[int], list[float]]]:
    """(greedy continuation, by how many nats the second likeliest token was less likely) of each frozen prompt, without any cache."""
    model = causal.build(case, causal.folder(case, here)[0], here, torch.float32)
    found = []
    for prompt in generation.frozen_prompts(generation.FROZEN):
        ids, margins = list(prompt), []
        for _ in range(TOKENS):
            best = torch.log_softmax(model(input_ids=torch.tensor([ids], device=here), use_cache=False).logits[0, -1].double(), -1).topk(2)
            ids.append(int(best.indices[0]))
            margins.append(round(float(best.values[0] - best.values[1]), 5))
        found.append((ids[len(prompt) :], margins))
    return found


def text(name: str, source: str) -> str:
    """A [[reference]] of the data file."""
    os.environ.setdefault(weights.FOLDER, str(root() / weights.SHIPPED))
    case = CASE | {"weights": name, "seed": 0}
    here = torch.device("cpu")
    rows = [f"  {{ ids = {ids}, margin = {margins} }}," for ids, margins in outputs(case, here)]
    key = judged.key(case, causal.folder(case, here)[1])
    return "\n".join(["[[reference]]", f'key = "{key}"', f'case = "{name}"', f'source = "{source}"', "outputs = [", *rows, "]", ""])


if __name__ == "__main__":
    print(text(*sys.argv[1:3]))
