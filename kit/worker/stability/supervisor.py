"""Keeps a training going for as long as the case asks: starts torchrun's agent, watches slots and journal, notes each fault once.

The agent restarts the ranks. The supervisor sees that a process is gone (or that nobody gave a sign of life for too long, and
then ends the ranks itself), decides the class, and turns the journal into events. It holds nothing that is not on the disk.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import faults
from .journal import JOURNAL, STOP, Journal, Sign, Slot, now
from .loop import FIRST, die_with_parent

POLL_S = 0.1
SETTLE_S = 0.5  # for the other ranks to say their last word
SYNC_S = 1.0
CLOCK_STEP_NS = 10**9
OWN_STORE = {
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"
}  # the agent's store keeps addresses of ranks that are gone, and a restart meets them
BOOT = Path("/proc/sys/kernel/random/boot_id")
MEMORY_EVENTS = Path("/sys/fs/cgroup/memory.events")
Case = dict[str, Any]
Emit = Callable[..., None]


class GaveUp(Exception):
    """The training cannot go on; one line."""


@dataclass(slots=True)
class Host:
    """What is asked of the host, so that tests can answer."""

    boot: Callable[[], str] = lambda: BOOT.read_text(encoding="ascii").strip()
    wall_ns: Callable[[], int] = time.time_ns
    offset_ns: int = 0  # of an injected clock, never the host's

    def clock_ns(self) -> int:
        return self.wall_ns() + self.offset_ns


@dataclass(slots=True)
class Session:
    """One life of the supervisor."""

    case: Case
    folder: Path
    command: list[str]
    attempt: int
    emit: Emit
    host: Host = field(default_factory=Host)
    journal: Journal = field(init=False)
    slots: list[Slot] = field(init=False)
    left: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    before_ns: int = 0  # elapsed when this session began
    begin_ns: int = 0
    ended: int = 0  # incarnations of this session that are known to have ended
    began_ns: int = 0  # when the agent that runs now was started
    silent_ns: int = 0  # when the last fault was noted
    first: int = 0  # incarnation at which the agent that runs now began
    last_step: int = -1
    put_in: int = 0
    hung: bool = False
    difference_ns: int = 0
    killed: int = 0
    synced: float = 0.0

    def __post_init__(self) -> None:
        known = (self.folder / JOURNAL).exists()
        self.journal = Journal(self.folder)
        if known:
            self.journal.mend()
        (self.folder / STOP).unlink(missing_ok=True)
        self.left = [(number, fault) for number, fault in self._told() if fault["kind"] in faults.SUPERVISED]
        self.slots = [Slot(self.folder, rank) for rank in range(self.case["cards"])]

    # --- what was before ------------------------------------------------------------------------------------------

    def _told(self) -> list[tuple[int, dict[str, Any]]]:
        """Tell again what earlier sessions saw, add their end and this begin; the faults that have not happened yet."""
        lines = list(self.journal.read())
        for line in lines:
            self._take(line)
        done = {line["number"] for line in lines if line["e"] == "injected"}
        earlier = [line for line in lines if line["e"] == "session"]
        self.begin_ns, boot = now(), self.host.boot()
        wall_ns = self.host.clock_ns()
        if earlier:
            last = earlier[-1]
            same = last["boot_id"] == boot
            gap = self.begin_ns - last["at_ns"] if same else wall_ns - last["wall_ns"]
            self.before_ns = last["elapsed_ns"] + max(0, gap)
            self._note("crash", fault="supervisor" if same else "reboot", at_ns=self.begin_ns, incarnation=0, detail="started again")
        self._note(
            "session", session=len(earlier) + 1, attempt=self.attempt, boot_id=boot, at_ns=self.begin_ns, wall_ns=wall_ns,
            elapsed_ns=self.before_ns,
        )  # fmt: skip
        self.difference_ns = wall_ns - self.begin_ns
        return [(number, fault) for number, fault in enumerate(self.case["faults"]) if number not in done]

    def elapsed_ns(self) -> int:
        """Since the first session began, gaps and all."""
        return self.before_ns + now() - self.begin_ns

    def _over(self) -> bool:
        """The case's duration is over, and a rehearsal has put in all its faults."""
        return self.elapsed_ns() >= self.case["duration_s"] * 10**9 and self.put_in >= len(self.case["faults"])

    # --- journal to events ----------------------------------------------------------------------------------------

    def _note(self, kind: str, /, **fields: Any) -> None:
        """Write a line of the supervisor's own; where the disk is full it is told all the same."""
        try:
            self.journal.write(kind, **fields)
            self.journal.sync()
        except OSError:
            self.emit(kind, **fields)

    def _drain(self) -> None:
        for line in self.journal.read():
            self._take(line)
        if time.monotonic() - self.synced > SYNC_S:
            self.journal.sync()
            self.synced = time.monotonic()

    def _take(self, line: dict[str, Any]) -> None:
        if line["e"] == "step":
            self.last_step = line["step"]
        elif line["e"] == "injected":
            self.put_in += 1
        self.emit(line["e"], **{name: value for name, value in line.items() if name != "e"})

    # --- the training ---------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Until it is over; GaveUp where restarts are used up."""
        self.killed = _killed_for_memory()
        while not self._over():
            if self.ended > self.case["max_restarts"]:
                raise GaveUp(f"{self.ended} starts of the ranks ended within one session, {self.case['max_restarts']} restarts are allowed")
            self._agent()
        self._drain()
        self._note("end", at_ns=now())
        self._drain()

    def _agent(self) -> None:
        """One life of torchrun's agent, from its start to its end."""
        self.first = self.ended
        command = [word.replace("{restarts}", str(self.case["max_restarts"] - self.ended)) for word in self.command]
        self.began_ns = now()
        agent = subprocess.Popen(
            command,
            env=os.environ | OWN_STORE | {FIRST: str(self.first)},
            start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call, no lock taken
        )
        try:
            while agent.poll() is None:
                time.sleep(POLL_S)
                self._look(agent)
            self._drain()
            if agent.returncode != 0 and (self._signs() or self.ended == self.first):
                self._dead()
        finally:
            _end(agent)

    def _signs(self) -> list[Sign]:
        """Signs of the incarnation that is not known to have ended."""
        signs = (slot.read() for slot in self.slots)
        return [sign for sign in signs if sign.incarnation == self.ended and sign.at_ns >= self.began_ns]

    def _look(self, agent: subprocess.Popen[bytes]) -> None:
        """One look at everything."""
        self._drain()
        self._clock()
        mine = self._signs()
        newer = any(sign.incarnation > self.ended and sign.at_ns >= self.began_ns for sign in (slot.read() for slot in self.slots))
        if newer or (any(not _alive(sign.pid) for sign in mine) and not self._stopping()):
            time.sleep(SETTLE_S)
            self._drain()
            self._dead()
        elif self._silent(mine):
            self.hung = True
            for sign in mine:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(sign.pid, signal.SIGKILL)
            if not mine:
                agent.kill()
        else:
            self._inject()  # only once every crash so far is told: whoever kills the supervisor must not take one along
            if self._over():
                (self.folder / STOP).touch()

    def _stopping(self) -> bool:
        """Whether ranks may end because they were told to."""
        return (self.folder / STOP).exists() and not any(slot.word(self.ended, self.begin_ns) for slot in self.slots)

    def _silent(self, mine: list[Sign]) -> bool:
        last = max([self.began_ns, self.silent_ns, *(sign.at_ns for sign in mine)])
        limit = self.case["hang_s"] if mine and all(sign.steps for sign in mine) else self.case["start_s"]
        return now() - last > limit * 10**9

    def _dead(self) -> None:
        """A rank is gone: say why, once."""
        words = [word for slot in self.slots if (word := slot.word(self.ended, self.begin_ns))]
        known = next((word for fault in faults.SPECIFIC for word in words if word["fault"] == fault), None)
        if self.hung:
            self._crash("hang", f"no sign of life for {self.case['hang_s']} s")
        elif known:
            self._crash(known["fault"], known["detail"])
        elif _killed_for_memory() > self.killed:
            self._crash("out_of_memory", "killed for memory by the kernel")
        else:
            self._crash("process_end", words[0]["detail"] if words else "a rank was killed")

    def _crash(self, fault: str, detail: str) -> None:
        self._note("crash", fault=fault, at_ns=now(), incarnation=self.ended, detail=detail)
        self.silent_ns = now()
        self.ended, self.hung, self.killed = self.ended + 1, False, _killed_for_memory()

    def _clock(self) -> None:
        """A step of the wall clock is no crash, and is told once."""
        found = self.host.clock_ns() - now()
        if abs(found - self.difference_ns) > CLOCK_STEP_NS:
            self._note("clock_step", at_ns=now(), step_ns=found - self.difference_ns)
            self.difference_ns = found

    def _inject(self) -> None:
        """The next fault that is due: one at a look, so that what it does is seen before another."""
        for number, fault in [found for found in self.left if found[1]["step"] <= self.last_step][:1]:
            self.left.remove((number, fault))
            self._note("injected", number=number, fault=fault["kind"], step=self.last_step, at_ns=now())
            if fault["kind"] == "clock_step":
                self.host.offset_ns += 3600 * 10**9
            else:
                os.kill(os.getpid(), signal.SIGKILL)


def _alive(pid: int) -> bool:
    """Whether a process runs, or is stopped; one that waits to be buried does not."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
        return text.rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _killed_for_memory() -> int:
    """Processes of this container that the kernel killed for memory; 0 where it does not tell."""
    try:
        words = MEMORY_EVENTS.read_text(encoding="ascii").split()
        return int(words[words.index("oom_kill") + 1])
    except (OSError, ValueError):
        return 0


def _end(agent: subprocess.Popen[bytes]) -> None:
    """Leave no process behind: ranks have sessions of their own, and end with their agent."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(agent.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        agent.wait(timeout=10)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(agent.pid, signal.SIGKILL)
    agent.wait()
