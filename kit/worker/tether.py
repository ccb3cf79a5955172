"""The line to the kit of a worker on one of several nodes: its standard input, of which the kit holds the other end."""

from __future__ import annotations

import os
import signal
import threading
import time

TETHER = "CHIPASSAY_TETHER"  # set where the kit holds the other end of standard input
STOP_S = 10


def hold() -> None:
    """From now on end with the kit, where it started this worker."""
    if TETHER in os.environ:
        threading.Thread(target=_die_with_starter, daemon=True).start()


def _die_with_starter() -> None:
    """End this worker, and with it its ranks, once standard input is closed: the kit, or the line to it, is gone."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_S)
    os._exit(1)
