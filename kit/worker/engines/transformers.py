"""The transformers library with a static batch: prefill once, then one greedy token a step from the KV cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from ..device import DTYPES

Case = dict[str, Any]


class TransformersEngine:
    """A LLaMA of transformers on one device."""

    def __init__(self, model: LlamaForCausalLM, device: torch.device) -> None:
        self.model = model
        self.device = device
        self.num_parameters = sum(p.numel() for p in model.parameters())

    @torch.inference_mode()
    def stream(self, prompts: Sequence[Sequence[int]], output_tokens: int) -> Iterator[list[tuple[int, list[int]]]]:
        """Greedy decoding of all prompts side by side; prompts have one length."""
        ids = torch.tensor(prompts, device=self.device)
        cache = DynamicCache()
        for _ in range(output_tokens):
            logits = self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
            ids = logits[:, -1].argmax(-1, keepdim=True)
            yield [(index, [token]) for index, token in enumerate(ids[:, 0].tolist())]

    def unload(self) -> None:
        """Drop the weights."""
        del self.model
        if self.device.type != "cpu":
            torch.get_device_module(self.device).empty_cache()


def load(case: Case, device: torch.device) -> TransformersEngine:
    """The case's model with weights drawn from its seed (the report's shapes need no trained weights to be timed)."""
    shape = case["model"]
    config = LlamaConfig(
        hidden_size=shape["hidden_size"],
        num_hidden_layers=shape["num_layers"],
        num_attention_heads=shape["num_heads"],
        num_key_value_heads=shape["num_kv_heads"],
        intermediate_size=shape["ffn_size"],
        vocab_size=shape["vocab_size"],
        max_position_embeddings=shape["sequence_length"],
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(case["seed"])
    before = torch.get_default_dtype()
    torch.set_default_dtype(DTYPES[case["dtype"]])
    try:
        with device:
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    return TransformersEngine(model.eval(), device)
