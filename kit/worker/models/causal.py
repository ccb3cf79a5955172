"""LLaMA checkpoints for inference: a locked folder of weights, or one written here with weights drawn from the case's seed.

Every engine reads the same files, so that their tokens can be compared. Each tensor has a stream of its own, named by seed and name, drawn
on the device one at a time: a checkpoint of any size needs no more memory than its largest tensor.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from .. import weights, words
from ..device import DTYPES

Case = dict[str, Any]
INIT_STD = 0.02  # of the published LLaMA configurations
NORM_EPS = {"llama-1": 1e-6}  # LLaMA-2 and all others: 1e-5
SCRATCH = "CHIPASSAY_SCRATCH"  # a folder where checkpoints drawn from a seed are kept for the next case
SHARD_BYTES = 4 * 10**9


def config(case: Case) -> dict[str, Any]:
    """The checkpoint's config.json."""
    shape = case["model"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": shape["hidden_size"],
        "num_hidden_layers": shape["num_layers"],
        "num_attention_heads": shape["num_heads"],
        "num_key_value_heads": shape["num_kv_heads"],
        "intermediate_size": shape["ffn_size"],
        "vocab_size": shape["vocab_size"],
        "max_position_embeddings": shape["sequence_length"],
        "rms_norm_eps": NORM_EPS.get(case["generation"], 1e-5),
        "rope_theta": 10000.0,
        "initializer_range": INIT_STD,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": case["dtype"],
    }


def architecture(case: Case) -> str:
    """What a lock of weights calls this shape."""
    shape = case["model"]
    sizes = (shape["hidden_size"], shape["num_layers"], shape["num_heads"], shape["num_kv_heads"], shape["ffn_size"], shape["vocab_size"])
    return "-".join(["llama", *map(str, sizes)])


def shapes(case: Case) -> dict[str, tuple[int, ...]]:
    """Every tensor's name in the library's layout, and its shape."""
    model = case["model"]
    hidden, ffn, vocabulary = model["hidden_size"], model["ffn_size"], model["vocab_size"]
    kv = hidden // model["num_heads"] * model["num_kv_heads"]
    layer = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (kv, hidden),
        "self_attn.v_proj": (kv, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (ffn, hidden),
        "mlp.up_proj": (ffn, hidden),
        "mlp.down_proj": (hidden, ffn),
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
    }
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for number in range(model["num_layers"]):
        found |= {f"model.layers.{number}.{name}.weight": shape for name, shape in layer.items()}
    return found | {"model.norm.weight": (hidden,), "lm_head.weight": (vocabulary, hidden)}


def parameters(case: Case) -> int:
    """Number of parameters."""
    return sum(torch.Size(shape).numel() for shape in shapes(case).values())


def folder(case: Case, here: torch.device) -> tuple[Path, str | None]:
    """(folder in the library's layout, SHA-256 of its lock or None where the weights are random), written here if need be."""
    if case["weights"] != "random":
        return weights.checked(case["weights"], architecture(case))
    name = f"{architecture(case)}-{case['dtype']}-{case['seed']}"
    path = Path(os.environ.get(SCRATCH) or tempfile.gettempdir()) / f"chipassay-{os.getuid()}-{name}"
    if not (path / "config.json").is_file():
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(mode=0o700, parents=True)
        _write(case, path, here)
    return path, None


def forget(case: Case) -> None:
    """Remove a drawn checkpoint, unless somebody named a folder to keep them in."""
    if case["weights"] == "random" and not os.environ.get(SCRATCH):
        name = f"{architecture(case)}-{case['dtype']}-{case['seed']}"
        shutil.rmtree(Path(tempfile.gettempdir()) / f"chipassay-{os.getuid()}-{name}", ignore_errors=True)


def _write(case: Case, path: Path, here: torch.device) -> None:
    """Shards of at most SHARD_BYTES, their index, and the configuration last."""
    from safetensors.torch import save_file

    shard: dict[str, torch.Tensor] = {}
    index: dict[str, str] = {}
    size = total = number = 0
    for name, tensor in _drawn(case, here):
        if size + tensor.nbytes > SHARD_BYTES:
            save_file(shard, path / _shard(number), metadata={"format": "pt"})
            shard, size, number = {}, 0, number + 1
        shard[name], index[name] = tensor, _shard(number)
        size, total = size + tensor.nbytes, total + tensor.nbytes
    save_file(shard, path / _shard(number), metadata={"format": "pt"})
    told = {"metadata": {"total_size": total}, "weight_map": index}
    (path / "model.safetensors.index.json").write_text(json.dumps(told), encoding="utf-8")
    (path / "tokenizer.json").write_text(json.dumps(tokenizer(case)), encoding="utf-8")
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}), encoding="utf-8")
    (path / "config.json").write_text(json.dumps(config(case), indent=2), encoding="utf-8")


def tokenizer(case: Case) -> dict[str, Any]:
    """A word for each id, for engines that insist on a tokenizer: none is ever used to make ids of a text."""
    words_of = {f"<{number}>": number for number in range(case["model"]["vocab_size"])}
    empty = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"))
    return {"version": "1.0", **empty, "added_tokens": [], "model": {"type": "WordLevel", "vocab": words_of, "unk_token": "<0>"}}


def _shard(number: int) -> str:
    return f"model-{number:05}.safetensors"


def _drawn(case: Case, here: torch.device) -> Iterator[tuple[str, torch.Tensor]]:
    for name, shape in shapes(case).items():
        tensor = torch.ones(shape, dtype=DTYPES[case["dtype"]], device=here)
        if len(shape) > 1:
            generator = torch.Generator(here).manual_seed(words.seed(case["seed"], "weights", name) >> 1)
            tensor.normal_(0, INIT_STD, generator=generator)
        yield name, tensor.cpu()


def tensors(path: Path, here: torch.device) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of a folder, on the device."""
    from safetensors import safe_open

    for file in sorted(path.glob("*.safetensors")):
        with safe_open(file, framework="pt", device=str(here)) as opened:
            for name in opened.keys():  # noqa: SIM118 - no mapping
                yield name, opened.get_tensor(name)


def build(case: Case, path: Path, here: torch.device, dtype: torch.dtype) -> Any:
    """The library's model with the folder's weights, in `dtype`, nothing initialised twice; BadWeights where names or shapes differ."""
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**config(case)))
    known, expected = dict(model.named_parameters()), shapes(case)
    for name, tensor in tensors(path, here):
        if name.endswith("rotary_emb.inv_freq"):  # older checkpoints keep what follows from the shape
            continue
        if expected.pop(name, None) != tuple(tensor.shape):
            raise weights.BadWeights(f"tensor {name} of shape {tuple(tensor.shape)} is not one of {architecture(case)}")
        owner, _, last = name.rpartition(".")
        made = torch.nn.Parameter(tensor.to(dtype), requires_grad=False)
        setattr(model.get_submodule(owner), last, made)
        del known[name]
    if expected:
        raise weights.BadWeights(f"{len(expected)} tensors of {architecture(case)} are missing, the first is {next(iter(expected))}")
    with here:
        model.model.rotary_emb = type(model.model.rotary_emb)(config=model.config)
    return model.eval()
