"""Stability: a training under supervision for as long as the case asks (report section 2.3).

The recording process is the supervisor alone. The ranks, `cards` of them, are started by torchrun's agent, which restarts them
from the last checkpoint; a further attempt of the case goes on where the one before was cut off.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

from ..record import Recorder
from ..stability import supervisor

Case = dict[str, Any]
RANK = "import sys; sys.path.insert(0, {archive!r}); from worker.stability.trainee import main; main()"
HANDED = "handed.json"


def run(case: Case, recorder: Recorder) -> None:
    """Supervise until the duration is over."""
    folder = Path(_folder())
    handed = folder / HANDED
    handed.write_text(json.dumps(case), encoding="utf-8")
    code = RANK.format(archive=str(Path(sys.argv[0]).resolve()))
    command = agent(case["cards"], [sys.executable, "-c", code, str(handed)])
    supervisor.Session(case, folder, command, recorder.attempt, recorder.event).run()


def _folder() -> str:
    given = os.environ.get("CHIPASSAY_CHECKPOINTS")
    if not given or not os.access(given, os.W_OK | os.X_OK):
        raise supervisor.GaveUp("no folder for checkpoints that can be written; start with --checkpoints DIR")
    return given


def agent(ranks: int, command: list[str]) -> list[str]:
    """Torchrun's elastic agent on this host; the loop-back address is named, since a container without network resolves no name."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", "1", "--nproc_per_node", str(ranks), "--rdzv_backend", "c10d",
        "--rdzv_endpoint", f"127.0.0.1:{port}", "--local_addr", "127.0.0.1", "--max_restarts", "{restarts}", "--monitor_interval", "0.1",
        "--no_python", *command,
    ]  # fmt: skip
