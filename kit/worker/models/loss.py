"""Cross-entropy of next tokens: over all logits at once, or in chunks of rows that never hold more than one chunk's logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from .tensor import Team, own_words

IGNORED = -100


def mean_loss(
    x_BLD: Tensor,  # noqa: N803
    weight_VD: Tensor,  # noqa: N803
    labels_BL: Tensor,  # noqa: N803
    chunks: int = 1,
    bias: Tensor | None = None,
    team: Team | None = None,
) -> Tensor:
    """Mean over the targets that are not ignored, in nats, 0 where there are none; computed in float32.

    With a `team`, the weight's rows are this rank's.
    """
    if team is not None:
        x_BLD = team.enter(x_BLD)  # noqa: N806
    if chunks > 1 and bias is None:
        return Chunked.apply(x_BLD.flatten(0, 1), weight_VD, labels_BL.flatten(), chunks, team)
    logits = F.linear(x_BLD, weight_VD, bias)
    if team is None:
        labels = labels_BL.flatten()
        summed = F.cross_entropy(logits.flatten(0, 1).float(), labels, ignore_index=IGNORED, reduction="sum")
        return summed / (labels != IGNORED).sum().clamp(min=1)
    return _mean_of_team(logits.flatten(0, 1).float(), labels_BL.flatten(), team)


def _mean_of_team(logits_NV: Tensor, labels_N: Tensor, team: Team) -> Tensor:  # noqa: N803
    """The same from a team's logits: log of the sum over all words, less the target's logit, which one rank has."""
    kept = labels_N != IGNORED
    index, here = _columns(labels_N, logits_NV.shape[1], team)
    own = logits_NV.gather(1, index)[:, 0] * here
    return ((_log_of_sum(logits_NV, team)[:, 0] - team.summed(own)) * kept).sum() / kept.sum().clamp(min=1)


def _log_of_sum(logits_NV: Tensor, team: Team) -> Tensor:  # noqa: N803
    """[N, 1]: log of the sum of all words' exponentials, of which each rank of the team has some."""
    largest = team.reduced(logits_NV.detach().amax(dim=-1, keepdim=True), "max")
    return largest + team.summed((logits_NV - largest).exp().sum(dim=-1, keepdim=True)).log()


def _columns(labels_N: Tensor, held: int, team: Team | None) -> tuple[Tensor, Tensor]:  # noqa: N803
    """(column of each target [N, 1], whether it is one that counts and that this rank holds [N])."""
    kept, index = labels_N != IGNORED, labels_N.clamp(min=0)
    if team is None:
        return index[:, None], kept
    index, here = own_words(index, held, team)
    return index[:, None], kept & here


class Chunked(torch.autograd.Function):
    """Loss and gradients of one chunk of rows after the other: the gradient is made on the way forward, so nothing is kept for later."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight_VD: Tensor, labels_N: Tensor, chunks: int, team: Team | None = None) -> Tensor:  # noqa: N803
        """The mean loss; rows are split into `chunks` parts."""
        targets = (labels_N != IGNORED).sum().clamp(min=1)
        loss = torch.zeros((), dtype=torch.float32, device=x_ND.device)
        grad_x, grad_weight = torch.empty_like(x_ND), torch.zeros_like(weight_VD, dtype=torch.float32)
        for x, labels, out in zip(x_ND.chunk(chunks), labels_N.chunk(chunks), grad_x.chunk(chunks), strict=True):
            part, grad = _chunk(F.linear(x, weight_VD), labels, team)
            loss += part
            grad = (grad / targets).to(x.dtype)
            out.copy_(grad @ weight_VD)
            grad_weight += grad.t() @ x
        ctx.save_for_backward(grad_x, grad_weight.to(weight_VD.dtype))
        return (loss if team is None else team.reduced(loss, "sum")) / targets

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients kept from the way forward, times that of the loss."""
        grad_x, grad_weight = ctx.saved_tensors
        return grad_x * grads[0], grad_weight * grads[0], None, None, None


def _chunk(logits_NV: Tensor, labels_N: Tensor, team: Team | None) -> tuple[Tensor, Tensor]:  # noqa: N803
    """(sum of losses, gradient of that sum by the logits) in float32, of the words that this rank holds."""
    logits = logits_NV.float()
    log = F.log_softmax(logits, dim=-1) if team is None else logits - _log_of_sum(logits, team)
    index, here = _columns(labels_N, logits.shape[1], team)
    loss = -(log.gather(1, index)[:, 0] * here).sum()
    grad = log.exp()
    grad.scatter_add_(1, index, -here[:, None].to(grad.dtype))
    return loss, grad * (labels_N != IGNORED)[:, None]
