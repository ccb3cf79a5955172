"""The process group of a case: every rank's place, the collective library's settings, and what the network between nodes carries."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from . import clock, device
from .record import Recorder

FABRIC_WARMUPS, FABRIC_ROUNDS = 2, 10
BOOT_ID = "/proc/sys/kernel/random/boot_id"


@dataclass(frozen=True, slots=True)
class Member:
    """A rank in its group."""

    rank: int
    ranks: int
    nodes: int
    here: torch.device

    @property
    def per_node(self) -> int:
        """Ranks of one node."""
        return self.ranks // self.nodes

    @property
    def node(self) -> int:
        """Ranks are laid out node by node."""
        return self.rank // self.per_node


@contextlib.contextmanager
def joined(case: dict[str, Any], recorder: Recorder) -> Iterator[Member]:
    """Join the group of the case over the chip's own library; records `group` and `place`. A rank alone makes a group of one."""
    rank, ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    here = device.choose(local_rank)
    recorder.event("environment", **device.facts(here))
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "29500")):
        os.environ.setdefault(name, value)
    library = device.backend(here)
    dist.init_process_group(library, timeout=timedelta(seconds=case["time_limit_s"]))
    member = Member(rank, ranks, case.get("nodes", 1), here)
    settings = {name: value for name, value in sorted(os.environ.items()) if name.startswith(f"{library.upper()}_")}
    recorder.event("group", library=library, settings=settings)
    recorder.event("place", node=member.node, local_rank=local_rank, host=_host(), memory_bytes=device.memory_bytes(here))
    yield member
    dist.destroy_process_group()  # not after an error: it could wait for ranks that wait for this one


def _host() -> str:
    """Which running host this is, without naming it: a hash of its boot id."""
    try:
        text = Path(BOOT_ID).read_text(encoding="ascii").strip()
    except OSError:
        text = os.uname().nodename
    return hashlib.sha256(f"chipassay/{text}".encode()).hexdigest()[:16]


def wait_for_all(member: Member) -> None:
    """A barrier that every library has: one number summed up, and waited for."""
    one = torch.ones(1, device=member.here)
    dist.all_reduce(one)
    device.synchronize(member.here)


def fabric(member: Member, recorder: Recorder, size_bytes: int) -> None:
    """Bandwidth from the first node to the second: each rank of one sends to its like on the other, all at once. Records `fabric`."""
    if member.nodes < 2:
        return
    wait_for_all(member)
    if member.node < 2:
        peer = member.rank + (member.per_node if member.node == 0 else -member.per_node)
        buffer = torch.ones(size_bytes // 4, device=member.here)
        send = member.node == 0

        def act() -> None:
            dist.send(buffer, peer) if send else dist.recv(buffer, peer)

        clock.each(member.here, FABRIC_WARMUPS, act)
        durations = clock.each(member.here, FABRIC_ROUNDS, act)
        recorder.event(
            "fabric",
            peer=peer,
            role="send" if send else "receive",
            size_bytes=buffer.numel() * 4,
            clock=clock.kind(member.here),
            duration_ns=durations,
        )
    wait_for_all(member)
