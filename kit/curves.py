"""Loss curves of baselines in the lab's form: a JSON object with one loss for each of step0, step1, ... step100.

A case names a file; the resolved plan holds its values, so that verify needs no file but the run.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from kit.errors import KitError

STEPS = (100, 101)


def resolve(curve: Any, where: str, folder: Path) -> Any:
    """What a case's `curve` stands for: `{file, spike}` with a path from the plan's folder."""
    if not (isinstance(curve, dict) and isinstance(curve.get("file"), str)):
        return curve
    own = {key: value for key, value in curve.items() if key != "file"}
    return read(folder / curve["file"], where) | own


def read(path: Path, where: str) -> dict[str, Any]:
    """Name, digest and values of a curve file; KitError where it is none."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise KitError("loss curve cannot be read", where=f"{where}: {path}", why=error.strerror or "") from error
    try:
        steps = json.loads(data, parse_float=str, parse_int=str)
    except (ValueError, RecursionError) as error:
        raise KitError("loss curve is not JSON", where=f"{where}: {path}", why=str(error)) from error
    wanted = [f"step{number}" for number in range(len(steps))] if isinstance(steps, dict) else []
    if len(wanted) not in STEPS or list(steps) != wanted:
        wanted_form = 'write {"step0": loss, ... "step100": loss}'
        raise KitError("loss curve is not in the lab's form", where=f"{where}: {path}", next_step=wanted_form)
    return {"name": path.name, "sha256": hashlib.sha256(data).hexdigest(), "values": list(steps.values()), "spike": []}
