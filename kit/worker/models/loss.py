"""Cross-entropy of next tokens: over all logits at once, or in chunks of rows that never hold more than one chunk's logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

IGNORED = -100


def mean_loss(x_BLD: Tensor, weight_VD: Tensor, labels_BL: Tensor, chunks: int = 1, bias: Tensor | None = None) -> Tensor:  # noqa: N803
    """Mean over the targets that are not ignored, in nats; computed in float32."""
    if chunks > 1 and bias is None:
        return Chunked.apply(x_BLD.flatten(0, 1), weight_VD, labels_BL.flatten(), chunks)
    logits = F.linear(x_BLD, weight_VD, bias)
    return F.cross_entropy(logits.flatten(0, 1).float(), labels_BL.flatten(), ignore_index=IGNORED)


class Chunked(torch.autograd.Function):
    """Loss and gradients of one chunk of rows after the other: the gradient is made on the way forward, so nothing is kept for later."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight_VD: Tensor, labels_N: Tensor, chunks: int) -> Tensor:  # noqa: N803
        """The mean loss; rows are split into `chunks` parts."""
        targets = (labels_N != IGNORED).sum().clamp(min=1)
        loss = torch.zeros((), dtype=torch.float32, device=x_ND.device)
        grad_x, grad_weight = torch.empty_like(x_ND), torch.zeros_like(weight_VD, dtype=torch.float32)
        for x, labels, out in zip(x_ND.chunk(chunks), labels_N.chunk(chunks), grad_x.chunk(chunks), strict=True):
            part, grad = _chunk(F.linear(x, weight_VD), labels)
            loss += part
            grad = (grad / targets).to(x.dtype)
            out.copy_(grad @ weight_VD)
            grad_weight += grad.t() @ x
        ctx.save_for_backward(grad_x, grad_weight.to(weight_VD.dtype))
        return loss / targets

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients kept from the way forward, times that of the loss."""
        grad_x, grad_weight = ctx.saved_tensors
        return grad_x * grads[0], grad_weight * grads[0], None, None


def _chunk(logits_NV: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:  # noqa: N803
    """(sum of losses, gradient of that sum by the logits) in float32."""
    kept = labels_N != IGNORED
    index = labels_N.clamp(min=0)[:, None]
    log = F.log_softmax(logits_NV.float(), dim=-1)
    loss = -(log.gather(1, index)[:, 0] * kept).sum()
    grad = log.exp()
    grad.scatter_add_(1, index, -torch.ones_like(index, dtype=grad.dtype))
    return loss, grad * kept[:, None]
