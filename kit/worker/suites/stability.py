"""Stability: a training under supervision for as long as the case asks (report section 2.3).

The recording process is the supervisor alone, on the first node. The ranks, `cards` of them, are started by torchrun's agent, which
restarts them from the last checkpoint; other nodes have a keeper. A further attempt of the case goes on where the one before was cut off.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

from .. import rendezvous, tether
from ..record import Recorder
from ..stability import nodes, supervisor

Case = dict[str, Any]
RANK = "import sys; sys.path.insert(0, {archive!r}); from worker.stability.trainee import main; main()"
HANDED = "handed.json"
JOIN_S = 60  # beyond the case's limit for a start, which is the supervisor's to tell


def run(case: Case, recorder: Recorder) -> None:
    """Supervise until the duration is over."""
    folder = Path(_folder())
    (folder / HANDED).write_text(json.dumps(case), encoding="utf-8")
    place = _place(case)
    if place.nodes == 1:
        command = _rank(folder)
        watched: nodes.Ranks = nodes.Node(folder, range(case["cards"]), lambda _, restarts: agent(case["cards"], command, restarts))
    else:
        tether.hold()
        rendezvous.answer(place, Path(sys.argv[0]))
        watched = nodes.Nodes(_own(case, folder, place, recorder.attempt), place.nodes, recorder.attempt, _versions())
    supervisor.Session(case, folder, watched, recorder.attempt, recorder.event).run()


def keep(case: Case, attempt: int) -> str | None:
    """As a node other than the first: see to its ranks for as long as the supervisor has orders; else why it may not take part."""
    folder, place = Path(_folder()), _place(case)
    tether.hold()
    own = _own(case, folder, place, attempt)
    keeper = nodes.Keeper(own, place.node, attempt, lambda theirs: rendezvous.differences({0: theirs, place.node: _versions()}))
    if not keeper.is_back():
        rendezvous.answer(place, Path(sys.argv[0]))
        if not (folder / HANDED).exists():  # node 0 left it there before
            return f"node {place.node} does not see what node 0 wrote; name a folder that all nodes share with --checkpoints DIR"
    return keeper.run()


def _versions() -> dict[str, str]:
    return rendezvous.versions(Path(sys.argv[0]))


def _place(case: Case) -> rendezvous.Place:
    if case.get("nodes", 1) > 1 and "RANK" in os.environ:
        raise supervisor.GaveUp("the supervisor starts the ranks of this case; give --remote a template that starts one command a node")
    return rendezvous.of(case, "")


def _own(case: Case, folder: Path, place: rendezvous.Place, attempt: int) -> nodes.Node:
    each, command = case["cards"] // place.nodes, _rank(folder)
    return nodes.Node(
        folder,
        range(place.node * each, (place.node + 1) * each),
        lambda first, _: agent_of_several(place, each, f"{case['id']}-{attempt}-{first}", case["start_s"] + JOIN_S, command),
    )


def _rank(folder: Path) -> list[str]:
    return [sys.executable, "-c", RANK.format(archive=str(Path(sys.argv[0]).resolve())), str(folder / HANDED)]


def _folder() -> str:
    given = os.environ.get("CHIPASSAY_CHECKPOINTS")
    if not given or not os.access(given, os.W_OK | os.X_OK):
        raise supervisor.GaveUp("no folder for checkpoints that can be written; start with --checkpoints DIR")
    return given


def agent(ranks: int, command: list[str], restarts: int) -> list[str]:
    """Torchrun's elastic agent on this host; the loop-back address is named, since a container without network resolves no name."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", "1", "--nproc_per_node", str(ranks), "--rdzv_backend", "c10d",
        "--rdzv_endpoint", f"127.0.0.1:{port}", "--local_addr", "127.0.0.1", "--max_restarts", str(restarts), "--monitor_interval", "0.1",
        "--no_python", *command,
    ]  # fmt: skip


def agent_of_several(place: rendezvous.Place, ranks: int, meeting: str, limit_s: int, command: list[str]) -> list[str]:
    """The same for this node of several, for one start of all ranks: who restarts only some would meet nobody."""
    return [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", str(place.nodes), "--node_rank", str(place.node), "--nproc_per_node",
        str(ranks), "--rdzv_backend", "static", "--rdzv_endpoint", place.endpoint, "--rdzv_id", meeting,
        "--rdzv_conf", f"timeout={limit_s}", "--max_restarts", "0", "--monitor_interval", "0.1", "--no_python", *command,
    ]  # fmt: skip
