"""The transformers library with a static batch: prefill once, then one greedy token a step from the KV cache.

The step loop is ours. A step's ids go to the host while the next step is already under way: the device never waits for a chunk to be
handed out. The first and the last token are waited for, so that their times are not late.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import DynamicCache, StaticCache

from .. import linear, reference
from ..device import DTYPES
from ..generation import FROZEN_TOKENS
from ..models import causal
from . import Chunk, Done, Facts, Item, Request, wanted

Case = dict[str, Any]
NS_PER_S = 10**9


class Int8Linear(torch.nn.Module):
    """Weights in INT8, one scale an output; activations as they are (W8A16)."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        scale = linear.weight.float().abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
        self.weight = (linear.weight.float() / scale).round().to(torch.int8)
        self.scale = scale[:, 0].to(linear.weight.dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, self.weight.to(x.dtype)) * self.scale


def quantize(model: torch.nn.Module) -> None:
    """Every linear layer but the last, which makes words of hidden states."""
    linear.replace(model.model, Int8Linear)


class Pending:
    """Ids of a step on their way to the host."""

    def __init__(self, ids: torch.Tensor) -> None:
        self.host = ids if ids.device.type == "cpu" else ids.to("cpu", non_blocking=True)
        self.event = None
        if ids.device.type != "cpu":
            self.event = torch.get_device_module(ids.device).Event()
            self.event.record()

    def arrived(self) -> tuple[list[int], int]:
        """(ids, when they were there)."""
        if self.event is not None:
            self.event.synchronize()
        ns = time.monotonic_ns()
        return self.host[:, 0].tolist(), ns


class TransformersEngine:
    """A LLaMA of transformers on one device."""

    arrivals = True

    def __init__(self, case: Case, model: Any, device: torch.device, facts: Facts) -> None:
        self.case, self.model, self.device, self.facts = case, model, device, facts
        self.forward: Any = model.forward
        self.cache: StaticCache | None = None
        self.batch = 0

    def compile(self, requests: Sequence[Request], output_tokens: int) -> None:
        """Have a step compiled as a whole over a cache that stays where it is, and go through one generation."""
        length = max(len(requests[0].prompt) + output_tokens, FROZEN_TOKENS + self.case["judge"]["tokens"])
        self.cache, self.batch = StaticCache(config=self.model.config, max_cache_len=length), len(requests)
        self.forward = torch.compile(self.model.forward, mode=self.case["compile"], fullgraph=True, dynamic=False)
        for _ in self.generate(requests, output_tokens):
            pass

    def generate(self, requests: Sequence[Request], output_tokens: int) -> Iterator[Item]:
        """Greedy decoding of all prompts side by side; prompts have one length. What was compiled takes batches of one size.

        Requests that come at their times wait for the batch under way, and then make one of at most the case's concurrency.
        """
        waiting = sorted(requests, key=lambda request: request.due_ns)
        at_rate = bool(waiting) and waiting[-1].due_ns > 0
        while waiting:
            time.sleep(max(0, waiting[0].due_ns - time.monotonic_ns()) / NS_PER_S)
            now = time.monotonic_ns()
            most = self.batch or (self.case["concurrency"] if at_rate else len(waiting))
            due = [request for request in waiting[:most] if request.due_ns <= now]
            if due:
                yield from self._batch(due, self.batch or len(due), output_tokens)
                del waiting[: len(due)]

    def _batch(self, requests: Sequence[Request], size: int, output_tokens: int) -> Iterator[Item]:
        """A batch of `size`, filled up with its last prompt, whose tokens are then nobody's."""
        rows = [request.prompt for request in requests]
        rows += rows[-1:] * (size - len(rows))
        ns = 0
        for ids, ns in self._steps(torch.tensor(rows, device=self.device), output_tokens):
            yield from (Chunk(request.number, [token], ns) for request, token in zip(requests, ids, strict=False))
        yield from (Done(request.number, ns) for request in requests)

    @torch.inference_mode()
    def _steps(self, ids: torch.Tensor, output_tokens: int) -> Iterator[tuple[list[int], int]]:
        cache: Any = DynamicCache(config=self.model.config) if self.cache is None else self.cache
        if self.cache is not None:
            self.cache.reset()
        ids = self._step(self.model.forward, ids, cache)
        yield Pending(ids).arrived()
        pending: Pending | None = None
        for _ in range(output_tokens - 1):
            ids = self._step(self.forward, ids, cache)
            if pending is not None:
                yield pending.arrived()
            pending = Pending(ids)
        if pending is not None:
            yield pending.arrived()

    def _step(self, forward: Any, ids: torch.Tensor, cache: Any) -> torch.Tensor:
        logits = forward(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        return logits[:, -1].argmax(-1, keepdim=True)

    @torch.inference_mode()
    def losses(self, ids: list[int]) -> list[float]:
        """Negative log-likelihood in nats of each id after the first."""
        whole = torch.tensor([ids], device=self.device)
        logits = self.model(input_ids=whole, use_cache=False).logits[0, :-1]
        likely = torch.log_softmax(logits.double(), -1)
        return [-value for value in likely.gather(1, whole[0, 1:, None])[:, 0].tolist()]

    def unload(self) -> None:
        """Drop the weights."""
        del self.model, self.forward
        self.cache = None
        reference.free(self.device)


def prepare(case: Case, device: torch.device) -> None:
    """Draw random weights into a checkpoint, which loading then reads."""
    causal.folder(case, device)


def load(case: Case, device: torch.device) -> TransformersEngine:
    """The case's model from its folder of weights."""
    version = wanted("transformers", "4.48", "6")
    if case["quantization"] == "w8a8" or case["kv_dtype"] != case["dtype"]:
        raise NotImplementedError(
            "engine 'transformers' knows INT8 weights (w8a16) and a KV cache in the precision of the case; take another"
        )
    path, digest = causal.folder(case, device)
    model = causal.build(case, path, device, DTYPES[case["dtype"]])
    if case["quantization"] == "w8a16":
        quantize(model)
    return TransformersEngine(case, model, device, Facts(version, causal.parameters(case), digest))
