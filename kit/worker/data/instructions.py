"""Instructions in Alpaca's form: a JSON list of {instruction, input, output}, in the prompt that Alpaca was taught with.

The wording of the prompt is Stanford Alpaca's, since a loss is compared with those that were trained on it. One sample a row,
padded to the length of a sequence (LoRA), or packed (full fine-tuning, where the prompt itself is no target).
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import torch

from ..folders import BadData, opened
from ..models.loss import IGNORED
from . import Share, Unit
from .packs import Packs
from .text import raw
from .tokenizer import encoder

ABOVE = "Below is an instruction that describes a task"
WITH = f"{ABOVE}, paired with an input that provides further context. Write a response that appropriately completes the request.\n\n"
WITHOUT = f"{ABOVE}. Write a response that appropriately completes the request.\n\n"
FIELDS = ("instruction", "input", "output")
HELD_OUT = 25  # one sample of so many is held out, as 2000 of Alpaca's 51,760 are in the lab's script


def prompt(row: dict[str, str]) -> str:
    """All that stands before the answer."""
    given = f"### Input:\n{row['input']}\n\n" if row["input"] else ""
    return f"{WITH if given else WITHOUT}### Instruction:\n{row['instruction']}\n\n{given}### Response:\n"


def rows(name: str) -> tuple[list[dict[str, str]], str]:
    """(samples, SHA-256 of what they were read from): a frozen file of the worker, or a folder with a lock."""
    if name.endswith(".json"):
        data = raw(name)
        return _parsed([data], name), hashlib.sha256(data).hexdigest()
    folder, lock, digest = opened(name, {"instructions"})
    return _parsed([(folder / path).read_bytes() for path in sorted(lock["files"])], name), digest


def _parsed(files: list[bytes], name: str) -> list[dict[str, str]]:
    try:
        found = [row for data in files for row in json.loads(data)]
    except ValueError as error:
        raise BadData(f"data '{name}' is not JSON: {error}") from error
    for number, row in enumerate(found):
        if not isinstance(row, dict) or any(not isinstance(row.get(field), str) for field in FIELDS):
            raise BadData(f"data '{name}', sample {number}: an object with texts {', '.join(FIELDS)} is wanted")
    return found


class Padded:
    """Rows of one sample each, padded on the right, in a seeded order that starts anew each epoch; padding is no target."""

    def __init__(self, case: dict[str, Any]) -> None:
        found, self.sha256 = rows(case["data"])
        encode, end = encoder(case)
        self.length = case["model"]["sequence_length"]
        samples = [[*encode(prompt(row) + row["output"])[: self.length - 1], end] for row in found]
        self.tokens = sum(map(len, samples))
        self.seed = case["seed"]
        self.held_out, self.samples = samples[::HELD_OUT], [sample for place, sample in enumerate(samples) if place % HELD_OUT]

    def unit(self, step: int, number: int, share: Share) -> Unit:
        """Tokens and next-token labels [micro_batch, length]."""
        begin = share.first_sequence(step, number)
        chosen = [self._sample(begin + index) for index in range(share.micro_batch)]
        tokens = torch.zeros(share.micro_batch, self.length, dtype=torch.int64)
        labels = torch.full_like(tokens, IGNORED)
        for row, sample in enumerate(chosen):
            tokens[row, : len(sample)] = torch.tensor(sample)
            labels[row, : len(sample) - 1] = tokens[row, 1 : len(sample)]
        return Unit({"tokens": tokens, "labels": labels}, share.micro_batch * self.length, sum(map(len, chosen)))

    def _sample(self, index: int) -> list[int]:
        if index < 0:
            return self.held_out[index % len(self.held_out)]
        epoch, place = divmod(index, len(self.samples))
        order = torch.randperm(len(self.samples), generator=torch.Generator().manual_seed(self.seed + epoch))
        return self.samples[int(order[place])]


class Packed(Packs):
    """Samples one after the other; tokens of the prompt are marked by their sign and are no target."""

    def __init__(self, case: dict[str, Any]) -> None:
        found, self.sha256 = rows(case["data"])
        encode, end = encoder(case)
        length = case["model"]["sequence_length"]
        answers = [(encode(prompt(row)), [*encode(row["output"]), end]) for row in found]
        samples = [np.array([-token for token in asked] + answer)[:length] for asked, answer in answers]
        super().__init__(np.array([len(sample) for sample in samples]), samples.__getitem__, case)
