"""Frozen base weights in int8, one scale a row: half the memory of bfloat16, computed in the precision of the input.

The largest magnitude of a row becomes 127 (Dettmers et al. 2022, section 2.1, row-wise absmax of the weights alone: inputs and
products stay in 16 bits, so outliers among inputs need no treatment).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

LARGEST = 127


class Int8Linear(nn.Linear):
    """A linear layer whose weight is int8 and never trained."""

    def __init__(self, layer: nn.Linear) -> None:
        with torch.device("meta"):
            super().__init__(layer.in_features, layer.out_features, bias=layer.bias is not None)
        weight, scale = quantised(layer.weight.detach())
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.register_buffer("scale", scale)
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """The product with the weights that int8 and scale stand for, in x's precision."""
        return F.linear(x, self.weight.to(x.dtype) * self.scale.to(x.dtype), self.bias)


def quantised(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(int8 of the same shape, scale [rows, 1]) of a weight."""
    scale = weight.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / LARGEST
    return torch.round(weight / scale).clamp(-LARGEST, LARGEST).to(torch.int8), scale
