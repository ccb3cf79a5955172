"""BERT for pre-training: masked words and next sentence (Devlin et al. 2018), in its published form and in the lab's.

The lab trains codertimo/BERT-pytorch: norms before the blocks, sinusoids for positions, three segments, heads of their own
(facts 1.2). Which of the two it is stands in the shape. The loss is the sum of both means, in nats.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .attention import Packing, Projections, attend, packing, rows
from .initial import initialise
from .loss import mean_loss
from .tensor import Column, Row, Team

INIT_STD = 0.02


class Block(nn.Module):
    """One encoder layer, norms before or after its two parts."""

    def __init__(self, shape: dict[str, Any], *, fused: bool, team: Team | None) -> None:
        super().__init__()
        hidden = shape["hidden_size"]
        self.head_size, self.norm_first, self.share = hidden // shape["num_heads"], shape["norm_first"], shape["dropout"]
        self.projections = Projections(hidden, (hidden, hidden, hidden), bias=True, fused=fused, team=team)
        self.wo = Row(hidden, hidden, bias=True, team=team)
        self.up = Column(hidden, (shape["ffn_size"],), bias=True, team=team)
        self.down = Row(shape["ffn_size"], hidden, bias=True, team=team)
        self.attention_norm, self.ffn_norm = (nn.LayerNorm(hidden, eps=shape["norm_eps"]) for _ in range(2))

    def forward(self, x: Tensor, how: Packing) -> Tensor:
        if self.norm_first:
            x = x + self._attention(self.attention_norm(x), how)
            return x + self._ffn(self.ffn_norm(x))
        x = self.attention_norm(x + self._attention(x, how))
        return self.ffn_norm(x + self._ffn(x))

    def _attention(self, x: Tensor, how: Packing) -> Tensor:
        q, k, v = (part.unflatten(-1, (-1, self.head_size)) for part in self.projections(x))
        return self._drop(self.wo(attend(q, k, v, how, self.share if self.training else 0.0)))

    def _ffn(self, x: Tensor) -> Tensor:
        return self._drop(self.down(F.gelu(self.up(x))))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.share, self.training)


class Model(nn.Module):
    """Encoder with both heads, which no team splits; forward gives masked-word loss plus next-sentence loss."""

    def __init__(self, shape: dict[str, Any], *, fused: bool = True, team: Team | None = None) -> None:
        super().__init__()
        if shape["hidden_size"] % shape["num_heads"] or shape["num_kv_heads"] != shape["num_heads"]:
            raise ValueError("hidden_size must be a multiple of num_heads, and num_kv_heads equal to num_heads")
        hidden, words, eps = shape["hidden_size"], shape["vocab_size"], shape["norm_eps"]
        self.share, self.length, self.norm_first = shape["dropout"], shape["sequence_length"], shape["norm_first"]
        self.embedding, self.segments = nn.Embedding(words, hidden), nn.Embedding(shape["segments"], hidden)
        if shape["positions"] == "learned":
            self.positions = nn.Embedding(self.length, hidden)
        else:
            self.sinusoid = sinusoid(self.length, hidden)
        if not self.norm_first:
            self.embedding_norm = nn.LayerNorm(hidden, eps=eps)
        self.blocks = nn.ModuleList(Block(shape, fused=fused, team=team) for _ in range(shape["num_layers"]))
        if shape["pooler"]:
            self.pooler = nn.Linear(hidden, hidden)
        self.next_sentence = nn.Linear(hidden, 2)
        if shape["tied_head"]:
            self.transform, self.transform_norm = nn.Linear(hidden, hidden), nn.LayerNorm(hidden, eps=eps)
            self.bias = nn.Parameter(torch.zeros(words))
        else:
            self.head = nn.Linear(hidden, words)
        self.apply(partial(initialise, std=INIT_STD))

    def forward(self, tokens: Tensor, labels: Tensor, segments: Tensor, follows: Tensor, documents: Tensor | None = None) -> Tensor:
        """Tokens, labels (ignored but for masked words) and segments [B, L]; whether the second sentence follows [B]."""
        x = self.embedding(tokens) + self.segments(segments)
        x = x + (self.positions.weight if hasattr(self, "positions") else self.sinusoid.to(x.dtype))[: tokens.shape[1]]
        if not self.norm_first:
            x = self.embedding_norm(x)
        x = rows(self, self.blocks, F.dropout(x, self.share, self.training), packing(self.length, documents, causal=False))
        return self.tail(x, labels, follows)

    def tail(self, x: Tensor, labels: Tensor, follows: Tensor) -> Tensor:
        """Both heads and their losses."""
        first = torch.tanh(self.pooler(x[:, 0])) if hasattr(self, "pooler") else x[:, 0]
        return self._words(x, labels) + F.cross_entropy(self.next_sentence(first).float(), follows)

    def _words(self, x: Tensor, labels: Tensor) -> Tensor:
        if hasattr(self, "head"):
            return mean_loss(x, self.head.weight, labels, bias=self.head.bias)
        return mean_loss(self.transform_norm(F.gelu(self.transform(x))), self.embedding.weight, labels, bias=self.bias)


def sinusoid(length: int, width: int) -> Tensor:
    """Positions of Vaswani et al. 2017 as [length, width]."""
    place = torch.arange(length).float()[:, None]
    rate = torch.exp(torch.arange(0, width, 2).float() * (-math.log(10000.0) / width))
    return torch.stack((torch.sin(place * rate), torch.cos(place * rate)), dim=-1).flatten(1)
