"""Ranks that an engine's library spawns itself by multiprocessing: none outlives the engine, whatever failed on the way.

Whoever tells the ranks of their end through multiprocessing's events waits for each process that slept on one to wake up
(`Condition.notify` counts them), and for one that was killed in its sleep for ever. A thread of its own therefore tells them.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

STOP_S = 10  # for a library to end its ranks, or to see that one has died
TELL_S = 2
LOOK_S = 0.2


def end() -> None:
    """Kill those that still live. One that stumbles over its end would have the library end this process, too, by SIGUSR1."""
    if left := multiprocessing.active_children():
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    _kill(left)
    for rank in left:
        rank.join(STOP_S)


def _kill(ranks: Iterable[Any]) -> None:
    for rank in ranks:
        rank.kill()


def _leave(why: str) -> None:
    """End the worker at once: its main thread waits in the library for a rank that is dead."""
    print(f"worker: {why}", file=sys.stderr, flush=True)
    _kill(multiprocessing.active_children())
    os._exit(1)


@contextlib.contextmanager
def starting(library: str, leave: Callable[[str], None] = _leave, patience_s: float = STOP_S) -> Iterator[None]:
    """While `library` starts ranks: none is left where that fails. Of one that died, the library has `patience_s` to tell."""
    over = threading.Event()
    threading.Thread(target=_watch, args=(over, library, leave, patience_s), daemon=True).start()
    try:
        yield
    except BaseException:
        over.set()
        end()
        raise
    finally:
        over.set()


def _watch(over: threading.Event, library: str, leave: Callable[[str], None], patience_s: float) -> None:
    seen: set[Any] = set()
    while not over.wait(LOOK_S):
        seen.update(multiprocessing.active_children())
        died = next((rank for rank in seen if rank.exitcode), None)  # neither alive (None) nor ended well (0)
        if died is not None:
            if not over.wait(patience_s):
                leave(f"{died.name} of {library} {_how(died.exitcode)} while the engine was starting; stderr.log of the case says why")
            return


def _how(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"


def told_in_time(notifiers: Iterable[Any]) -> None:
    """Make each one's `close` return after `TELL_S` at the latest."""
    for notifier in notifiers:
        notifier.close = _bounded(notifier.close)


def _bounded(close: Callable[[], None]) -> Callable[[], None]:
    def told() -> None:
        thread = threading.Thread(target=close, daemon=True)
        thread.start()
        thread.join(TELL_S)

    return told


@contextlib.contextmanager
def ending(notifiers: Iterable[Any] = (), patience_s: float = STOP_S) -> Iterator[None]:
    """While a library ends its ranks: killed after `patience_s`, and whatever happened then, none lives and nobody here waits for one."""
    if multiprocessing.active_children():
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # as in `end`
    insist = threading.Timer(patience_s, lambda: _kill(multiprocessing.active_children()))
    insist.daemon = True
    insist.start()
    try:
        yield
    finally:
        insist.cancel()
        end()
        for notifier in notifiers:
            notifier.close()
