"""Weights of published models into ours: safetensors in the naming of the Hugging Face format, checked by their lock before.

Only what the lock names is read; nothing of a checkpoint is ever executed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..weights import BadWeights, checked, locked
from .naming import NAMINGS, Naming, ours, unlike
from .tensor import cut_of, mine, whole_shape

CONFIG = "config.json"
NEXT = "name weights of the case's model"
APART = {
    "projections.wqkv": ("projections.wq", "projections.wk", "projections.wv"),
    "ffn.gate_up": ("ffn.gate", "ffn.up"),
}  # our fused products -> the parts that they hold, one below the other


def load(model: Any, case: dict[str, Any]) -> str | None:
    """Fill the model from the folder that the case names; the SHA-256 of the folder's lock, None for random weights."""
    if case["weights"] == "random":
        return None
    architecture = case["model"]["architecture"]
    folder, digest = checked(case["weights"], architecture)
    naming = NAMINGS[architecture]
    _check_config(naming, case, folder)
    fill(model, read(folder), case["weights"], naming)
    return digest


def _check_config(naming: Naming, case: dict[str, Any], folder: Path) -> None:
    """Heads and activation leave no trace in the tensors: a locked config.json must say what the case's model has."""
    if CONFIG not in locked(folder):
        return
    config = json.loads((folder / CONFIG).read_bytes())
    for name, found, own in unlike(naming, case["model"], config):
        raise BadWeights(f"weights '{case['weights']}': {CONFIG} says {name} = {found}, the case's model has {own}; {NEXT}")


def read(folder: Path) -> dict[str, Tensor]:
    """Every tensor of the locked safetensors files by its name."""
    from safetensors.torch import load_file

    found: dict[str, Tensor] = {}
    for name in locked(folder):
        if name.endswith(".safetensors"):
            found |= load_file(str(folder / name))
    return found


@torch.no_grad()
def fill(model: Any, tensors: dict[str, Tensor], name: str, naming: Naming) -> None:
    """Copy all tensors into the model; BadWeights where one is unknown, missing, or of another shape."""
    given, keys = _given(tensors, name, naming)
    for target, parameter in model.named_parameters():
        parts = []
        for part, rows in _parts(model, target, parameter):
            if part not in given:
                raise BadWeights(f"weights '{name}' have no tensor for {part}, which the case's model has{_hint(part)}; {NEXT}")
            expected = [rows, *whole_shape(parameter)[1:]]
            if list(given[part].shape) != expected:
                found = list(given[part].shape)
                raise BadWeights(f"weights '{name}': {keys[part]} gives {part} the shape {found}, the model has {expected}; {NEXT}")
            parts.append(given.pop(part))
        parameter.copy_(mine(parameter, torch.cat(parts)))
    for target in given:
        raise BadWeights(f"weights '{name}' hold {keys[target]}, which this model has no place for; {NEXT}")


def _given(tensors: dict[str, Tensor], name: str, naming: Naming) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Values by our names, projections apart, and the published name of each."""
    given: dict[str, Tensor] = {}
    keys: dict[str, str] = {}
    for key, tensor in tensors.items():
        if key in naming.tied or naming.ignored.fullmatch(key):
            continue
        found = dict(ours(naming, key, tensor))
        if not found:
            raise BadWeights(f"weights '{name}' hold {key}, which this model has no place for; {NEXT}")
        given |= found
        keys |= dict.fromkeys(found, key)
    for key, target in naming.tied.items():
        if key in tensors and (target not in given or not torch.equal(tensors[key], given[target])):
            raise BadWeights(f"weights '{name}': {key} is not the same as {keys.get(target, target)}, as the model has it; {NEXT}")
    return given, keys


def _parts(model: Any, target: str, parameter: Tensor) -> list[tuple[str, int]]:
    """(name, rows) of what a parameter of ours is put together from: itself, or the parts of a fused product."""
    for fused, apart in APART.items():
        if f".{fused}." in target:
            above, cut = model.get_submodule(target.rpartition(f".{fused.rpartition('.')[2]}.")[0]), cut_of(parameter)
            widths = cut.widths if cut else getattr(above, "widths", None) or [parameter.shape[0] // len(apart)] * len(apart)
            return [(target.replace(fused, part), rows) for part, rows in zip(apart, widths, strict=True)]
    return [(target, whole_shape(parameter)[0])]


def _hint(lacking: str) -> str:
    """What files of a masked language model alone leave out."""
    return ": files of a BertForPreTraining have it" if lacking.startswith(("pooler.", "next_sentence.")) else ""
