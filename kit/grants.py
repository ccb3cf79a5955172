"""What a container is given: cards, nodes, mounts, privileges and bounds, as the chip asks; sealed with the run and shown."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kit import environment
from kit.chip import Chip, filled
from kit.host import Card

PLAIN_USER = 65532


@dataclass(frozen=True, slots=True)
class Grants:
    """Everything that a container gets beyond an empty one. Sizes in bytes."""

    user: str
    cards: tuple[int, ...]
    way: str
    nodes: tuple[str, ...]
    runtime: str | None
    cdi: tuple[str, ...]
    mounts: tuple[str, ...]
    groups: tuple[str, ...]
    capabilities: tuple[str, ...]
    security: tuple[str, ...]
    privileged: bool
    ulimits: dict[str, int]
    environment: dict[str, str]
    pids_limit: int
    memory_bytes: int
    shared_memory_bytes: int
    temporary_bytes: int
    network: str = "none"
    read_only: bool = True
    injected: tuple[str, ...] | None = None  # what the chip's own runtime mounts beside; None: nobody knows
    checkpoints: str | None = None  # where cases that write checkpoints find a folder of their own, read-write
    weights: dict[str, str] = field(default_factory=dict)  # name -> SHA-256 of the lock; each read-only, for cases that name it

    def sealed(self) -> dict[str, Any]:
        """As JSON has it."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def user() -> str:
    """uid:gid of the worker: the caller's own, but never root."""
    return f"{os.geteuid() or PLAIN_USER}:{os.getegid() or PLAIN_USER}"


def of(
    chip: Chip,
    cards: Sequence[Card],
    way: str | None = None,
    root: Path = Path("/"),
    weights: dict[str, str] | None = None,
    checkpoints: str | None = None,
) -> Grants:
    """What a container of this chip with these cards is given; `way` overrides how it gets them."""
    has, numbers = chip.container, tuple(card.number for card in cards)
    way = way or has.get("way", "nodes")
    return Grants(
        user=user(),
        cards=numbers,
        way=way,
        nodes=_nodes(has, cards, root) if way == "nodes" else (),
        runtime=has.get("runtime") if way == "runtime" else None,
        cdi=tuple(f"{has['cdi']}={number}" for number in numbers) if way == "cdi" else (),
        mounts=tuple(path for path in has.get("mounts", []) if (root / path[1:]).exists()),
        groups=tuple(has.get("groups", [])),
        capabilities=tuple(has.get("capabilities", [])),
        security=("no-new-privileges", *has.get("security", [])),
        privileged=has.get("privileged", False),
        ulimits=dict(has.get("ulimits", {})),
        environment=chip.worker_environment() | {name: filled(text, numbers) for name, text in has.get("environment", {}).items()},
        pids_limit=has["pids_limit"],
        memory_bytes=int(environment.memory_bytes() * has["memory_share"]),
        shared_memory_bytes=has["shared_memory_bytes"],
        temporary_bytes=has["temporary_bytes"],
        injected=tuple(has["injected"]) if "injected" in has else None,
        checkpoints=checkpoints,
        weights=weights or {},
    )


def _nodes(has: dict[str, Any], cards: Sequence[Card], root: Path) -> tuple[str, ...]:
    """The common nodes, those of the optional ones that the host has, and those of each card."""
    optional = [node for node in has.get("nodes_if_present", []) if (root / node[1:]).exists()]
    return (*has.get("nodes", []), *optional, *(node for card in cards for node in card.nodes))
