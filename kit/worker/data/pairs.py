"""Sentence pairs for BERT: words masked by 80/10/10, every other pair with a second sentence from elsewhere (facts 1.2).

A line is `first<TAB>second`; of a frozen text, pairs are its neighbouring lines. What is masked depends on the seed and on the
pair's number alone, so it is the same for any number of ranks.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from ..folders import BadData, opened
from ..models.loss import IGNORED
from . import Share, Unit
from .text import raw
from .tokenizer import masking

SHARE = 0.15


class Pairs:
    """Masked pairs, one a row."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.lines, self.sha256 = _lines(case["data"])
        self.encode, self.special = masking(case)
        self.length, self.words, self.seed = case["model"]["sequence_length"], case["model"]["vocab_size"], case["seed"]
        self.first_segment = case["model"]["segments"] - 2  # of three, 0 is padding's
        self.tokens = sum(len(first) + len(second) for first, second in self.lines)

    def unit(self, step: int, number: int, share: Share) -> Unit:
        """Tokens, labels and segments [micro_batch, length], whether the second follows [micro_batch], documents: 1 for padding."""
        begin = share.first_sequence(step, number)
        made = [self._row(begin + index) for index in range(share.micro_batch)]
        columns = [torch.stack([row[name] for row, _ in made]) for name in ("tokens", "labels", "segments", "documents")]
        batch = dict(zip(("tokens", "labels", "segments", "documents"), columns, strict=True))
        batch["follows"] = torch.tensor([follows for _, follows in made])
        return Unit(batch, share.micro_batch * self.length, int((batch["documents"] == 0).sum()))

    def _row(self, index: int) -> tuple[dict[str, torch.Tensor], int]:
        random = torch.Generator().manual_seed((self.seed << 32) + index)
        first, second = self.lines[index % len(self.lines)]
        follows = int(torch.rand((), generator=random) < 0.5)
        if not follows:
            second = self.lines[int(torch.randint(len(self.lines), (), generator=random))][1]
        pad, cls, sep, _ = self.special
        room = self.length - 3
        a, b = self.encode(first)[: room // 2], self.encode(second)[: room - room // 2]
        ids = [cls, *a, sep, *b, sep]
        rest = self.length - len(ids)
        tokens = torch.tensor(ids + [pad] * rest)
        one = self.first_segment
        segments = torch.tensor([one] * (len(a) + 2) + [one + 1] * (len(b) + 1) + [0] * rest)
        documents = torch.tensor([0] * len(ids) + [1] * rest)
        return self._masked(tokens, documents, random) | {"segments": segments, "documents": documents}, follows

    def _masked(self, tokens: torch.Tensor, documents: torch.Tensor, random: torch.Generator) -> dict[str, torch.Tensor]:
        _, cls, sep, mask = self.special
        open_to = (documents == 0) & (tokens != cls) & (tokens != sep)
        places = open_to.nonzero()[:, 0]
        chosen = places[torch.randperm(len(places), generator=random)[: max(1, int(SHARE * len(places)))]]
        labels = torch.full_like(tokens, IGNORED)
        labels[chosen] = tokens[chosen]
        fate = torch.rand(len(chosen), generator=random)
        tokens[chosen[fate < 0.8]] = mask
        anew = chosen[(fate >= 0.8) & (fate < 0.9)]
        tokens[anew] = torch.randint(self.words, (len(anew),), generator=random)
        return {"tokens": tokens, "labels": labels}


def _lines(name: str) -> tuple[list[tuple[str, str]], str]:
    if name.endswith(".txt"):
        data = raw(name)
        lines = [line for line in data.decode().splitlines() if line.strip()]
        return list(zip(lines[::2], lines[1::2], strict=False)), hashlib.sha256(data).hexdigest()
    folder, lock, digest = opened(name, {"pairs"})
    found = [line for path in sorted(lock["files"]) for line in (folder / path).read_text(encoding="utf-8").splitlines() if line]
    pairs = [(first, second) for line in found for first, tab, second in [line.partition("\t")] if tab]
    if not pairs or len(pairs) != len(found):
        raise BadData(f"data '{name}': {len(found) - len(pairs)} of {len(found)} lines are not two sentences with a tab between")
    return pairs, digest
