"""Folders of weights on the host: those below $CHIPASSAY_WEIGHTS, then the kit's own. A worker gets the one that its case names."""

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


def declared(case: dict[str, Any]) -> Path | None:
    """The folder of the weights that the case names; None for random ones, or where nobody has it: the worker then says so."""
    name = case.get("weights", "random")
    if name == "random":
        return None
    own = os.environ.get(FOLDER)
    tops = [*([Path(own).absolute()] if own else []), root() / SHIPPED]
    return next((top / name for top in tops if (top / name / LOCK).is_file()), None)


def variables(case: dict[str, Any]) -> dict[str, str]:
    """What a worker without a container is told: the folder above its weights."""
    folder = declared(case)
    return {FOLDER: str(folder.parent)} if folder else {}


def granted(cases: Iterable[dict[str, Any]]) -> dict[str, str]:
    """Name of each folder that a container of these cases may read -> SHA-256 of its lock; where it lies on the host is not told."""
    found = {case["weights"]: folder for case in cases if (folder := declared(case))}
    return {name: hashlib.sha256((folder / LOCK).read_bytes()).hexdigest() for name, folder in sorted(found.items())}
