"""Products of linear layers in eight bits, a variant of training that is declared and shown by itself: all else is bfloat16.

Inputs and weights become e4m3, gradients e5m2, each tensor with one scale of its own taken from its largest magnitude at every use
(Micikevicius et al. 2022, "FP8 formats for deep learning", sections 3 and 4). Sums are float32; weights that are trained stay in bfloat16
with float32 masters. The product is torch's own, `torch._scaled_mm`, which a CPU has too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .device import Unsupported

FORWARD, BACKWARD = torch.float8_e4m3fn, torch.float8_e5m2
MULTIPLE = 16  # elements of a side: what products in eight bits ask for on every chip that has them
SMALLEST = 1e-12  # of a scale, for a tensor of zeros


def quantised(x: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """(x / scale in eight bits, scale): the largest magnitude becomes the largest number of the kind."""
    largest = torch.finfo(kind).max
    scale = (x.abs().amax().float() / largest).clamp(min=SMALLEST)
    return (x.float() / scale).clamp(-largest, largest).to(kind), scale


def product(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], out: torch.dtype, *, fast: bool) -> Tensor:
    """Product of a [M, K] and b [N, K], turned; both lie row by row. `fast` lets a chip keep fewer bits of its partial sums."""
    return torch._scaled_mm(a[0], b[0].t(), scale_a=a[1], scale_b=b[1], out_dtype=out, use_fast_accum=fast)


class Linear(torch.autograd.Function):
    """The three products of a linear layer without its bias."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight_OD: Tensor) -> Tensor:  # noqa: N803
        """Product with the weight, turned; x is kept in eight bits, half of what bfloat16 would take."""
        x, weight = quantised(x_ND, FORWARD), quantised(weight_OD, FORWARD)
        ctx.save_for_backward(*x, weight_OD, weight[1])
        return product(x, weight, x_ND.dtype, fast=True)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of x and of the weight."""
        x, x_scale, weight_OD, weight_scale = ctx.saved_tensors  # noqa: N806
        grad, kind = quantised(grads[0], BACKWARD), grads[0].dtype
        largest = torch.finfo(FORWARD).max
        turned = (weight_OD.float() / weight_scale).clamp(-largest, largest).to(FORWARD).t().contiguous()
        grad_x = product(grad, (turned, weight_scale), kind, fast=False)
        grad_weight = product((grad[0].t().contiguous(), grad[1]), (x.t().contiguous(), x_scale), kind, fast=False)
        return grad_x, grad_weight


class Float8Linear(nn.Linear):
    """A linear layer whose products are in eight bits; its parameters are those of the layer that it takes the place of."""

    def __init__(self, layer: nn.Linear) -> None:
        with torch.device("meta"):
            super().__init__(layer.in_features, layer.out_features, bias=layer.bias is not None)
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """As a linear layer, in x's precision but for the products."""
        out: Tensor = Linear.apply(x.flatten(0, -2), self.weight).unflatten(0, x.shape[:-1])
        return out if self.bias is None else out + self.bias


def checked(here: torch.device) -> None:
    """Unsupported where the chip's torch has none of the products: tried out on the smallest there are."""
    one = torch.ones((MULTIPLE, MULTIPLE), dtype=torch.bfloat16, device=here)
    try:
        for kind in (FORWARD, BACKWARD):
            product(quantised(one, kind), quantised(one, FORWARD), torch.bfloat16, fast=kind == FORWARD).sum().item()
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, NotImplementedError, AttributeError, TypeError) as error:
        advice = "leave the case out, or let supports.lacks of chip.toml name float8"
        raise Unsupported(f"no product in float8 on this chip: {str(error).splitlines()[0]}; {advice}") from error
