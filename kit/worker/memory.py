"""How much memory training will need on a card, estimated before anything is allocated; what cannot fit is refused with the estimate.

Weights, gradients, masters and states are counted exactly (Rajbhandari et al. 2020, section 3), activations roughly.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import torch

from . import device, models, training
from .models.tensor import Stage, Team

Case = dict[str, Any]
ADVICE = "take a smaller micro_batch, checkpoint_activations, a higher zero_stage on more cards, tensor_parallel, or offload"
WIDTH = {"float32": 4, "bfloat16": 2, "float16": 2, "float8": 2}
WHOLE_PER_LAYER, SPLIT_PER_LAYER = 4, 6  # hidden-wide tensors that a layer keeps, beside three as wide as its feed-forward block


class TooLarge(Exception):
    """The model cannot fit; one line with the estimate."""


def asked(case: Case) -> str:
    """The case's model and layout in words."""
    model = case["model"]
    name = model.get("id") or f"{model['architecture']} of width {model['hidden_size']} and {model['num_layers']} layers"
    shared = "".join(f"{key} {case[key]}, " for key in ("tensor_parallel", "pipeline_parallel") if case.get(key, 1) > 1)
    layout = f"{shared}ZeRO {case['zero_stage']} on {case['processes']} cards, offload {case['offload']}"
    return f"{name}, micro_batch {case['micro_batch']}, {layout}"


def parameters(case: Case) -> tuple[int, int]:
    """(all parameters, those that are trained) of the case's model on the rank that holds most, counted without building it."""
    ranks, stages = case.get("tensor_parallel", 1), case.get("pipeline_parallel", 1)
    team = Team(0, ranks) if ranks > 1 else None
    with torch.device("meta"):
        ends: list[Stage | None] = [Stage(0, stages), Stage(stages - 1, stages)] if stages > 1 else [None]
        count = max(sum(p.numel() for p in models.build(case["model"], team=team, stage=stage).parameters()) for stage in ends)
    return count, 0 if case.get("method") == "lora" else count


def estimate(case: Case, count: int, trained: int) -> dict[str, int]:
    """Bytes of each kind on one card."""
    stage, cards, width = case["zero_stage"], case["processes"], WIDTH[case["dtype"]]
    weights, gradients, states = (cards if stage >= least else 1 for least in (3, 2, 1))
    several = case["global_batch"] > case["micro_batch"] or cards > 1
    held = 8 if case["dtype"] == "float32" else 12
    return {
        "weights_bytes": 0 if case["offload"] == "all" else count * width // weights,
        "gradients_bytes": trained * (4 if several and case["engine"] == "torch" else width) // gradients,
        "states_bytes": 0 if case["offload"] != "none" else trained * held // states,
        "activations_bytes": _activations(case, width),
    }


def _activations(case: Case, width: int) -> int:
    """Of one micro-batch: what layers keep, or with checkpoints one layer and the input of each; and the logits of a chunk.

    What a team splits is what follows a `Column` (Korthikanti et al. 2022, section 4.1).
    """
    model, ranks = case["model"], case.get("tensor_parallel", 1)
    slots = case["micro_batch"] * model["sequence_length"]
    split = (SPLIT_PER_LAYER * model["hidden_size"] + 3 * model["ffn_size"]) // ranks
    layer = slots * width * (WHOLE_PER_LAYER * model["hidden_size"] + split)
    layers = model["num_layers"] * _in_flight(case)
    kept = layers * layer
    if case["checkpoint_activations"]:
        kept = layer + layers * slots * width * model["hidden_size"]
    words = model["vocab_size"] // (1 if model["vocab_size"] % ranks or model["architecture"] == "bert" else ranks)
    return int(kept) + 2 * slots * words * width // case["loss_chunks"]


def _in_flight(case: Case) -> Fraction:
    """Micro-batches that the first stage keeps at a time, one for each stage behind it as 1F1B goes, times its share of the layers."""
    stages = case.get("pipeline_parallel", 1)
    sharers = case.get("tensor_parallel", 1) * stages
    units = case["global_batch"] * sharers // (case["micro_batch"] * case["processes"])
    return Fraction(min(stages, units), stages) if stages > 1 else Fraction(1)


def checked(case: Case, here: training.Place) -> dict[str, int]:
    """The estimate beside what there is; TooLarge where even weights, gradients and states alone do not fit."""
    found = estimate(case, *parameters(case))
    there = device.memory_bytes(here.device) // (here.world_size if here.device.type == "cpu" else 1)
    if sum(found.values()) - found["activations_bytes"] > there:
        parts = ", ".join(f"{name.removesuffix('_bytes')} {size / 1e9:.1f}" for name, size in found.items())
        raise TooLarge(f"{asked(case)}: about {sum(found.values()) / 1e9:.1f} GB a card ({parts}), there are {there / 1e9:.1f}; {ADVICE}")
    return found | {"available_bytes": there}
