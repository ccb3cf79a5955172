"""Keeps a training going for as long as the case asks: starts torchrun's agent, watches ranks and journal, notes each fault once.

The supervisor sees that a process is gone (or that nobody gave a sign of life for too long, and then ends the ranks itself),
decides the class, and turns the journal into events. It holds nothing that is not on the disk.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import faults
from .journal import JOURNAL, STOP, Journal, now
from .loop import DONE
from .nodes import POLL_S, QUIET_S, Ranks, Seen

SETTLE_S = 0.5  # for the other ranks to say their last word
SYNC_S = 1.0
CLOCK_STEP_NS = 10**9
BOOT = Path("/proc/sys/kernel/random/boot_id")
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


def _over_reboot(lines: list[dict[str, Any]], wall_ns: int) -> int:
    """Nanoseconds from the begin of the session whose lines these are to a wall clock behind a reboot.

    What the clock was set by while the session went on is no time; and a clock that begins in the past takes nothing back.
    """
    first, told = lines[0], [line for line in lines if line.get("fault") not in faults.OF_SESSIONS]
    stepped = sum(line["step_ns"] for line in told if line["e"] == "clock_step")
    latest = max(line[name] for line in told for name in ("at_ns", "end_ns") if name in line)
    return int(max(wall_ns - first["wall_ns"] - stepped, latest - first["at_ns"]))


@dataclass(slots=True)
class Session:
    """One life of the supervisor."""

    case: Case
    folder: Path
    ranks: Ranks
    attempt: int
    emit: Emit
    host: Host = field(default_factory=Host)
    journal: Journal = field(init=False)
    left: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    before_ns: int = 0  # elapsed when this session began
    begin_ns: int = 0
    ended: int = 0  # incarnations of this session that are known to have ended
    began_ns: int = 0  # when the agent that runs now was started
    silent_ns: int = 0  # when the last fault was noted
    first: int = 0  # incarnation at which the agent that runs now began
    last_step: int = -1
    put_in: int = 0
    untold_ns: list[int] = field(default_factory=list)  # when ranks put in the faults that are not seen yet
    hung: bool = False
    difference_ns: int = 0
    killed: int = 0
    synced: float = 0.0
    unsaved: list[tuple[str, dict[str, Any]]] = field(default_factory=list)  # lines that the disk had no room for

    def __post_init__(self) -> None:
        known = (self.folder / JOURNAL).exists()
        self.journal = Journal(self.folder)
        if known:
            self.journal.mend()
        (self.folder / STOP).unlink(missing_ok=True)
        self.left = [(number, fault) for number, fault in self._told() if fault["kind"] in faults.SUPERVISED]
        self.untold_ns.clear()  # whatever ranks an earlier session had

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
            gap = self.begin_ns - last["at_ns"] if same else _over_reboot(lines[lines.index(last) :], wall_ns)
            self.before_ns = last["elapsed_ns"] + gap
            if lines[-1].get("fault") not in faults.OF_SESSIONS:  # else one was cut off between these two lines
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
        """A line of the supervisor's own. What does not fit on the disk waits: another attempt can only tell what the journal has."""
        self.unsaved.append((kind, fields))
        self._write_notes()

    def _write_notes(self) -> None:
        while self.unsaved:
            kind, fields = self.unsaved[0]
            try:
                self.journal.write(kind, **fields)
            except OSError:
                return
            self.unsaved.pop(0)
            with contextlib.suppress(OSError):
                self.journal.sync()

    def _drain(self) -> None:
        self._write_notes()
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
            if line["fault"] not in faults.SUPERVISED:
                self.untold_ns.append(line["at_ns"])
        self.emit(line["e"], **{name: value for name, value in line.items() if name != "e"})

    # --- the training ---------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Until it is over; GaveUp where restarts are used up."""
        self.killed = self.ranks.killed_for_memory()
        well = self._over()  # then nothing was left to do
        try:
            while not well:
                if self.ended > self.case["max_restarts"]:
                    limit = f"{self.case['max_restarts']} restarts are allowed"
                    raise GaveUp(f"{self.ended} starts of the ranks ended within one session, {limit}")
                well = self._life()
            self.ranks.close()
            self._drain()
            self._note("end", at_ns=now())
        finally:
            self._tell_rest()

    def _tell_rest(self) -> None:
        """Everything that is known, whether or not it fitted."""
        self._drain()
        for kind, fields in self.unsaved:
            self.emit(kind, **fields)

    def _life(self) -> bool:
        """One life of torchrun's agent; where it restarts no ranks, to the first crash. Whether the ranks ended as they were told."""
        self.first = self.ended
        self.began_ns = now()
        self.ranks.start(self.first, self.case["max_restarts"] - self.ended)
        try:
            while self.ranks.code() is None and not self._finished() and (self.ranks.restarts or self.ended == self.first):
                time.sleep(POLL_S)
                self._look()
            while not self._finished() and any(seen.incarnation > self.ended for seen in self.ranks.seen()):
                self._gone()
            if self.ranks.code() and (self._mine() or self.hung or self.ended == self.first):
                self._gone()
            self._drain()
            return self._over() and (self._finished() or self.ranks.code() == 0)
        finally:
            self.ranks.end(well=self._finished())

    def _mine(self) -> list[Seen]:
        """Ranks of the incarnation that is not known to have ended."""
        return [seen for seen in self.ranks.seen() if seen.incarnation == self.ended]

    def _look(self) -> None:
        """One look at everything."""
        self._drain()
        self._clock()
        mine = self._mine()
        newer = any(seen.incarnation > self.ended for seen in self.ranks.seen())
        if newer or self.ranks.lost(self.ended) or (any(not seen.alive for seen in mine) and not self._stopping()):
            self._gone()
        elif self._silent(mine):
            self.hung = True
            self.ranks.kill()
            if not (mine and self.ranks.restarts):
                self.ranks.end()
        else:
            self._inject()  # only once every crash so far is told: whoever kills the supervisor must not take one along
            if self._over():
                (self.folder / STOP).touch()

    def _stopping(self) -> bool:
        """Whether ranks may end because they were told to."""
        return (self.folder / STOP).exists() and all(word["fault"] == DONE for word in self.ranks.words(self.ended))

    def _finished(self) -> bool:
        """Whether every rank was told to stop, and did: how its process then ends is no part of the training."""
        return sum(word["fault"] == DONE for word in self.ranks.words(self.ended)) == self.case["cards"]

    def _silent(self, mine: list[Seen]) -> bool:
        last = max([self.began_ns, self.silent_ns, *(seen.at_ns for seen in mine)])
        limit = self.case["hang_s"] if mine and all(seen.steps for seen in mine) else self.case["start_s"]
        return now() - last > limit * 10**9

    def _gone(self) -> None:
        """A rank is gone: say why, once, after the others had time for their last word."""
        time.sleep(SETTLE_S)
        self._drain()
        if self._finished():
            return
        words = self.ranks.words(self.ended)
        known = next((word for fault in faults.SPECIFIC for word in words if word["fault"] == fault), None)
        if self.hung and (away := self.ranks.quiet(QUIET_S)):
            self._crash("process_end", away)
        elif self.hung:
            self._crash("hang", f"no sign of life for {self.case['hang_s']} s")
        elif known:
            self._crash(known["fault"], known["detail"])
        elif self.ranks.killed_for_memory() > self.killed:
            self._crash("out_of_memory", "killed for memory by the kernel")
        else:
            said = [word["detail"] for word in words if word["fault"] != DONE]
            self._crash("process_end", said[0] if said else self.ranks.lost(self.ended) or "a rank was killed")

    def _crash(self, fault: str, detail: str) -> None:
        self._note("crash", fault=fault, at_ns=now(), incarnation=self.ended, detail=detail)
        self.silent_ns = now()
        del self.untold_ns[:1]
        self.ended, self.hung, self.killed = self.ended + 1, False, self.ranks.killed_for_memory()

    def _clock(self) -> None:
        """A step of the wall clock is no crash, and is told once."""
        found = self.host.clock_ns() - now()
        if abs(found - self.difference_ns) > CLOCK_STEP_NS:
            self._note("clock_step", at_ns=now(), step_ns=found - self.difference_ns)
            self.difference_ns = found

    def _inject(self) -> None:
        """The next fault that is due: one at a look, so that what it does is seen before another, and none over one still unseen."""
        within_ns = (self.case["hang_s"] + self.case["start_s"]) * 10**9
        if any(now() - at_ns < within_ns for at_ns in self.untold_ns):
            return
        for number, fault in [found for found in self.left if found[1]["step"] <= self.last_step][:1]:
            self.left.remove((number, fault))
            self._note("injected", number=number, fault=fault["kind"], step=self.last_step, at_ns=now())
            if fault["kind"] == "clock_step":
                self.host.offset_ns += 3600 * 10**9
            else:
                os.kill(os.getpid(), signal.SIGKILL)
