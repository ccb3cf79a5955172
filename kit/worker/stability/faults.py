"""Faults: how one is told from another, and how they are put in on purpose for tests and rehearsals.

A crash is whatever keeps the training from going on as expected (report section 2.3). Each injected fault happens once: it is in
the journal before it happens, and whoever starts again reads it there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
from collections.abc import Callable, Iterator
from typing import Any

from .journal import Journal, now

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
SPECIFIC = ("out_of_memory", "loss", "storage", "device_error")  # a rank that says one of these knows more than its neighbours
LAST_RANK = ("kill_rank", "kill_node", "hang", "out_of_memory", "device_error")  # one rank alone is hit
WATCHED_BY = "CHIPASSAY_WATCHED_BY"  # process id of the one who started the agent: the supervisor, on other nodes a keeper
SUPERVISED = ("clock_step", "kill_supervisor")  # done by the supervisor, at the first look behind that step
OF_SESSIONS = ("supervisor", "reboot")  # told by the session that comes after
LARGEST_FILE = 4096


class LossError(Exception):
    """A loss that is not finite, or above what the case calls diverged."""


class InjectedDeviceError(RuntimeError):
    """Stands for what a driver reports."""


def classify(error: BaseException, is_device: Callable[[BaseException], bool], is_memory: Callable[[BaseException], bool]) -> str:
    """The class of an error that ends a rank."""
    if is_memory(error):
        return "out_of_memory"
    if isinstance(error, LossError | FloatingPointError):
        return "loss"
    if (isinstance(error, OSError) and error.errno in FULL) or (isinstance(error.__cause__, OSError) and error.__cause__.errno in FULL):
        return "storage"
    if isinstance(error, InjectedDeviceError) or is_device(error):
        return "device_error"
    return "process_end"


def pending(faults: list[dict[str, Any]], journal: Journal) -> list[tuple[int, dict[str, Any]]]:
    """Injections, by their number in the case, that have not happened yet."""
    done = {line["number"] for line in journal.read() if line["e"] == "injected"}
    return [(number, fault) for number, fault in enumerate(faults) if number not in done]


class Injector:
    """Puts faults into one rank. `step` is called at the end of each step, before it is recorded."""

    def __init__(self, faults: list[dict[str, Any]], journal: Journal, rank: int, ranks: int, meet: Callable[[], None]) -> None:
        self._left = [(number, fault) for number, fault in pending(faults, journal) if fault["kind"] not in SUPERVISED]
        self._journal, self._rank, self._ranks, self._meet = journal, rank, ranks, meet

    def due(self, step: int) -> str | None:
        """The kind of fault that happens at this step, noted in the journal before any rank goes on."""
        found = next(((number, fault) for number, fault in self._left if fault["step"] <= step), None)
        if found is None:
            return None
        self._left.remove(found)
        if self._rank == 0:
            self._journal.write("injected", number=found[0], fault=found[1]["kind"], step=step, at_ns=now())
            self._journal.sync()
        self._meet()
        return str(found[1]["kind"])

    def strike(self, kind: str, loss: float) -> float:
        """Let it happen; the loss as it is from then on."""
        if kind in LAST_RANK and self._rank != self._ranks - 1:
            return loss
        match kind:
            case "kill_rank" | "kill_all":
                os.kill(os.getpid(), signal.SIGKILL)
            case "kill_node":  # everything of it: agent and ranks go with the one who watches them
                os.kill(int(os.environ[WATCHED_BY]), signal.SIGKILL)
                signal.pause()
            case "hang":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "out_of_memory":
                raise MemoryError("injected")
            case "device_error":
                raise InjectedDeviceError("injected")
            case "nan":
                return float("nan")
            case "diverged":
                return 1e9
        return loss


@contextlib.contextmanager
def full_disk(*, on: bool) -> Iterator[None]:
    """Where `on`, the kernel refuses files beyond a page to this process: the nearest thing to a full disk that needs no disk."""
    if not on:
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
