"""Engines: software that runs a model. One module each, found by its name below this package.

An engine module has `load(case, device) -> Engine`. A third party's engine is a module named in the entry point group
`chipassay.engines`; one that fails to load fails the case.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Iterator, Sequence
from typing import Any, Protocol


class Engine(Protocol):
    """A loaded model that generates."""

    num_parameters: int

    def stream(self, prompts: Sequence[Sequence[int]], output_tokens: int) -> Iterator[list[tuple[int, list[int]]]]:
        """Generate exactly `output_tokens` for every prompt; yields what has just become known as
        (index of the prompt, its new token ids) pairs, as soon as it is on the host.
        """

    def unload(self) -> None:
        """Give the model's memory back."""


def module(name: str) -> Any:
    """The engine module called `name`."""
    for entry in importlib.metadata.entry_points(group="chipassay.engines"):
        if entry.name == name:
            return entry.load()
    return importlib.import_module(f".{name}", __package__)
