"""Several nodes meet before their ranks do: who is missing, and who has other software, is said by name within a limit.

Node 0 keeps a store beside torchrun's port. Each node leaves its number and the versions of what it runs with; node 0 waits for
all, compares, and leaves a verdict that each node reads.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import socket
import struct
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

NODE, ENDPOINT, LIMIT = "CHIPASSAY_NODE", "CHIPASSAY_RENDEZVOUS", "CHIPASSAY_RENDEZVOUS_S"
SITE_NODES = (NODE, "SLURM_NODEID", "JOB_COMPLETION_INDEX")  # our own word, then what Slurm and an indexed Job of Kubernetes tell
DEFAULT_LIMIT_S = 120
SHOWN = 3
HEARD_S = 10
FINE = "all nodes are here"


class RollCallError(Exception):
    """The nodes did not come together; one line says which."""


@dataclass(frozen=True, slots=True)
class Place:
    """A node among those of a case, and where they meet (`address:port`; the roll call takes the next port)."""

    node: int
    nodes: int
    endpoint: str
    limit_s: int = DEFAULT_LIMIT_S

    @property
    def roll_call(self) -> tuple[str, int]:
        """Address and port of the store."""
        address, _, port = self.endpoint.rpartition(":")
        return address.strip("[]"), int(port) + 1


def of(case: dict[str, Any], local: str) -> Place:
    """The place of this node, told by the environment where the case is for several; `local` is where ranks of one node meet."""
    nodes = case.get("nodes", 1)
    if nodes == 1:
        return Place(0, 1, local)
    number = next((os.environ[name] for name in SITE_NODES if name in os.environ), None)
    endpoint = os.environ.get(ENDPOINT, "")
    if number is None or not number.isdigit() or int(number) >= nodes or not endpoint.rpartition(":")[2].isdigit():
        raise RollCallError(
            f"the case is for {nodes} nodes, but {NODE} is {number} and {ENDPOINT} is '{endpoint}'; see docs/design/many-cards.md"
        )
    within_s = max(1, case.get("time_limit_s", DEFAULT_LIMIT_S) * 3 // 4)  # before the case ends without a name
    return Place(int(number), nodes, endpoint, min(int(os.environ.get(LIMIT, DEFAULT_LIMIT_S)), within_s))


def versions(worker: Path) -> dict[str, str]:
    """What must be the same on every node: the interpreter, every package, the worker itself."""
    packages = {dist.metadata["Name"]: dist.version for dist in importlib.metadata.distributions() if dist.metadata["Name"]}
    return packages | {"Python": platform.python_version(), "worker": hashlib.sha256(worker.read_bytes()).hexdigest()[:16]}


def differences(nodes: dict[int, dict[str, str]]) -> str | None:
    """In words, what the first node that differs from node 0 has else; None where all are alike."""
    for number, found in sorted(nodes.items()):
        names = sorted(name for name in nodes[0].keys() | found.keys() if nodes[0].get(name) != found.get(name))
        if names:
            said = ", ".join(f"{name} {found.get(name, 'none')} instead of {nodes[0].get(name, 'none')}" for name in names[:SHOWN])
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            return f"node {number} differs from node 0: {said}{more}"
    return None


def answer(place: Place, worker: Path) -> None:
    """Meet the other nodes; RollCallError, on every node that came, where one is missing or differs."""
    import torch.distributed as dist

    limit_s = place.limit_s
    deadline = time.monotonic() + limit_s
    address, port = place.roll_call
    try:
        store = dist.TCPStore(address, port, is_master=place.node == 0, wait_for_workers=False, timeout=timedelta(seconds=limit_s))
    except (RuntimeError, OSError) as error:
        raise RollCallError(f"node {place.node}: node 0 does not answer at {address}:{port} within {limit_s} s") from error
    store.set(f"node/{place.node}", json.dumps(versions(worker)))
    verdict = _judge(store, place.nodes, deadline, limit_s) if place.node == 0 else _heard(store, place, limit_s)
    if verdict != FINE:
        raise RollCallError(verdict)


def _judge(store: Any, nodes: int, deadline: float, limit_s: int) -> str:
    """Node 0's verdict, left for the others, and read by all of them that came."""
    here = [number for number in range(nodes) if _arrives(store, f"node/{number}", deadline)]
    missing = [str(number) for number in range(nodes) if number not in here]
    if missing:
        verdict = f"node {', '.join(missing)} did not come to the rendezvous within {limit_s} s"
    else:
        verdict = differences({number: json.loads(store.get(f"node/{number}")) for number in here}) or FINE
    store.set("verdict", verdict)
    for number in here[1:]:
        _arrives(store, f"heard/{number}", time.monotonic() + HEARD_S)
    return verdict


def _arrives(store: Any, key: str, deadline: float) -> bool:
    """Whether the key is there by then."""
    while not store.check([key]):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.05)
    return True


def _heard(store: Any, place: Place, limit_s: int) -> str:
    if not _arrives(store, "verdict", time.monotonic() + limit_s + HEARD_S):
        raise RollCallError(f"node {place.node}: node 0 gave no verdict within {limit_s + HEARD_S} s")
    verdict = str(store.get("verdict").decode())
    store.set(f"heard/{place.node}", "1")
    return verdict


def face_the_others(case: dict[str, Any]) -> None:
    """As a rank of several nodes: have the library of CPUs use the interface that leads to the others, not that of the host's name."""
    endpoint = f"{os.environ.get('MASTER_ADDR', '')}:{os.environ.get('MASTER_PORT', '')}"
    if case.get("nodes", 1) > 1 and (name := interface_towards(endpoint)):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def interface_towards(endpoint: str) -> str | None:
    """The network interface by which this node reaches the rendezvous, or None where that cannot be told."""
    address, _, port = endpoint.rpartition(":")
    with suppress(OSError, ValueError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, int(port)))
        own = probe.getsockname()[0]
        return next((name for _, name in socket.if_nameindex() if _address_of(probe, name) == own), None)
    return None


def _address_of(probe: socket.socket, interface: str) -> str | None:
    siocgifaddr = 0x8915  # linux/sockios.h
    with suppress(OSError):
        return socket.inet_ntoa(fcntl.ioctl(probe.fileno(), siocgifaddr, struct.pack("256s", interface[:15].encode()))[20:24])
    return None
