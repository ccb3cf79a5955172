"""Text to token ids: bytes, or the tokenizer in the folder of the case's weights or of its data."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..folders import VARIABLE, BadData
from ..weights import folder

Encode = Callable[[str], list[int]]
BYTES = "bytes"
PAD, CLS, SEP, MASK = 0, 1, 2, 3  # of a byte-level vocabulary: control bytes that no text holds; 0 ends a sample, too


def encoder(case: dict[str, Any]) -> tuple[Encode, int]:
    """(text to ids without special tokens, id that ends a sample)."""
    if case["tokenizer"] == BYTES:
        return _bytes, PAD
    made = _made(case)
    return lambda text: made.encode(text, add_special_tokens=False), int(made.eos_token_id)


def masking(case: dict[str, Any]) -> tuple[Encode, tuple[int, int, int, int]]:
    """(text to ids without special tokens, ids of padding, begin, separator and mask)."""
    if case["tokenizer"] == BYTES:
        return _bytes, (PAD, CLS, SEP, MASK)
    made = _made(case)
    special = (made.pad_token_id, made.cls_token_id, made.sep_token_id, made.mask_token_id)
    return lambda text: made.encode(text, add_special_tokens=False), special


def _bytes(text: str) -> list[int]:
    return [byte for byte in text.encode() if byte > MASK]


def _made(case: dict[str, Any]) -> Any:
    from transformers import AutoTokenizer

    kind = case["tokenizer"]
    place = folder(case["weights"]) if kind == "weights" else Path(os.environ.get(VARIABLE, "")) / case["data"]
    try:
        made = AutoTokenizer.from_pretrained(str(place), local_files_only=True)
    except (OSError, ValueError) as error:
        raise BadData(f"no tokenizer in the folder of {kind} '{case[kind]}': {str(error).splitlines()[0]}") from error
    if len(made) > case["model"]["vocab_size"]:
        raise BadData(f"the tokenizer of {kind} '{case[kind]}' has {len(made)} ids, the model {case['model']['vocab_size']}")
    return made
