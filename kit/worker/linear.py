"""Linear layers of a model exchanged for layers of another precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


def replace(module: Any, made: Callable[[nn.Linear], nn.Module]) -> None:
    """Every linear layer below a module becomes what is made of it, in place; where blocks are given, embeddings and heads stay."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Linear):
            setattr(module, name, made(child))
        else:
            replace(child, made)
