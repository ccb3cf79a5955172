"""The folder on the host that a case may write checkpoints into: below $CHIPASSAY_CHECKPOINTS, else beside the runs.

Each case of a run has a folder of its own there. It is checked before the case starts, kept for as long as an attempt may go on
from it, and removed once the case is done. No checkpoint is evidence: what is sealed is what was measured on it.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from kit import environment
from kit.errors import FAILED, KitError
from kit.files import make_folder, writable
from kit.grants import PLAIN_USER

FOLDER = "CHIPASSAY_CHECKPOINTS"
INSIDE = "/checkpoints"
BESIDE = ".checkpoints"
FIELD = "checkpoint_format"  # of a case that writes checkpoints
KEPT = 2  # the one that is written, and the one before
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
OPTIMIZER_BYTES = 12  # a parameter: master copy and two moments in float32


def top(runs: Path) -> Path:
    """Where all runs have their checkpoints."""
    own = os.environ.get(FOLDER)
    return Path(own).absolute() if own else (runs / BESIDE).absolute()


def folder(case: dict[str, Any], attempt: Path) -> Path | None:
    """The case's own folder, given that of its attempt (RUN/evidence/cases/ID/attempt-N); None where it writes no checkpoint."""
    if FIELD not in case:
        return None
    run = attempt.absolute().parents[3]
    return top(run.parent) / run.name / str(case["id"])


def variables(case: dict[str, Any], attempt: Path) -> dict[str, str]:
    """What a worker without a container is told."""
    own = folder(case, attempt)
    return {FOLDER: str(own)} if own else {}


def least_bytes(case: dict[str, Any]) -> int:
    """Bytes that the case's checkpoints will take, from the model's parameters; where the plan does not tell them, fewer than there are."""
    parameters = case["model"].get("parameters") or _products(case["model"])
    copies = min(KEPT, case.get("rounds", KEPT))
    return int(parameters * (BYTES[case["dtype"]] + OPTIMIZER_BYTES) * copies + case.get("raw_bytes", 0))


def _products(shape: dict[str, Any]) -> int:
    """Parameters of the matrix products of a decoder."""
    hidden, kv = shape["hidden_size"], shape["hidden_size"] * shape.get("num_kv_heads", shape["num_heads"]) // shape["num_heads"]
    layer = 2 * hidden * hidden + 2 * hidden * kv + 2 * hidden * shape["ffn_size"]
    return int(shape["num_layers"] * layer + hidden * shape["vocab_size"])


def check() -> None:
    """Make the folder that --checkpoints or $CHIPASSAY_CHECKPOINTS names, or KitError: before a run is opened."""
    if own := os.environ.get(FOLDER):
        what, step = "folder for checkpoints", "name another with --checkpoints DIR"
        writable(make_folder(Path(own), what, step) / ".probe", what, step)


def prepare(case: dict[str, Any], attempt: Path) -> None:
    """Make the folder, and KitError where it cannot be written or is too small: before anything is started."""
    own = folder(case, attempt)
    if own is None:
        return
    where = f"case {case['id']}, {own}"
    try:
        own.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            os.chown(own, PLAIN_USER, PLAIN_USER)
        probe = own / ".probe"
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        raise _unusable("folder for checkpoints cannot be written", where, error.strerror or "") from error
    needed, free = least_bytes(case), environment.free_bytes(own)
    if free < needed:
        raise _unusable("folder for checkpoints is too small", where, f"{needed} bytes are needed at least, {free} are free")


def _unusable(what: str, where: str, why: str) -> KitError:
    return KitError(what, where=where, why=why, next_step="name another with --checkpoints DIR", exit_code=FAILED)


def clear(case: dict[str, Any], attempt: Path) -> None:
    """Remove the case's checkpoints, and what is empty above them."""
    own = folder(case, attempt)
    if own is None:
        return
    shutil.rmtree(own, ignore_errors=True)
    for above in (own.parent, own.parent.parent):
        try:
            above.rmdir()
        except OSError:
            return


def continues(case: dict[str, Any]) -> bool:
    """Whether a further attempt goes on from what an earlier one left."""
    return "duration_s" in case
