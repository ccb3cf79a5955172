"""LLaMA for training: RMSNorm, rotary positions, grouped-query attention, SwiGLU, untied output head.

Shape suffixes: B batch, L sequence, D hidden, H heads, K key/value heads, E head width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

ROPE_BASE = 10000.0  # LLaMA-1 and LLaMA-2
NORM_EPS = 1e-5
INIT_STD = 0.02


class Attention(nn.Module):
    """Causal self-attention with rotary positions."""

    def __init__(self, shape: dict[str, Any]) -> None:
        super().__init__()
        hidden, self.num_heads, self.num_kv_heads = shape["hidden_size"], shape["num_heads"], shape["num_kv_heads"]
        self.head_size = hidden // self.num_heads
        self.wq = nn.Linear(hidden, self.num_heads * self.head_size, bias=False)
        self.wk = nn.Linear(hidden, self.num_kv_heads * self.head_size, bias=False)
        self.wv = nn.Linear(hidden, self.num_kv_heads * self.head_size, bias=False)
        self.wo = nn.Linear(self.num_heads * self.head_size, hidden, bias=False)

    def forward(self, x_BLD: Tensor, cos_LE: Tensor, sin_LE: Tensor) -> Tensor:  # noqa: N803
        batch, length, _ = x_BLD.shape
        q = self.wq(x_BLD).view(batch, length, self.num_heads, self.head_size).transpose(1, 2)
        k = self.wk(x_BLD).view(batch, length, self.num_kv_heads, self.head_size).transpose(1, 2)
        v = self.wv(x_BLD).view(batch, length, self.num_kv_heads, self.head_size).transpose(1, 2)
        q, k = rotate(q, cos_LE, sin_LE), rotate(k, cos_LE, sin_LE)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.num_kv_heads != self.num_heads)
        return self.wo(out.transpose(1, 2).reshape(batch, length, -1))


class Block(nn.Module):
    """One decoder layer."""

    def __init__(self, shape: dict[str, Any]) -> None:
        super().__init__()
        hidden, ffn = shape["hidden_size"], shape["ffn_size"]
        self.attention_norm = nn.RMSNorm(hidden, eps=NORM_EPS)
        self.attention = Attention(shape)
        self.ffn_norm = nn.RMSNorm(hidden, eps=NORM_EPS)
        self.gate = nn.Linear(hidden, ffn, bias=False)
        self.up = nn.Linear(hidden, ffn, bias=False)
        self.down = nn.Linear(ffn, hidden, bias=False)

    def forward(self, x_BLD: Tensor, cos_LE: Tensor, sin_LE: Tensor) -> Tensor:  # noqa: N803
        x_BLD = x_BLD + self.attention(self.attention_norm(x_BLD), cos_LE, sin_LE)  # noqa: N806
        h = self.ffn_norm(x_BLD)
        return x_BLD + self.down(F.silu(self.gate(h)) * self.up(h))


class Llama(nn.Module):
    """Decoder-only language model; forward gives the mean next-token loss in nats."""

    def __init__(self, shape: dict[str, Any]) -> None:
        super().__init__()
        if shape["hidden_size"] % shape["num_heads"] or shape["num_heads"] % shape["num_kv_heads"]:
            raise ValueError("hidden_size must be a multiple of num_heads, and num_heads of num_kv_heads")
        self.embedding = nn.Embedding(shape["vocab_size"], shape["hidden_size"])
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape["num_layers"]))
        self.norm = nn.RMSNorm(shape["hidden_size"], eps=NORM_EPS)
        self.head = nn.Linear(shape["hidden_size"], shape["vocab_size"], bias=False)
        cos, sin = rotary_table(shape["sequence_length"], shape["hidden_size"] // shape["num_heads"])
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.apply(_initialise)

    def forward(self, tokens_BL: Tensor, labels_BL: Tensor) -> Tensor:  # noqa: N803
        x = self.embedding(tokens_BL)
        cos, sin = self.cos[: x.shape[1]], self.sin[: x.shape[1]]
        for block in self.blocks:
            x = block(x, cos, sin)
        logits_BLV = self.head(self.norm(x))  # noqa: N806
        return F.cross_entropy(logits_BLV.flatten(0, 1).float(), labels_BL.flatten())


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=INIT_STD)


def rotary_table(length: int, head_size: int) -> tuple[Tensor, Tensor]:
    """Cos and sin of shape [length, head_size], halves repeated."""
    frequency = ROPE_BASE ** (-torch.arange(0, head_size, 2).float() / head_size)
    angle = torch.outer(torch.arange(length).float(), frequency).repeat(1, 2)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos_LE: Tensor, sin_LE: Tensor) -> Tensor:  # noqa: N803
    """Rotary position embedding of x [B, heads, L, E], computed in float32."""
    first, second = x.float().chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return (x.float() * cos_LE.float() + turned * sin_LE.float()).to(x.dtype)
