"""The loop of a supervised rank: restore, then step after step, with signs of life, a journal, checkpoints and injected faults.

What is trained is handed in (`Training`), so that tests supervise something light by the very same loop.
"""

from __future__ import annotations

import ctypes
import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

from . import faults
from .journal import STOP, Journal, Slot, now

FIRST = "CHIPASSAY_FIRST_INCARNATION"
DONE = "done"  # last word of a rank that was told to stop, and did
WAIT_S = 10  # for the last word of the agent's other ranks
Case = dict[str, Any]


class Training(Protocol):
    """What is supervised."""

    rank: int
    ranks: int

    def facts(self) -> list[tuple[str, dict[str, Any]]]:
        """Events that describe it: environment, model, data."""

    def restore(self) -> int:
        """Come back from the newest whole checkpoint; the next step's number."""

    def step(self, number: int) -> float:
        """One optimizer step of all ranks; the mean loss."""

    def agree(self, loss: float, *, stop: bool) -> tuple[float, bool]:
        """(loss, whether rank 0 wants to stop) as all ranks then know them."""

    def save(self, next_step: int) -> None:
        """Bring a checkpoint to the disk from which `next_step` follows."""

    def meet(self) -> None:
        """Wait for all ranks."""

    def is_device_error(self, error: BaseException) -> bool: ...
    def is_out_of_memory(self, error: BaseException) -> bool: ...


@dataclass(slots=True)
class Rank:
    """Journal and slot of one rank."""

    training: Training
    case: Case
    folder: Path
    journal: Journal
    slot: Slot
    incarnation: int
    steps: int = 0

    def write(self, kind: str, /, **fields: Any) -> None:
        """A line of the journal, by rank 0 alone."""
        if self.training.rank == 0:
            self.journal.write(kind, **fields)


def die_with(parent: int) -> None:
    """Be killed when the process that started this one is, even while stopped; at once where it is gone already."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def die_with_agent() -> None:
    """As a rank, which has a session of its own: so with the agent, which is a child of the one who watches; an orphan's parent is not."""
    agent = os.getppid()
    if faults.WATCHED_BY in os.environ and _parent_of(agent) != int(os.environ[faults.WATCHED_BY]):
        os._exit(1)
    die_with(agent)


def _parent_of(process: int) -> int:
    """-1 where it is gone."""
    try:
        return int(Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
    except OSError:
        return -1


def incarnation() -> int:
    """How many times the ranks were started before in this session, by torchrun's agent and by the supervisor."""
    return int(os.environ.get(FIRST, "0")) + int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def stopped(slots: Sequence[Slot], incarnation: int, since_ns: int = 0) -> bool:
    """Whether each of these ranks was told to stop in that incarnation, and did."""
    words = (slot.word(incarnation, since_ns) for slot in slots)
    return all(word is not None and word["fault"] == DONE for word in words)


def _slots(folder: Path) -> tuple[Slot, list[Slot]]:
    """Of this rank, and of all that the same agent started."""
    number, here = int(os.environ.get("RANK", "0")), int(os.environ.get("LOCAL_RANK", "0"))
    ranks = [Slot(folder, number - here + rank) for rank in range(int(os.environ.get("LOCAL_WORLD_SIZE", "1")))]
    return ranks[here], ranks


def _wait_for(ranks: list[Slot]) -> None:
    """Until all have said that they stopped: an agent that sees one end badly before ends the others, and starts all of them again."""
    until = time.monotonic() + WAIT_S
    while not stopped(ranks, incarnation()) and time.monotonic() < until:
        time.sleep(0.01)


def run(make: Any, case: Case, folder: Path) -> NoReturn:
    """End this process: with 0 once it was told to stop, with 1 where a fault was said in the slot."""
    die_with_agent()
    number = int(os.environ.get("RANK", "0"))
    slot, ranks = _slots(folder)
    if (folder / STOP).exists() and stopped(ranks, slot.read().incarnation):
        _leave(0)  # started again though all was done: the agent took a bad end of a process for a fault
    slot.begin(incarnation())
    training: Training | None = None
    try:
        training = make(case)
        rank = Rank(training, case, folder, Journal(folder), slot, incarnation())
        _loop(rank)
        slot.say(incarnation(), DONE, f"rank {number}")
        _wait_for(ranks)
    except BaseException as error:
        traceback.print_exc()
        devices = training.is_device_error if training else lambda _: False
        memory = training.is_out_of_memory if training else lambda error: isinstance(error, MemoryError)
        slot.say(
            incarnation(), faults.classify(error, devices, memory), f"rank {number}: {type(error).__name__}: {' '.join(str(error).split())}"
        )
        _leave(1)
    _leave(0)


def _leave(code: int) -> NoReturn:
    """End at once: nothing is waited for, whatever the other ranks do, and no library's own end can turn a good one into a crash."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _loop(rank: Rank) -> None:
    training, case = rank.training, rank.case
    injector = faults.Injector(case["faults"], rank.journal, training.rank, training.ranks, training.meet)
    for kind, fields in training.facts():
        rank.write(kind, **fields)
    number = training.restore()
    rank.write("start", incarnation=rank.incarnation, step=number, at_ns=now())
    rank.slot.sign(rank.incarnation, 0)
    stop = False
    while not stop:
        stop = _step(rank, injector, number)
        number += 1
        if number % case["checkpoint_every"] == 0 and not stop:
            _save(rank, number, full=False)


def _step(rank: Rank, injector: faults.Injector, number: int) -> bool:
    """One step and its line; whether it was the last."""
    begin_ns = now()
    loss = rank.training.step(number)
    end_ns = now()
    kind = injector.due(number)
    if kind == "full_disk":
        _save(rank, number + 1, full=True)
    elif kind:
        loss = injector.strike(kind, loss)
    loss, stop = rank.training.agree(loss, stop=(rank.folder / STOP).exists())
    if not math.isfinite(loss) or loss > rank.case["diverged_above"]:
        raise faults.LossError(f"loss is {loss} at step {number}")
    rank.steps += 1
    rank.write("step", step=number, begin_ns=begin_ns, end_ns=end_ns, loss=loss)
    rank.slot.sign(rank.incarnation, rank.steps)
    return stop


def _save(rank: Rank, next_step: int, *, full: bool) -> None:
    begin_ns = now()
    with faults.full_disk(on=full and rank.training.rank == rank.training.ranks - 1):
        rank.training.save(next_step)
    rank.write("saved", step=next_step, begin_ns=begin_ns, end_ns=now())
    rank.slot.sign(rank.incarnation, rank.steps)
