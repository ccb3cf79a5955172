"""What every engine of text generation is asked: prompts and arrivals from the seed, frozen text, and what the KV cache needs."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import torch

from . import device, words
from .data.text import read
from .engines import Facts, Request

Case = dict[str, Any]
TEXT = "shakespeare.txt"
FROZEN, FROZEN_TOKENS = 16, 64  # frozen prompts at most, and their length; baselines/text_generation.toml knows their hashes
WINDOWS, WINDOW_TOKENS = 8, 256
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}
HEADROOM = 1.1  # fragments, activations and the library's own; measured shares were below
NS_PER_S = 10**9
ONE_THREAD_WIDTH = 512  # of a model on a processor: up to it, threads that wait for each other cost more than they give


class CacheTooSmall(Exception):
    """The case's KV cache does not fit; one line with the estimate and what is free."""


def settle(case: Case, here: torch.device) -> None:
    """One thread for a small model on a processor: beside other work, a step of several waits for the last of them to get its turn."""
    if here.type == "cpu" and case["model"]["hidden_size"] <= ONE_THREAD_WIDTH:
        torch.set_num_threads(1)


def per_round(case: Case) -> int:
    """Requests of a round."""
    return int(case["arrival"]["requests"] if "arrival" in case else case["concurrency"])


def requests(case: Case, number: int) -> list[Request]:
    """Requests of a round, their prompts from the seed, due at offsets from the round's begin where they arrive at a rate."""
    count = per_round(case)
    due = offsets(case, number) if "arrival" in case else [0] * count
    return [Request(number * count + index, prompt(case, number * count + index), due[index]) for index in range(count)]


def prompt(case: Case, number: int) -> list[int]:
    """Token ids: each prompt from a stream of its own, or one id over and over as in the report's era."""
    vocabulary, length = case["model"]["vocab_size"], case["input_tokens"]
    if case["prompts"] == "legacy":
        return words.positions(words.seed(case["seed"], "prompt"), 1, vocabulary) * length
    drawn = words.stream(words.seed(case["seed"], "prompt", number), length)
    return [int(value) for value in ((drawn * vocabulary) >> 32).tolist()]


def offsets(case: Case, number: int) -> list[int]:
    """Arrivals of a round in ns after its begin: times between them are exponential (Poisson arrivals), drawn from the seed."""
    at, found = 0.0, []
    start = words.seed(case["seed"], "arrival", number)
    for index in range(case["arrival"]["requests"]):
        at -= math.log((words.word(start, index) + 1) / 2**32) / case["arrival"]["rate_per_s"]
        found.append(round(at * NS_PER_S))
    return found


def digest(ids: list[int]) -> str:
    """SHA-256 of ids, 32 bits each, little-endian."""
    return hashlib.sha256(b"".join(number.to_bytes(4, "little") for number in ids)).hexdigest()


def frozen_prompts(count: int) -> list[list[int]]:
    """Pieces of the frozen text, a byte an id: the same for every case, seed and model."""
    return _pieces(FROZEN, FROZEN_TOKENS)[:count]


def frozen_windows() -> list[list[int]]:
    """Other pieces of the frozen text, for its perplexity."""
    return _pieces(WINDOWS, WINDOW_TOKENS)


def _pieces(count: int, length: int) -> list[list[int]]:
    text = read(TEXT)[0]
    return [text[start : start + length].tolist() for start in ((index + 1) * len(text) // (count + 1) for index in range(count))]


def needed_tokens(case: Case) -> int:
    """Tokens in flight when the requests of a round are about to end."""
    return int(case["concurrency"] * (case["input_tokens"] + case["output_tokens"]))


def kv_bytes_per_token(case: Case) -> int:
    """Keys and values of one token in all layers."""
    model = case["model"]
    head = model["hidden_size"] // model["num_heads"]
    return int(2 * model["num_layers"] * model["num_kv_heads"] * head * BYTES[case["kv_dtype"]])


def check_memory(case: Case, facts: Facts, here: torch.device) -> None:
    """CacheTooSmall where an engine that cannot queue would run out; the estimate is two vectors a layer, head and token."""
    needed = needed_tokens(case) * kv_bytes_per_token(case)
    free = device.free_bytes(here)
    if facts.kv_tokens is not None and facts.kv_tokens < needed_tokens(case):
        raise CacheTooSmall(
            f"the case needs a KV cache of {needed_tokens(case)} tokens, the engine's holds {facts.kv_tokens}; {_next(case)}"
        )
    if needed * HEADROOM > free:
        estimate = f"{needed_tokens(case)} tokens of {kv_bytes_per_token(case)} bytes are {needed / 1e9:.2f} GB"
        raise CacheTooSmall(f"the KV cache does not fit: {estimate}, {free / 1e9:.2f} GB are free; {_next(case)}")


def advice(case: Case, peak_bytes: int) -> str:
    """One line for a case that ran out of memory."""
    size = f"concurrency {case['concurrency']}, {case['input_tokens']} + {case['output_tokens']} tokens, {case['dtype']}"
    cache = needed_tokens(case) * kv_bytes_per_token(case)
    held = f"{peak_bytes / 1e9:.2f} GB were held at most, the KV cache is estimated at {cache / 1e9:.2f} GB"
    return f"{size} needs more memory than there is: {held}; {_next(case)}"


def _next(case: Case) -> str:
    return "take an engine that queues, or more cards" if case["concurrency"] > 1 else "take more cards, or larger ones"
