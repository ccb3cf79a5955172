"""How long a case took here the last time: the only source of an estimate. Lost or broken, it is simply unknown."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from kit.files import cache_folder, write_atomic
from verify.strict import canonical

KEPT = 2000


def _key(case: dict[str, Any], isolation: str) -> str:
    return hashlib.sha256(canonical({"case": case, "isolation": isolation})).hexdigest()[:32]


def _load() -> dict[str, float]:
    try:
        data = json.loads((cache_folder() / "durations.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def estimate_s(case: dict[str, Any], isolation: str) -> float | None:
    """Seconds of the last completed attempt of this very case on this machine."""
    value = _load().get(_key(case, isolation))
    return float(value) if isinstance(value, int | float) else None


def remember(case: dict[str, Any], isolation: str, seconds: float) -> None:
    """Note a completed attempt."""
    known = _load() | {_key(case, isolation): round(seconds, 1)}
    path = cache_folder() / "durations.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, canonical(dict(list(known.items())[-KEPT:])))
