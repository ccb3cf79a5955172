"""Floating-point operations of a model's products, as shapes of cases give them: for utilisation and for plausibility.

Of every matrix weight 2 a token forward and 4 backward, of which 2 are the weight's own gradient and fall away where it is frozen
(Kaplan et al. 2020, section 2.1). Attention counts what a causal mask leaves, half of the square; embeddings count nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Shape = Mapping[str, Any]
GATED = {"llama", "internlm"}  # three matrices in a feed-forward block, two in the others


def matrix_weights(model: Shape) -> int:
    """Weights of every matrix that each token passes, the head that makes words of it among them."""
    hidden, kv = model["hidden_size"], model["hidden_size"] * model["num_kv_heads"] // model["num_heads"]
    layer = 2 * hidden * hidden + 2 * hidden * kv + (3 if model["architecture"] in GATED else 2) * hidden * model["ffn_size"]
    transform = hidden * hidden if model.get("tied_head") else 0
    return int(model["num_layers"] * layer + hidden * model["vocab_size"] + transform)


def training(model: Shape, tokens: int, *, frozen: bool = False) -> int:
    """Operations of one pass there and back over `tokens`, attention left out: a floor."""
    return (4 if frozen else 6) * matrix_weights(model) * tokens


def attention(model: Shape, tokens: int) -> int:
    """Operations of attention itself over `tokens` in sequences of the model's length, there and back."""
    whole = 12 * model["num_layers"] * model["hidden_size"] * model["sequence_length"]
    return int(whole if model["architecture"] == "bert" else whole // 2) * tokens
