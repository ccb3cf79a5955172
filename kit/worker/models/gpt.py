"""GPT-3 for training: LayerNorm before each part, learned positions, GELU, biases everywhere, head tied to the embedding.

Dropout is left out: the pre-training of Brown et al. 2020 names none, and speed is compared without.
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
from .tensor import Column, Row, Team, Words, fill_normal, of_words

INIT_STD = 0.006  # of the lab's script for 175B, facts 1.4
NORM_EPS = 1e-5


class Block(nn.Module):
    """One decoder layer."""

    def __init__(self, shape: dict[str, Any], *, fused: bool, team: Team | None) -> None:
        super().__init__()
        hidden, eps = shape["hidden_size"], shape.get("norm_eps", NORM_EPS)
        self.head_size = hidden // shape["num_heads"]
        self.attention_norm = nn.LayerNorm(hidden, eps=eps)
        self.projections = Projections(hidden, (hidden, hidden, hidden), bias=True, fused=fused, team=team)
        self.wo = Row(hidden, hidden, bias=True, team=team)
        self.ffn_norm = nn.LayerNorm(hidden, eps=eps)
        self.up = Column(hidden, (shape["ffn_size"],), bias=True, team=team)
        self.down = Row(shape["ffn_size"], hidden, bias=True, team=team)

    def forward(self, x: Tensor, how: Packing) -> Tensor:
        q, k, v = (part.unflatten(-1, (-1, self.head_size)) for part in self.projections(self.attention_norm(x)))
        x = x + self.wo(attend(q, k, v, how))
        return x + self.down(F.gelu(self.up(self.ffn_norm(x)), approximate="tanh"))


class Model(nn.Module):
    """Decoder-only language model; forward gives the mean next-token loss in nats."""

    def __init__(self, shape: dict[str, Any], *, fused: bool = True, team: Team | None = None) -> None:
        super().__init__()
        if shape["hidden_size"] % shape["num_heads"] or shape["num_kv_heads"] != shape["num_heads"]:
            raise ValueError("hidden_size must be a multiple of num_heads, and num_kv_heads equal to num_heads")
        self.loss_chunks, self.length = 1, shape["sequence_length"]
        self.words = of_words(team, shape["vocab_size"])
        self.embedding = Words(shape["vocab_size"], shape["hidden_size"], team=self.words)
        self.positions = nn.Embedding(self.length, shape["hidden_size"])
        self.blocks = nn.ModuleList(Block(shape, fused=fused, team=team) for _ in range(shape["num_layers"]))
        self.norm = nn.LayerNorm(shape["hidden_size"], eps=shape.get("norm_eps", NORM_EPS))
        self.apply(partial(initialise, std=INIT_STD))
        for block in self.blocks:  # as Radford et al. 2019: residual layers scaled by their number
            for layer in (block.wo, block.down):
                fill_normal(layer.weight, std=INIT_STD / math.sqrt(2 * shape["num_layers"]))

    def forward(
        self,
        tokens: Tensor,
        labels: Tensor,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        bounds: Tensor | None = None,
    ) -> Tensor:
        """Tokens and labels [B, L]; of packed rows also positions and documents [B, L], or `bounds` of documents [N + 1]."""
        if positions is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device)
        how = packing(self.length, documents, bounds)
        x = rows(self, self.blocks, self.embedding(tokens) + self.positions(positions), how)
        return self.tail(x, labels)

    def tail(self, x: Tensor, labels: Tensor) -> Tensor:
        """The last norm, the head and the loss."""
        return mean_loss(self.norm(x), self.embedding.weight, labels, self.loss_chunks, team=self.words)
