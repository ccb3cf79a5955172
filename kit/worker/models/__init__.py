"""Models that suites train or run: one small module an architecture; shapes come with the case."""

from __future__ import annotations

import importlib
from typing import Any

MODULES = {"llama": "llama", "internlm": "llama", "gpt": "gpt", "bert": "bert"}


def build(shape: dict[str, Any], *, fused: bool = True) -> Any:
    """A model of this shape with random weights; without `fused`, projections of attention stand apart, as adapters want them.

    `model(**batch)` is the mean loss in nats over the targets of a batch; `model.blocks` are its layers, for compilation.
    """
    return importlib.import_module(f".{MODULES[shape['architecture']]}", __package__).Model(shape, fused=fused)
