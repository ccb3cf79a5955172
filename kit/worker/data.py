"""Frozen text as byte-level tokens, read from beside this module whether it lies in a folder or in the archive."""

from __future__ import annotations

import hashlib
import pkgutil

import torch

VOCABULARY = 256


def read(name: str) -> tuple[torch.Tensor, str]:
    """(token ids of shape [bytes], int64; hex SHA-256 of the file)."""
    data = pkgutil.get_data(__package__ or "worker", f"texts/{name}")
    if data is None:
        raise FileNotFoundError(f"frozen text '{name}' is not in the worker archive")
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).long(), hashlib.sha256(data).hexdigest()


class Windows:
    """Fixed windows of the text in a seeded order, the same global batches whatever the number of ranks."""

    def __init__(self, tokens: torch.Tensor, length: int, seed: int) -> None:
        self.tokens = tokens
        self.length = length
        self.num_windows = (len(tokens) - 1) // length
        if self.num_windows < 1:
            raise ValueError(f"text of {len(tokens)} tokens is shorter than one sequence of {length}")
        self.order = torch.randperm(self.num_windows, generator=torch.Generator().manual_seed(seed))

    def batch(self, begin: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and next-token labels of shape [size, length], windows `begin` to `begin + size` of the seeded order."""
        picked = [int(self.order[(begin + i) % self.num_windows]) * self.length for i in range(size)]
        rows = torch.stack([self.tokens[start : start + self.length + 1] for start in picked])
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
