"""The ranks of a supervised training: those of this node, by their slots and processes, and those of other nodes, by their keepers' word.

On one node torchrun's agent restarts the ranks itself. On several, each start of all ranks is one agent a node: the supervisor, on
node 0, leaves an order in the shared folder, and the keeper of each other node ends the agent it has and starts the next. What a
keeper sees it leaves in a file of its node. Clocks since boot differ between nodes: a sign of life from elsewhere counts from when it came.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from .faults import WATCHED_BY
from .journal import Line, Slot, now
from .loop import FIRST, die_with, stopped

POLL_S = 0.1
TELL_S = 0.5  # a keeper's word goes over shared storage
LOST_S = 60  # without a word from a keeper that was heard before: its node is gone
QUIET_S = 10  # the same, where the ranks have fallen silent besides
TERM_GRACE_S = 10
WELL_S = 60  # for an agent whose ranks all ended well; it waits for those of other nodes
ORDER = "order.json"
OWN_STORE = {
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"
}  # the agent's store keeps addresses of ranks that are gone, and a restart meets them
MEMORY_EVENTS = Path("/sys/fs/cgroup/memory.events")
Command = Callable[[int, int], list[str]]  # torchrun's agent, given the incarnation it begins with and the restarts it has


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of one rank's newest process."""

    rank: int
    pid: int
    incarnation: int
    at_ns: int  # of its last sign of life, on the clock of whoever looks
    steps: int
    alive: bool


class Ranks(Protocol):
    """What the supervisor needs of them."""

    restarts: bool  # whether the agent restarts them itself

    def start(self, first: int, restarts: int) -> None:
        """A new agent on every node; its ranks begin with incarnation `first`."""

    def code(self) -> int | None:
        """Exit code of the agent of this node, None while it runs."""

    def seen(self) -> list[Seen]:
        """Every rank that gave a sign of life since the session began."""

    def words(self, incarnation: int) -> list[Line]:
        """Last words of that incarnation."""

    def lost(self, incarnation: int) -> str | None:
        """Which other node is gone in that incarnation, in words."""

    def quiet(self, limit_s: int) -> str | None:
        """Which other node has not said anything for that long, in words."""

    def kill(self) -> None:
        """End the ranks, stopped ones too."""

    def end(self, *, well: bool = False) -> None:
        """Leave no process behind; `well`: every rank was told to stop, and did."""

    def close(self) -> None:
        """The training is over."""

    def killed_for_memory(self) -> int:
        """Processes that the kernel killed for memory so far."""


@dataclass(slots=True)
class Node:
    """Agent and ranks of this node."""

    folder: Path
    numbers: range
    command: Command
    since_ns: int = 0
    restarts: bool = True
    left: int = 0  # restarts that the agent may still make
    agent: subprocess.Popen[bytes] | None = None
    slots: list[Slot] = field(init=False)

    def __post_init__(self) -> None:
        self.slots = [Slot(self.folder, rank) for rank in self.numbers]
        for slot in self.slots:
            slot.clear()
        self.since_ns = now()

    def start(self, first: int, restarts: int) -> None:
        here, self.left = os.getpid(), restarts
        self.agent = subprocess.Popen(
            self.command(first, restarts),
            env=os.environ | OWN_STORE | {FIRST: str(first), WATCHED_BY: str(here)},
            start_new_session=True,
            preexec_fn=lambda: die_with(here),  # noqa: PLW1509 - two system calls, no lock taken
        )

    def code(self) -> int | None:
        return self.agent.poll() if self.agent else None

    def seen(self) -> list[Seen]:
        found = []
        for rank, slot in zip(self.numbers, self.slots, strict=True):
            sign = slot.read()
            if sign.at_ns >= self.since_ns:
                found.append(Seen(rank, sign.pid, sign.incarnation, sign.at_ns, sign.steps, _alive(sign.pid)))
        return found

    def words(self, incarnation: int) -> list[Line]:
        return [word for slot in self.slots if (word := slot.word(incarnation, self.since_ns))]

    def lost(self, incarnation: int) -> str | None:
        del incarnation
        return None

    def quiet(self, limit_s: int) -> str | None:
        del limit_s
        return None

    def kill(self) -> None:
        for seen in self.seen():
            if seen.alive:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(seen.pid, signal.SIGKILL)

    def stopped(self, incarnation: int) -> bool:
        """Whether every rank of that incarnation was told to stop, and did."""
        return stopped(self.slots, incarnation, self.since_ns)

    def end(self, *, well: bool = False) -> None:
        """Ranks have sessions of their own, and end with their agent.

        Torchrun's agent tells of a signal to end as of an error. So where all is well, one that may not restart its ranks gets time to
        end by itself; one that may is killed at once, before it takes a rank's very end for a fault and starts all of them again.
        """
        if self.agent is None or self.agent.poll() == 0:
            return
        if not well:
            _send(self.agent, signal.SIGTERM)
        if not (well and self.left):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.agent.wait(timeout=WELL_S if well else TERM_GRACE_S)
        _send(self.agent, signal.SIGKILL)
        self.agent.wait()

    def close(self) -> None:
        self.end()

    def killed_for_memory(self) -> int:
        """In this container; 0 where the kernel does not tell."""
        try:
            words = MEMORY_EVENTS.read_text(encoding="ascii").split()
            return int(words[words.index("oom_kill") + 1])
        except (OSError, ValueError):
            return 0


