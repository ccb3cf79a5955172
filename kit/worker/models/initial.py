"""First values of weights that no file gives."""

from __future__ import annotations

from torch import nn

from .tensor import fill_normal


def initialise(module: nn.Module, std: float) -> None:
    """Matrices and embeddings normal around 0, biases 0; for `Module.apply`."""
    if isinstance(module, nn.Linear | nn.Embedding):
        fill_normal(module.weight, std)
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)
