"""Starts the ranks of a case on this node by torchrun's agent, and says which rank ended it.

Nothing is restarted here: a rank that ends, ends the case. A rank dies with its agent; an agent that the kit started on one of
several nodes dies with the line to the kit, since its standard input closes then.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from . import tether
from .rendezvous import Place, RollCallError, answer

JOIN_S = 60  # torchrun's own meeting, once the roll call has shown that all nodes are there
Failures = dict[int, Any]


def start(case: dict[str, Any], argv: list[str], place: Place) -> int:
    """Run the ranks of this node to their end; 0 only if each ended well. What went wrong is the last `worker:` line on stderr."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    per_node = case["processes"] // place.nodes
    _settle(per_node, place)
    try:
        if place.nodes > 1:
            answer(place, Path(sys.argv[0]))
        config = LaunchConfig(
            min_nodes=place.nodes,
            max_nodes=place.nodes,
            nproc_per_node=per_node,
            run_id=case["id"],
            rdzv_backend="static",
            rdzv_endpoint=place.endpoint,
            rdzv_configs={"rank": place.node, "timeout": JOIN_S},
            max_restarts=0,
            monitor_interval=0.1,
        )
        elastic_launch(config, sys.executable)(sys.argv[0], *argv)
    except ChildFailedError as error:
        return _said(blame(error.failures, Path(argv[1])))
    except SignalException as error:
        return _said(f"stopped by {signal.Signals(error.sigval).name}")
    except RollCallError as error:
        return _said(str(error))
    return 0


def _settle(per_node: int, place: Place) -> None:
    """What the ranks inherit: their share of the cores. An agent that the kit started on one of several nodes dies with it."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // per_node)))
    if place.nodes > 1:
        tether.hold()


def die_with_agent() -> None:
    """As a rank: be killed when the agent is, even while stopped; ranks have sessions of their own."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _said(reason: str) -> int:
    print(f"worker: {reason}", file=sys.stderr, flush=True)
    return 1


def blame(failures: Failures, folder: Path) -> str:
    """The rank that ended the case: one killed by a signal before one that gave up, the earlier before the later."""
    rank, failure = min(failures.items(), key=lambda found: (not _killed(found[1]), found[1].timestamp, found[0]))
    if _killed(failure):
        return f"rank {rank} was killed by {signal.Signals(-failure.exitcode).name}"
    return f"rank {rank}: {_own_words(folder, rank) or f'exited with {failure.exitcode}'}"


def _killed(failure: Any) -> bool:
    """By a signal, and not by the agent's own, which ends the other ranks."""
    return failure.exitcode < 0 and -failure.exitcode != signal.SIGTERM


def _own_words(folder: Path, rank: int) -> str | None:
    """The reason in the last event of a rank, if it got as far."""
    prefix = "events" if rank == 0 else f"events-rank{rank:04}"
    segments = sorted(folder.glob(f"{prefix}-[0-9]*.jsonl"))
    lines = segments[-1].read_bytes().splitlines() if segments else []
    try:
        reason = json.loads(lines[-1]).get("reason") if lines else None
    except ValueError:
        return None
    return reason if isinstance(reason, str) else None


def free_endpoint() -> str:
    """A port of the loop-back address, which needs no name to be resolved: a container without network resolves none."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"
