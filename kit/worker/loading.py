"""Loading a model as often as a case asks, each load recorded: the same for every suite with an engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from . import device, engines
from .record import Recorder


def engine(case: dict[str, Any], recorder: Recorder, here: torch.device, kinds: Sequence[str] = ()) -> Any:
    """The engine of the last of the case's loads; the first one pays for imports and is called cold, the others as `kinds` says."""
    found = None
    for kind in kinds or ["cold"] + ["warm"] * (case["loads"] - 1):
        if found is not None:
            found.unload()
        begin_ns = recorder.now()
        found = engines.module(case["engine"]).load(case, here)
        device.synchronize(here)
        recorder.event("load", begin_ns=begin_ns, kind=kind)
    return found
