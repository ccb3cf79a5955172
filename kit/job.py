"""What passes between a run and whatever runs its cases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from kit.archive import Archive


@dataclass(frozen=True, slots=True)
class Job:
    """One attempt: the worker reads `case.json` in `folder` and writes its events there."""

    run_name: str
    case: dict[str, Any]
    attempt: int
    folder: Path
    archive: Archive

    @property
    def time_limit_s(self) -> int:
        return int(self.case["time_limit_s"])

    @property
    def nodes(self) -> int:
        """Nodes that the case is for; plans sealed by earlier versions do not say, and mean one."""
        return int(self.case.get("nodes", 1))


@dataclass(frozen=True, slots=True)
class NodeCommand:
    """How one node's worker is started, and what is called on that node afterwards (nothing: [])."""

    start: list[str]
    clean: list[str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended: `reason` is None when the worker exited with 0."""

    reason: str | None
    timed_out: bool = False


def timed_out(job: Job) -> Outcome:
    """The end of an attempt that took too long."""
    return Outcome(f"time limit of {job.time_limit_s} s reached", timed_out=True)


@dataclass(frozen=True, slots=True)
class Isolation:
    """What is sealed about where a run took place."""

    kind: str
    reason: str | None = None
    image: dict[str, Any] | None = None
    lock: dict[str, Any] | None = None
    grants: dict[str, Any] = field(default_factory=dict)
    packages: dict[str, Any] | None = None
    cards: tuple[int, ...] = ()
    patches: list[dict[str, Any]] = field(default_factory=list)


class Runner(Protocol):
    """A way to run cases."""

    isolation: Isolation

    def command(self, job: Job) -> list[str]: ...
    def node_command(self, job: Job, node: int | None, endpoint: str) -> NodeCommand: ...
    def run(self, job: Job, tick: Callable[[], None]) -> Outcome: ...
    def stop_leftovers(self, run_name: str) -> None: ...
