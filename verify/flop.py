"""Floating-point operations of a model's products and its parameters, as shapes of cases give them: for utilisation and for rules.

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


def parameters(model: Shape) -> int:
    """Every parameter of a model of this shape: what its matrices hold, and its embeddings, biases and norms."""
    architecture, hidden, words, layers = model["architecture"], model["hidden_size"], model["vocab_size"], model["num_layers"]
    kv = hidden * model["num_kv_heads"] // model["num_heads"]
    count = matrix_weights(model)
    if architecture in GATED:
        biases = 2 * hidden + 2 * kv if architecture == "internlm" else 0
        return int(count + words * hidden + layers * (2 * hidden + biases) + hidden)
    count += layers * (4 * hidden + model["ffn_size"] + hidden + 4 * hidden)
    if architecture == "gpt":  # its head is the embedding
        return int(count + model["sequence_length"] * hidden + 2 * hidden)
    return int(count + _of_bert(model))


def _of_bert(model: Shape) -> int:
    """What a BERT has beside its layers and the matrix that makes words."""
    hidden, words = model["hidden_size"], model["vocab_size"]
    count = model["segments"] * hidden + 2 * hidden + 2 + words  # segments, next-sentence head, bias of the words
    count += 3 * hidden if model["tied_head"] else words * hidden  # the transform's bias and norm, or an embedding of its own
    count += model["sequence_length"] * hidden if model["positions"] == "learned" else 0
    count += 0 if model["norm_first"] else 2 * hidden
    return int(count + (hidden * hidden + hidden if model["pooler"] else 0))
