"""Weights of published models into ours: safetensors in the naming of the Hugging Face format, checked by their lock before.

Only what is read; nothing of a checkpoint is ever executed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..weights import BadWeights, checked

LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)")
PLAIN = {"model.embed_tokens.weight": "embedding.weight", "model.norm.weight": "norm.weight", "lm_head.weight": "head.weight"}
PARTS = {
    "input_layernorm": ("attention_norm", 0),
    "post_attention_layernorm": ("ffn_norm", 0),
    "self_attn.q_proj": ("attention.projections.wqkv", 0),
    "self_attn.k_proj": ("attention.projections.wqkv", 1),
    "self_attn.v_proj": ("attention.projections.wqkv", 2),
    "self_attn.o_proj": ("attention.wo", 0),
    "mlp.gate_proj": ("ffn.gate_up", 0),
    "mlp.up_proj": ("ffn.gate_up", 1),
    "mlp.down_proj": ("ffn.down", 0),
}
APART = {
    "attention.projections.wqkv": ("attention.projections.wq", "attention.projections.wk", "attention.projections.wv"),
    "ffn.gate_up": ("ffn.gate", "ffn.up"),
}


def load(model: Any, case: dict[str, Any]) -> str | None:
    """Fill the model from the folder that the case names; the SHA-256 of the folder's lock, None for random weights."""
    if case["weights"] == "random":
        return None
    architecture = case["model"]["architecture"]
    if architecture not in {"llama", "internlm"}:
        raise BadWeights(f'weights of architecture {architecture} cannot be read yet; use weights = "random"')
    folder, digest = checked(case["weights"], architecture)
    fill(model, read(folder), case["weights"])
    return digest


def read(folder: Path) -> dict[str, Tensor]:
    """Every tensor of the folder's safetensors files by its name."""
    from safetensors.torch import load_file

    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(str(path))
    return found


@torch.no_grad()
def fill(model: Any, tensors: dict[str, Tensor], name: str) -> None:
    """Copy all tensors into the model; BadWeights where one is unknown, missing, or of another shape."""
    own = dict(model.named_parameters())
    given: dict[str, dict[int, Tensor]] = {}
    for key, tensor in tensors.items():
        target, part = _target(key, own)
        if target is None:
            if "rotary_emb" not in key:
                raise BadWeights(f"weights '{name}' hold {key}, which this model has no place for; name weights of the case's model")
            continue
        given.setdefault(target, {})[part] = tensor
    for target, parameter in own.items():
        parts = given.get(target)
        whole = torch.cat([parts[i] for i in sorted(parts)]) if parts else None
        if whole is None or whole.shape != parameter.shape:
            found = "missing" if whole is None else f"of shape {list(whole.shape)}"
            raise BadWeights(
                f"weights '{name}': {target} is {found}, the model has {list(parameter.shape)}; name weights of the case's model"
            )
        parameter.copy_(whole)


def _target(key: str, own: dict[str, Any]) -> tuple[str | None, int]:
    """(our parameter, which part of it) that a tensor of the checkpoint fills."""
    if key in PLAIN:
        return PLAIN[key], 0
    match = LAYER.fullmatch(key)
    if match is None or match[2] not in PARTS:
        return None, 0
    place, part = PARTS[match[2]]
    target = f"blocks.{match[1]}.{place}.{match[3]}"
    if target not in own and place in APART:
        return f"blocks.{match[1]}.{APART[place][part]}.{match[3]}", 0
    return (target, part) if target in own else (None, 0)
