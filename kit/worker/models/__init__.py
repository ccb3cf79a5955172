"""Models that suites train or run: one small module an architecture; shapes come with the case."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .tensor import Stage, Team

MODULES = {"llama": "llama", "internlm": "llama", "gpt": "gpt", "bert": "bert"}


def build(shape: dict[str, Any], *, fused: bool = True, team: Team | None = None, stage: Stage | None = None) -> Any:
    """A model of this shape with random weights; without `fused`, projections of attention stand apart, as adapters want them.

    With a `team`, this rank's part of it, with a `stage` the stage's layers (`tensor`).

    `model(**batch)` is the mean loss in nats over the targets of a batch; `model.blocks` are its layers, for compilation.
    """
    more = {} if stage is None else {"stage": stage}
    return importlib.import_module(f".{MODULES[shape['architecture']]}", __package__).Model(shape, fused=fused, team=team, **more)
