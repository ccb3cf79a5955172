"""Corpora that were tokenised before: files of little-endian integers one after the other, as the lock's dtype says."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..folders import BadData, opened
from .text import Windows

DTYPES = {"uint16": np.uint16, "uint32": np.uint32}


class Tokens(Windows):
    """Windows over all files of a folder, in the order of their names."""

    def __init__(self, case: dict[str, Any]) -> None:
        folder, lock, self.sha256 = opened(case["data"], {"tokens"})
        if lock.get("dtype") not in DTYPES:
            raise BadData(f"data '{case['data']}' has tokens of {lock.get('dtype')}; its lock must say {' or '.join(DTYPES)}")
        parts = [np.fromfile(folder / name, dtype=np.dtype(DTYPES[lock["dtype"]]).newbyteorder("<")) for name in sorted(lock["files"])]
        stream = np.concatenate(parts)
        if stream.size and int(stream.max()) >= case["model"]["vocab_size"]:
            raise BadData(f"data '{case['data']}' has token {int(stream.max())}, the model knows {case['model']['vocab_size']}")
        super().__init__(torch.from_numpy(stream.astype(np.int64)), case["model"]["sequence_length"], case["seed"])
