"""Folders of weights and of data on the host. A worker gets those that its case names, and no other.

Weights lie below $CHIPASSAY_WEIGHTS, then among the kit's own; data lies below $CHIPASSAY_DATA.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from verify.data import root

FOLDER = "CHIPASSAY_WEIGHTS"
LOCK = "weights.lock.json"
SHIPPED = "baselines/weights"
INSIDE = "/weights"
DATA_FOLDER = "CHIPASSAY_DATA"
DATA_LOCK = "data.lock.json"
DATA_INSIDE = "/data"


def declared(case: dict[str, Any]) -> Path | None:
    """The folder of the weights that the case names; None for random ones, or where nobody has it: the worker then says so."""
    name = case.get("weights", "random")
    if name == "random":
        return None
    own = os.environ.get(FOLDER)
    tops = [*([Path(own).absolute()] if own else []), root() / SHIPPED]
    return next((top / name for top in tops if (top / name / LOCK).is_file()), None)


def dataset(case: dict[str, Any]) -> Path | None:
    """The folder of the data that the case names; None for texts and generators of the worker, or where nobody has it."""
    top, name = os.environ.get(DATA_FOLDER), case.get("data")
    folder = Path(top).absolute() / name if top and isinstance(name, str) else None
    return folder if folder and (folder / DATA_LOCK).is_file() else None


def variables(case: dict[str, Any]) -> dict[str, str]:
    """What a worker without a container is told: the folders above its weights and its data."""
    found = {FOLDER: declared(case), DATA_FOLDER: dataset(case)}
    return {name: str(folder.parent) for name, folder in found.items() if folder}


def granted(cases: Iterable[dict[str, Any]]) -> dict[str, str]:
    """Name of each folder that a container of these cases may read -> SHA-256 of its lock; where it lies on the host is not told."""
    locks: dict[str, Path] = {}
    for case in cases:
        if folder := declared(case):
            locks[case["weights"]] = folder / LOCK
        if folder := dataset(case):
            locks[case["data"]] = folder / DATA_LOCK
    return {name: hashlib.sha256(lock.read_bytes()).hexdigest() for name, lock in sorted(locks.items())}
