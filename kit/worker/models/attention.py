"""Attention of all models: one call for whole rows, for packed documents by a mask, and by lengths where torch has that kernel.

Shape suffixes: B batch, L length, H heads, K key/value heads, E head width, D hidden.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .tensor import Column, Team


class Packing:
    """Which tokens see each other: all of a row (nothing given), those of one document (`mask`), or by `bounds` of documents."""

    def __init__(self, *, causal: bool, mask: Tensor | None = None, bounds: Tensor | None = None, longest: int = 0) -> None:
        self.causal, self.mask, self.bounds, self.longest = causal, mask, bounds, longest


def packing(length: int, documents: Tensor | None = None, bounds: Tensor | None = None, *, causal: bool = True) -> Packing:
    """From document numbers [B, L] a block-diagonal mask, from `bounds` the same by lengths; no document is longer than `length`."""
    if bounds is not None:
        return Packing(causal=causal, bounds=bounds, longest=length)
    if documents is None:
        return Packing(causal=causal)
    mask = documents[:, None, :, None] == documents[:, None, None, :]
    return Packing(causal=False, mask=mask.tril() if causal else mask)


def attend(q_BLHE: Tensor, k_BLKE: Tensor, v_BLKE: Tensor, how: Packing, dropout: float = 0.0) -> Tensor:  # noqa: N803
    """Scaled dot-product attention, [B, L, H * E]."""
    batch, length, heads, _ = q_BLHE.shape
    grouped = heads != k_BLKE.shape[2]
    if how.bounds is not None:
        return _by_lengths(q_BLHE, k_BLKE, v_BLKE, how).reshape(batch, length, -1)
    q, k, v = (x.transpose(1, 2) for x in (q_BLHE, k_BLKE, v_BLKE))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=how.mask, dropout_p=dropout, is_causal=how.causal, enable_gqa=grouped)
    return out.transpose(1, 2).reshape(batch, length, -1)


def _by_lengths(q: Tensor, k: Tensor, v: Tensor, how: Packing) -> Tensor:
    """Rows of all documents one after the other; the kernel knows where each begins."""
    from torch.nn.attention.varlen import varlen_attn

    share = q.shape[2] // k.shape[2]
    k, v = (x.repeat_interleave(share, dim=2) if share > 1 else x for x in (k, v))
    ahead: Any = {"window_size": (-1, 0)} if how.causal else {}
    return varlen_attn(*(x.flatten(0, 1) for x in (q, k, v)), how.bounds, how.bounds, how.longest, how.longest, **ahead)


class Projections(nn.Module):
    """Query, key and value from one product (`fused`, fewer and larger ones) or from three, which adapters can name."""

    def __init__(self, hidden: int, widths: tuple[int, int, int], *, bias: bool, fused: bool, team: Team | None = None) -> None:
        super().__init__()
        self.widths = tuple(width // (team.ranks if team else 1) for width in widths)
        if fused:
            self.wqkv = Column(hidden, widths, bias=bias, team=team)
        else:
            self.wq, self.wk, self.wv = (Column(hidden, (width,), bias=bias, team=team) for width in widths)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Query, key and value of the last dimension's widths."""
        if hasattr(self, "wqkv"):
            return self.wqkv(x).split(self.widths, dim=-1)
        return self.wq(x), self.wk(x), self.wv(x)


def rows(model: nn.Module, blocks: Any, x: Tensor, *more: Any) -> Tensor:
    """Through all blocks; where the model says `recompute`, activations within a block are made anew on the way back."""
    for block in blocks:
        if getattr(model, "recompute", False) and torch.is_grad_enabled():
            x = torch.utils.checkpoint.checkpoint(block, x, *more, use_reentrant=False)
        else:
            x = block(x, *more)
    return x