def _send(agent: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """To the agent and what it started in its own session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(agent.pid, number)


def _alive(pid: int) -> bool:
    """Whether a process runs, or is stopped; one that waits to be buried does not."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
        return text.rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


# --- several nodes -----------------------------------------------------------------------------------------------------


def _leave(path: Path, said: dict[str, Any]) -> None:
    """Put a file in place of the one before, whole."""
    beside = path.with_name(f".{path.name}")
    beside.write_text(json.dumps(said), encoding="utf-8")
    beside.replace(path)


def _found(path: Path) -> dict[str, Any] | None:
    try:
        said: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return said


def _told(folder: Path, node: int) -> Path:
    return folder / f"node-{node:05}.json"


@dataclass(slots=True)
class Nodes:
    """Those of this node, and what the keepers of the others tell. `attempt` marks their word as of this session."""

    own: Node
    nodes: int
    attempt: int
    versions: dict[str, str] = field(default_factory=dict)
    restarts: bool = False
    incarnation: int = -1  # that was ordered last; what a keeper told of the one before is no word of this one
    heard: dict[int, tuple[list[Any], int]] = field(default_factory=dict)  # by rank: the last sign of life, and when it came
    beats: dict[int, tuple[int, int]] = field(default_factory=dict)  # by node: the keeper's last word by its number, and when it came

    def start(self, first: int, restarts: int) -> None:
        del restarts
        self.beats.clear()
        self.incarnation = first
        self._order(first, over=False)
        self.own.start(first, 0)

    def _order(self, first: int, *, over: bool) -> None:
        _leave(self.own.folder / ORDER, {"attempt": self.attempt, "incarnation": first, "over": over, "versions": self.versions})

    def code(self) -> int | None:
        return self.own.code()

    def _others(self) -> list[dict[str, Any]]:
        told = (_found(_told(self.own.folder, node)) for node in range(1, self.nodes))
        return [said for said in told if said and said["attempt"] == self.attempt]

    def seen(self) -> list[Seen]:
        return self.own.seen() + [self._heard(Seen(**rank)) for said in self._others() for rank in said["ranks"]]

    def _heard(self, there: Seen) -> Seen:
        sign = [there.pid, there.incarnation, there.at_ns, there.steps]
        if self.heard.get(there.rank, (None, 0))[0] != sign:
            self.heard[there.rank] = (sign, now())
        return Seen(there.rank, there.pid, there.incarnation, self.heard[there.rank][1], there.steps, there.alive)

    def words(self, incarnation: int) -> list[Line]:
        theirs = [word for said in self._others() for word in said["words"] if word["incarnation"] == incarnation]
        return self.own.words(incarnation) + theirs

    def lost(self, incarnation: int) -> str | None:
        ended = (said for said in self._others() if said["incarnation"] == incarnation and said["code"])
        found = next((f"the agent of node {said['node']} ended with {said['code']}" for said in ended), None)
        return found or self.quiet(LOST_S)

    def quiet(self, limit_s: int) -> str | None:
        for said in (said for said in self._others() if said["incarnation"] == self.incarnation):
            if self.beats.get(said["node"], (-1, 0))[0] != said["beat"]:
                self.beats[said["node"]] = (said["beat"], now())
        found = (node for node, (_, at_ns) in self.beats.items() if now() - at_ns > limit_s * 10**9)
        return next((f"node {node} fell silent" for node in found), None)

    def kill(self) -> None:
        """Those of this node; the next order ends the others."""
        self.own.kill()

    def end(self, *, well: bool = False) -> None:
        self.own.end(well=well)

    def close(self) -> None:
        self.own.end()
        self._order(0, over=True)

    def killed_for_memory(self) -> int:
        return self.own.killed_for_memory() + sum(said["killed"] for said in self._others())


@dataclass(slots=True)
class Keeper:
    """A node other than the first: does what the orders say, and tells what it sees, until they say that it is over."""

    own: Node
    node: int
    attempt: int
    refused: Callable[[dict[str, str]], str | None] = lambda _: None  # why this node may not take part, given node 0's software
    incarnation: int = -1
    beat: int = 0

    def is_back(self) -> bool:
        """Whether orders of this attempt are there already: this node was lost, and comes back."""
        return self._order() is not None

    def _order(self) -> dict[str, Any] | None:
        order = _found(self.own.folder / ORDER)
        return order if order and order["attempt"] == self.attempt else None

    def run(self) -> str | None:
        """None once it is over; else why this node may not take part."""
        told = 0.0
        try:
            while True:
                order = self._order() or {"over": False, "incarnation": -1}
                if order["over"]:
                    self.own.end(well=self.own.stopped(self.incarnation))
                    return None
                if order["incarnation"] > self.incarnation:
                    if self.incarnation < 0 and (why := self.refused(order["versions"])):
                        return why
                    self._start(order["incarnation"])
                if time.monotonic() - told >= TELL_S:
                    self._tell()
                    told = time.monotonic()
                time.sleep(POLL_S)
        finally:
            self._kill()

    def _start(self, incarnation: int) -> None:
        self._kill()
        self.incarnation = incarnation
        self.own.start(incarnation, 0)

    def _kill(self) -> None:
        self.own.kill()
        self.own.end()

    def _tell(self) -> None:
        """Leave what is seen here; the number of the word shows that this node lives."""
        self.beat += 1
        said = {
            "attempt": self.attempt, "node": self.node, "beat": self.beat, "incarnation": self.incarnation, "code": self.own.code(),
            "ranks": [asdict(seen) for seen in self.own.seen()], "words": self.own.words(self.incarnation),
            "killed": self.own.killed_for_memory(),
        }  # fmt: skip
        _leave(_told(self.own.folder, self.node), said)
