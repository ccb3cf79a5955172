"""How published files name the tensors of each architecture, and which parameter of ours each one fills.

LLaMA and InternLM as transformers' LlamaForCausalLM, GPT as its GPT2LMHeadModel (products kept as [in, out], query, key and value
as one), BERT as its BertForPreTraining. Ours are named as a model has them whose projections stand apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

Shape = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Naming:
    """Names of one architecture: `layer` finds number, part and kind of a tensor in a layer, `plain` has those of no layer."""

    layer: re.Pattern[str]
    plain: dict[str, str]
    parts: dict[str, tuple[str, ...]]  # one that fills several of ours is cut into as many equal stretches of rows
    turned: frozenset[str] = frozenset()  # parts whose weight is stored as [in, out]
    tied: dict[str, str] = field(default_factory=dict)  # a second copy -> the tensor that it must equal
    ignored: re.Pattern[str] = re.compile("(?!)")  # no weights: tables and masks that older files kept
    config: dict[str, str] = field(default_factory=dict)  # entry of config.json -> the shape's field that no tensor's size would tell
    fixed: dict[str, tuple[Any, ...]] = field(default_factory=dict)  # entry of config.json -> what our model computes


LLAMA = Naming(
    layer=re.compile(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)"),
    plain={"model.embed_tokens.weight": "embedding.weight", "model.norm.weight": "norm.weight", "lm_head.weight": "head.weight"},
    parts={
        "input_layernorm": ("attention_norm",),
        "post_attention_layernorm": ("ffn_norm",),
        "self_attn.q_proj": ("attention.projections.wq",),
        "self_attn.k_proj": ("attention.projections.wk",),
        "self_attn.v_proj": ("attention.projections.wv",),
        "self_attn.o_proj": ("attention.wo",),
        "mlp.gate_proj": ("ffn.gate",),
        "mlp.up_proj": ("ffn.up",),
        "mlp.down_proj": ("ffn.down",),
    },
    ignored=re.compile(r".*\.rotary_emb\.inv_freq"),
    config={"num_attention_heads": "num_heads", "num_key_value_heads": "num_kv_heads"},
    fixed={"hidden_act": ("silu",)},
)
GPT = Naming(
    layer=re.compile(r"(?:transformer\.)?h\.(\d+)\.(.+)\.(weight|bias)"),
    plain={
        f"{before}{name}": place
        for before in ("transformer.", "")
        for name, place in {
            "wte.weight": "embedding.weight",
            "wpe.weight": "positions.weight",
            "ln_f.weight": "norm.weight",
            "ln_f.bias": "norm.bias",
        }.items()
    },
    parts={
        "ln_1": ("attention_norm",),
        "attn.c_attn": ("projections.wq", "projections.wk", "projections.wv"),
        "attn.c_proj": ("wo",),
        "ln_2": ("ffn_norm",),
        "mlp.c_fc": ("up",),
        "mlp.c_proj": ("down",),
    },
    turned=frozenset({"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"}),
    tied={"lm_head.weight": "embedding.weight"},
    ignored=re.compile(r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)"),
    config={"n_head": "num_heads"},
    fixed={"activation_function": ("gelu_new", "gelu_pytorch_tanh")},
)
BERT = Naming(
    layer=re.compile(r"bert\.encoder\.layer\.(\d+)\.(.+)\.(weight|bias|gamma|beta)"),
    plain={
        "bert.embeddings.word_embeddings.weight": "embedding.weight",
        "bert.embeddings.position_embeddings.weight": "positions.weight",
        "bert.embeddings.token_type_embeddings.weight": "segments.weight",
        "bert.embeddings.LayerNorm.weight": "embedding_norm.weight",
        "bert.embeddings.LayerNorm.bias": "embedding_norm.bias",
        "bert.embeddings.LayerNorm.gamma": "embedding_norm.weight",
        "bert.embeddings.LayerNorm.beta": "embedding_norm.bias",
        "bert.pooler.dense.weight": "pooler.weight",
        "bert.pooler.dense.bias": "pooler.bias",
        "cls.predictions.bias": "bias",
        "cls.predictions.transform.dense.weight": "transform.weight",
        "cls.predictions.transform.dense.bias": "transform.bias",
        "cls.predictions.transform.LayerNorm.weight": "transform_norm.weight",
        "cls.predictions.transform.LayerNorm.bias": "transform_norm.bias",
        "cls.predictions.transform.LayerNorm.gamma": "transform_norm.weight",
        "cls.predictions.transform.LayerNorm.beta": "transform_norm.bias",
        "cls.seq_relationship.weight": "next_sentence.weight",
        "cls.seq_relationship.bias": "next_sentence.bias",
    },
    parts={
        "attention.self.query": ("projections.wq",),
        "attention.self.key": ("projections.wk",),
        "attention.self.value": ("projections.wv",),
        "attention.output.dense": ("wo",),
        "attention.output.LayerNorm": ("attention_norm",),
        "intermediate.dense": ("up",),
        "output.dense": ("down",),
        "output.LayerNorm": ("ffn_norm",),
    },
    tied={"cls.predictions.decoder.weight": "embedding.weight", "cls.predictions.decoder.bias": "bias"},
    ignored=re.compile(r"bert\.embeddings\.position_ids"),
    config={"num_attention_heads": "num_heads"},
    fixed={"hidden_act": ("gelu",)},
)
NAMINGS = {"llama": LLAMA, "internlm": LLAMA, "gpt": GPT, "bert": BERT}
OLD_KINDS = {"gamma": "weight", "beta": "bias"}  # as TensorFlow names the two vectors of a norm


def ours(naming: Naming, key: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """(our parameter, its values) that a published tensor fills: none where the name is not one of the architecture's."""
    if key in naming.plain:
        yield naming.plain[key], tensor
        return
    match = naming.layer.fullmatch(key)
    if match is None or match[2] not in naming.parts or not tensor.dim():
        return
    number, part, kind = match[1], match[2], OLD_KINDS.get(match[3], match[3])
    whole = tensor.t() if part in naming.turned and tensor.dim() == 2 else tensor
    places = naming.parts[part]
    for place, piece in zip(places, whole.tensor_split(len(places)), strict=True):
        yield f"blocks.{number}.{place}.{kind}", piece


def unlike(naming: Naming, shape: Shape, config: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(entry of config.json, what it says, what the case's model has) where they differ; an entry that is not there says nothing."""
    for name, own in naming.config.items():
        if name in config and own in shape and config[name] != shape[own]:
            yield name, config[name], shape[own]
    for name, known in naming.fixed.items():
        if name in config and config[name] not in known:
            yield name, config[name], known[0]
