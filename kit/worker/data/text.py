"""Frozen text as byte-level tokens, read from the archive whether it is a folder or a file."""

from __future__ import annotations

import hashlib
import pkgutil
from typing import Any

import torch

from . import Share, Unit

PACKAGE = __package__.rpartition(".")[0] if __package__ else "worker"


def read(name: str) -> tuple[torch.Tensor, str]:
    """(token ids of shape [bytes], int64; hex SHA-256 of the file)."""
    data = raw(name)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).long(), hashlib.sha256(data).hexdigest()


def raw(name: str) -> bytes:
    """The file of that name among the frozen texts."""
    data = pkgutil.get_data(PACKAGE, f"texts/{name}")
    if data is None:
        raise FileNotFoundError(f"frozen text '{name}' is not in the worker archive")
    return data


class Windows:
    """Fixed windows of a row of tokens in a seeded order, the same global batches whatever the number of ranks."""

    def __init__(self, tokens: torch.Tensor, length: int, seed: int) -> None:
        self.stream, self.length, self.num_windows = tokens, length, (len(tokens) - 1) // length
        if self.num_windows < 1:
            raise ValueError(f"text of {len(tokens)} tokens is shorter than one sequence of {length}")
        self.order = torch.randperm(self.num_windows, generator=torch.Generator().manual_seed(seed))
        self.tokens = len(tokens)

    def unit(self, step: int, number: int, share: Share) -> Unit:
        """Inputs and next-token labels [micro_batch, length] of one micro-batch."""
        begin = share.first_sequence(step, number)
        picked = [int(self.order[(begin + i) % self.num_windows]) * self.length for i in range(share.micro_batch)]
        rows = torch.stack([self.stream[start : start + self.length + 1] for start in picked]).long()
        slots = share.micro_batch * self.length
        return Unit({"tokens": rows[:, :-1].contiguous(), "labels": rows[:, 1:].contiguous()}, slots, slots)


class Text(Windows):
    """Windows of a frozen text."""

    def __init__(self, case: dict[str, Any]) -> None:
        tokens, self.sha256 = read(case["data"])
        super().__init__(tokens, case["model"]["sequence_length"], case["seed"])
