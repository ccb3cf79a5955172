"""Samples of any length made into micro-batches, as InternEvo makes them (facts 1.1): packed in one stream, or padded one a row.

Samples are shuffled by the legacy generator of numpy with seed 1024. Packed: put one after the other and cut into packs of
micro_batch * length tokens; a piece's last target is ignored unless its sample goes on beyond the pack. Packs are shuffled
with the same seed, and rank r takes every W-th. Unpacked: micro_batch samples a unit, without their first token, padded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ..models.loss import IGNORED
from . import Share, Unit

SEED = 1024
BOUNDS = 64  # documents of a pack are counted in multiples of this, so that shapes hardly ever change
Sample = Callable[[int], Any]


class Packs:
    """Units of samples; a negative token is an input that is no target, and no token below 1 is a target."""

    def __init__(self, lengths: Any, sample: Sample, case: dict[str, Any]) -> None:
        self.sample, self.length, self.packing = sample, case["model"]["sequence_length"], case["packing"]
        self.size = case["micro_batch"] * self.length
        self.micro_batch = case["micro_batch"]
        self.order = _shuffled(len(lengths))
        self.ends = np.cumsum(np.asarray(lengths)[self.order])
        self.tokens = int(self.ends[-1])
        self.num_units = self.tokens // self.size if self.packing != "none" else len(lengths) // self.micro_batch
        if self.num_units < 1:
            raise ValueError(f"data of {self.tokens} tokens in {len(lengths)} samples does not fill one micro-batch of {self.size}")
        self.units = _shuffled(self.num_units)

    def unit(self, step: int, number: int, share: Share) -> Unit:
        """One micro-batch; the union over ranks and numbers is the same for any split of the global batch."""
        place = (step * share.num_units + number) * share.world_size + share.rank
        chosen = int(self.units[place % self.num_units])
        return self._rows(chosen) if self.packing == "none" else self._pack(chosen)

    def pieces(self, pack: int) -> list[tuple[Any, Any]]:
        """(tokens, targets) of each piece of a pack, in order."""
        begin, end, found = pack * self.size, (pack + 1) * self.size, []
        index = int(np.searchsorted(self.ends, begin, side="right"))
        while begin < end:
            tokens = np.asarray(self.sample(int(self.order[index])))
            first = int(self.ends[index]) - len(tokens)
            piece = tokens[begin - first : end - first]
            after = tokens[begin - first + 1 : end - first + 1]
            found.append((piece, np.append(after, [IGNORED] * (len(piece) - len(after)))))
            begin, index = begin + len(piece), index + 1
        return found

    def _pack(self, pack: int) -> Unit:
        pieces = self.pieces(pack)
        sizes = [len(piece) for piece, _ in pieces]
        batch = _tensors(np.concatenate([piece for piece, _ in pieces]), np.concatenate([targets for _, targets in pieces]))
        batch["positions"] = torch.cat([torch.arange(size) for size in sizes])[None]
        if self.packing == "varlen":
            ends = [0, *np.cumsum(sizes).tolist()]
            ends += [self.size] * (-len(ends) % BOUNDS)
            batch["bounds"] = torch.tensor(ends, dtype=torch.int32)
        else:
            batch["documents"] = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))[None]
        return Unit(batch, self.size, self.size)

    def _rows(self, unit: int) -> Unit:
        rows, targets, real = [], [], 0
        for index in range(unit * self.micro_batch, (unit + 1) * self.micro_batch):
            row = np.asarray(self.sample(int(self.order[index])))[: self.length][1:]
            real += len(row)
            padding = self.length - len(row)
            rows.append(np.append(row, [0] * padding))
            targets.append(np.append(row[1:], [IGNORED] * (padding + 1)))
        batch = _tensors(np.concatenate(rows), np.concatenate(targets))
        return Unit({name: tensor.view(self.micro_batch, self.length) for name, tensor in batch.items()}, self.size, real)


def _tensors(tokens: Any, targets: Any) -> dict[str, torch.Tensor]:
    labels = np.where(targets > 0, targets, IGNORED)
    return {"tokens": torch.from_numpy(np.abs(tokens).astype(np.int64))[None], "labels": torch.from_numpy(labels.astype(np.int64))[None]}


def _shuffled(count: int) -> Any:
    order = np.arange(count)
    np.random.RandomState(SEED).shuffle(order)
    return order
