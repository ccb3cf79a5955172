"""LLaMA and InternLM for training: RMSNorm, rotary positions, grouped-query attention, SwiGLU, untied output head.

InternLM is the same with biases on the four projections of attention. Shape suffixes: B batch, L length, D hidden, E head width.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .attention import Packing, Projections, attend, packing, rows
from .initial import initialise
from .loss import mean_loss
from .tensor import WHOLE, Column, Elsewhere, Row, Stage, Team, Words, of_words

ROPE_BASE = 10000.0  # LLaMA-1, LLaMA-2 and InternLM-1
NORM_EPS = 1e-5  # of shapes that name none
INIT_STD = 0.02


class Attention(nn.Module):
    """Self-attention with rotary positions."""

    def __init__(self, shape: dict[str, Any], *, fused: bool, team: Team | None) -> None:
        super().__init__()
        hidden, self.num_heads, self.num_kv_heads = shape["hidden_size"], shape["num_heads"], shape["num_kv_heads"]
        self.head_size = hidden // self.num_heads
        bias, kv_size = shape["architecture"] == "internlm", self.num_kv_heads * self.head_size
        self.projections = Projections(hidden, (hidden, kv_size, kv_size), bias=bias, fused=fused, team=team)
        self.wo = Row(hidden, hidden, bias=bias, team=team)

    def forward(self, x_BLD: Tensor, cos: Tensor, sin: Tensor, how: Packing) -> Tensor:  # noqa: N803
        q, k, v = (x.unflatten(-1, (-1, self.head_size)) for x in self.projections(x_BLD))
        return self.wo(attend(rotate(q, cos, sin), rotate(k, cos, sin), v, how))


class FeedForward(nn.Module):
    """SwiGLU; gate and up are one product where `fused`."""

    def __init__(self, hidden: int, ffn: int, *, fused: bool, team: Team | None) -> None:
        super().__init__()
        if fused:
            self.gate_up = Column(hidden, (ffn, ffn), bias=False, team=team)
        else:
            self.gate, self.up = (Column(hidden, (ffn,), bias=False, team=team) for _ in range(2))
        self.down = Row(ffn, hidden, bias=False, team=team)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1) if hasattr(self, "gate_up") else (self.gate(x), self.up(x))
        return self.down(F.silu(gate) * up)


class Block(nn.Module):
    """One decoder layer."""

    def __init__(self, shape: dict[str, Any], *, fused: bool, team: Team | None) -> None:
        super().__init__()
        hidden, eps = shape["hidden_size"], shape.get("norm_eps", NORM_EPS)
        self.attention_norm = nn.RMSNorm(hidden, eps=eps)
        self.attention = Attention(shape, fused=fused, team=team)
        self.ffn_norm = nn.RMSNorm(hidden, eps=eps)
        self.ffn = FeedForward(hidden, shape["ffn_size"], fused=fused, team=team)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, how: Packing) -> Tensor:
        x = x + self.attention(self.attention_norm(x), cos, sin, how)
        return x + self.ffn(self.ffn_norm(x))


class Model(nn.Module):
    """Decoder-only language model; forward gives the mean next-token loss in nats. Of a `stage` it holds the stage's layers alone."""

    def __init__(self, shape: dict[str, Any], *, fused: bool = True, team: Team | None = None, stage: Stage = WHOLE) -> None:
        super().__init__()
        if shape["hidden_size"] % shape["num_heads"] or shape["num_heads"] % shape["num_kv_heads"]:
            raise ValueError("hidden_size must be a multiple of num_heads, and num_heads of num_kv_heads")
        self.loss_chunks, self.words = 1, of_words(team, shape["vocab_size"])
        self.stage, elsewhere, layers = stage, Elsewhere(0, 1), shape["num_layers"]
        self.embedding = Words(shape["vocab_size"], shape["hidden_size"], team=self.words if stage.first else elsewhere)
        held = [stage.has(layer, layers) for layer in range(layers)]
        self.blocks = nn.ModuleList(Block(shape, fused=fused, team=team if is_held else elsewhere) for is_held in held)
        self.norm = nn.RMSNorm(shape["hidden_size"], eps=shape.get("norm_eps", NORM_EPS))
        self.head = Column(shape["hidden_size"], (shape["vocab_size"],), bias=False, team=self.words if stage.last else elsewhere)
        self.length = shape["sequence_length"]
        # no buffers: an engine that casts a model to bfloat16 would take three digits off the angles
        self.cos, self.sin = rotary_table(self.length, shape["hidden_size"] // shape["num_heads"])
        self.apply(partial(initialise, std=INIT_STD))
        self.blocks = nn.ModuleList(block for block, is_held in zip(self.blocks, held, strict=True) if is_held)
        if not stage.first:
            del self.embedding
        if not stage.last:
            del self.norm, self.head

    def forward(
        self,
        tokens: Tensor,
        labels: Tensor,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        bounds: Tensor | None = None,
    ) -> Tensor:
        """Tokens and labels [B, L]; of packed rows also positions and documents [B, L], or `bounds` of documents [N + 1]."""
        return self.tail(self.through(self.embedding(tokens), positions, documents, bounds), labels)

    def through(self, x: Tensor, positions: Tensor | None = None, documents: Tensor | None = None, bounds: Tensor | None = None) -> Tensor:
        """Through the layers that are held here."""
        cos, sin = (table[: x.shape[1]] if positions is None else table[positions] for table in (self.cos, self.sin))
        return rows(self, self.blocks, x, cos, sin, packing(self.length, documents, bounds))

    def tail(self, x: Tensor, labels: Tensor) -> Tensor:
        """The last norm, the head and the loss."""
        return mean_loss(self.norm(x), self.head.weight, labels, self.loss_chunks, team=self.words)


def rotary_table(length: int, head_size: int) -> tuple[Tensor, Tensor]:
    """Cos and sin of shape [length, head_size], halves repeated."""
    frequency = ROPE_BASE ** (-torch.arange(0, head_size, 2).float() / head_size)
    angle = torch.outer(torch.arange(length).float(), frequency).repeat(1, 2)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding of x [B, L, heads, E] by tables [L, E] or [B, L, E], computed in float32."""
    first, second = x.float().chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return (x.float() * cos.float()[..., None, :] + turned * sin.float()[..., None, :]).to(x.dtype)
