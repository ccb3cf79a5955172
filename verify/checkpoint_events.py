"""Events of the suite `checkpoint`, beside the common ones."""

from __future__ import annotations

from typing import Literal

from verify.events import Event, Natural, Positive, Sha256
from verify.step_events import Data


class Storage(Event, frozen=True, tag="storage"):
    """The place that checkpoints lie in; `needed_bytes` is what was estimated before the first save."""

    file_system: str
    device: str
    device_model: str | None
    rotational: bool | None
    size_bytes: Natural
    free_bytes: Natural
    needed_bytes: Natural


class Content(Event, frozen=True, tag="content"):
    """Digests of this rank's tensors by name: before the save, after the cold load, after the warm one."""

    round: Natural
    stage: Literal["saved", "cold", "warm"]
    size_bytes: Positive
    tensors: dict[str, Sha256]


class Ceiling(Event, frozen=True, tag="ceiling"):
    """A raw file written to the disk, or read from it, by one rank of a node in blocks; `direct` is past the page cache."""

    round: Natural
    kind: Literal["write", "read"]
    begin_ns: Natural
    size_bytes: Positive
    streams: Positive
    direct: bool


class Save(Event, frozen=True, tag="save"):
    """A save: this rank's share was on the disk at `written_ns`, that of all ranks under its name at `t`."""

    round: Natural
    step: Natural
    begin_ns: Natural
    written_ns: Natural
    model_ns: Natural
    optimizer_ns: Natural
    model_bytes: Natural
    optimizer_bytes: Natural


class Cache(Event, frozen=True, tag="cache"):
    """What of the checkpoint was in the page cache before a load, and what had been done about it."""

    round: Natural
    stage: Literal["cold", "warm"]
    way: Literal["fadvise", "drop_caches", "read"]
    resident_bytes: Natural
    size_bytes: Positive


class Load(Event, frozen=True, tag="load"):
    """A load: this rank had read everything at `read_ns`, all ranks were ready to step at `t`."""

    round: Natural
    stage: Literal["cold", "warm"]
    begin_ns: Natural
    read_ns: Natural


class NextStep(Event, frozen=True, tag="next_step"):
    """A step behind the checkpoint: of the training that was not stopped (`saved`), or after a load."""

    round: Natural
    stage: Literal["saved", "cold", "warm"]
    step: Natural
    loss: float


EVENTS: tuple[type[Event], ...] = (Data, Storage, Content, Ceiling, Save, Cache, Load, NextStep)
