"""Engines: software that runs a model. One module each, found by its name below this package.

A third party's engine is a module named in the entry point group `chipassay.engines`; one that fails to load fails the case.
An engine of text generation has `load(case, device) -> Engine`. Its items carry their own time, taken with `time.monotonic_ns`
where the thing happened: they may be handed over later and in any order, so that handing over costs the measurement nothing.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol


class Request(NamedTuple):
    """Number of the request in its case, prompt as token ids, and when it is due in ns of the monotonic clock (0: at once)."""

    number: int
    prompt: list[int]
    due_ns: int = 0


class Sent(NamedTuple):
    """From a client: when it let the request go, and when the last byte of it had been written. Engines in this process give none."""

    request: int
    submit_ns: int
    ns: int


class Chunk(NamedTuple):
    """New token ids of a request, in order; `ns` is when they had reached the host, or when the socket had been read."""

    request: int
    ids: list[int]
    ns: int


class Text(NamedTuple):
    """From a server that tells no token ids: a piece of text, of which only the size is kept."""

    request: int
    size_bytes: int
    ns: int


class Done(NamedTuple):
    """The request came to its end; `usage_tokens` is what a server says it generated, None where it says nothing."""

    request: int
    ns: int
    usage_tokens: int | None = None


class Failed(NamedTuple):
    """The request failed; one line says why. The others go on."""

    request: int
    ns: int
    why: str


class Client(NamedTuple):
    """How late a client was itself: its processes, and by how many ns its loop came late, look by look."""

    ns: int
    processes: int
    lag_ns: list[int]


Item = Sent | Chunk | Text | Done | Failed | Client


@dataclass(frozen=True, slots=True)
class Facts:
    """What an engine says of itself and its model once it is loaded; `weights_sha256` is None for random weights.

    `kv_tokens`: tokens that its cache holds at once, None where it does not say. `queues`: whether it takes more requests than fit.
    """

    version: str
    parameters: int
    weights_sha256: str | None = None
    kv_tokens: int | None = None
    queues: bool = False


class Engine(Protocol):
    """A loaded model that generates. It may also have `compile(requests, output_tokens)`, asked for where the case compiles, and
    `losses(ids) -> list[float]`: the negative log-likelihood of each token after the first, for the gate of INT8.
    """

    facts: Facts
    arrivals: bool  # whether requests may come at any time (`due_ns`)

    def generate(self, requests: Sequence[Request], output_tokens: int) -> Iterator[Item]:
        """Generate exactly `output_tokens` greedily for every request, end-of-text ignored; each request ends in Done or Failed."""

    def unload(self) -> None:
        """Give the model's memory back."""


class MissingEngine(Exception):
    """An engine that cannot be used here; one line with the version wanted, the one found, and the next step."""


def module(name: str) -> Any:
    """The engine module called `name`; MissingEngine where it, or a library of it, cannot be imported."""
    try:
        for entry in importlib.metadata.entry_points(group="chipassay.engines"):
            if entry.name == name:
                return entry.load()
        return importlib.import_module(f".{name}", __package__)
    except ImportError as error:
        raise MissingEngine(f"engine '{name}' cannot be imported: {error}; install its library, or take another engine") from error


def wanted(package: str, lowest: str, below: str) -> str:
    """Version of an installed package, at least `lowest` and less than `below` (like "0.18"); else MissingEngine."""
    expected = f"{package} >={lowest},<{below}"
    try:
        found = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise MissingEngine(f"wanted {expected}, found none; install it into the image") from None
    if not _numbers(lowest) <= _numbers(found) < _numbers(below):
        raise MissingEngine(f"wanted {expected}, found {found}; install a version that fits into the image")
    return found


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version."""
    parts = []
    for part in version.split("+")[0].split("."):
        if not part.isdigit():
            break
        parts.append(int(part))
    return tuple(parts)
