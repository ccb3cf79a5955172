"""Data that suites train on: each source gives the micro-batches of a step, the same global batch whatever the number of ranks.

A source has `sha256` of what it was read or generated from, `tokens` in all, and `unit(step, number, share)`: micro-batch
`number` of this rank's share. Steps -1, -2, ... are held-out data: the last of the order, which training reaches only where it
goes through all there is. Tensors lie on the host.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

Case = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Share:
    """What one rank does of each global batch."""

    rank: int
    world_size: int
    global_batch: int
    micro_batch: int

    @property
    def num_units(self) -> int:
        """Micro-batches of this rank in a step."""
        return self.global_batch // (self.world_size * self.micro_batch)

    def first_sequence(self, step: int, number: int) -> int:
        """Index of the first sequence of a micro-batch among all that were ever trained on."""
        return step * self.global_batch + (self.rank * self.num_units + number) * self.micro_batch


@dataclass(frozen=True, slots=True)
class Unit:
    """One micro-batch: tensors by the names that models take, slots computed, and how many of them hold real tokens."""

    batch: dict[str, Any]
    tokens: int
    real_tokens: int


class Source(Protocol):
    """What a suite sees of data."""

    sha256: str
    tokens: int

    def unit(self, step: int, number: int, share: Share) -> Unit:
        """Micro-batch `number` of a step."""


def source(case: Case) -> Source:
    """The data that the case names: InternEvo's, for BERT pairs, instructions, a frozen text, or a folder of tokens."""
    from . import instructions, internevo, pairs, text, tokens

    name = case["data"]
    if name == internevo.NAME:
        return internevo.Dummy(case)
    if case["model"]["architecture"] == "bert":
        return pairs.Pairs(case)
    if case["suite"] == "finetuning" or name.endswith(".json"):
        return instructions.Padded(case) if case["packing"] == "none" else instructions.Packed(case)
    return text.Text(case) if name.endswith(".txt") else tokens.Tokens(case)
