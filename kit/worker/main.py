"""Entry of the worker: `python worker.pyz CASE.json FOLDER`. Starts the ranks of a case and runs its suite in each."""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

RECORDING_FAILED = 74  # EX_IOERR
REASON_CHARACTERS = 300


def main(argv: list[str]) -> int:
    """Run the case; exit code 0 only if every rank ended it as done."""
    if len(argv) != 2:
        print("usage: worker.pyz CASE.json FOLDER", file=sys.stderr)
        return 2
    job = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if job["case"]["processes"] > 1 and "RANK" not in os.environ:
        return _launch(job["case"]["processes"], argv)
    return _run_rank(_seeded(job), job["attempt"], Path(argv[1]))


def _seeded(job: dict[str, Any]) -> dict[str, Any]:
    """The case; where a challenge gives a seed, weights and inputs come from that instead of the plan's."""
    case: dict[str, Any] = job["case"]
    return case | {"seed": job["seed"]} if "seed" in job and "seed" in case else case


def _launch(processes: int, argv: list[str]) -> int:
    """Torchrun on this host; the loop-back address is named, since a container without network resolves no host name."""
    threads = max(1, len(os.sched_getaffinity(0)) // processes)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nnodes",
        "1",
        "--node_rank",
        "0",
        "--master_addr",
        "127.0.0.1",
        "--master_port",
        str(_free_port()),
        "--nproc_per_node",
        str(processes),
        sys.argv[0],
        *argv,
    ]
    process = subprocess.Popen(command, env={"OMP_NUM_THREADS": str(threads)} | os.environ)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda sign, _: process.send_signal(sign))
    return 1 if process.wait() else 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _run_rank(case: dict[str, Any], attempt: int, folder: Path) -> int:
    from .record import Recorder

    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    try:
        recorder = Recorder(folder, rank=rank, case=case, attempt=attempt, world_size=world_size)
        reason = _run_suite(case, recorder)
        recorder.event("case_end", state="failed" if reason else "done", reason=reason)
        recorder.close()
    except OSError as error:
        print(f"worker: events cannot be written: {error.strerror}", file=sys.stderr)
        return RECORDING_FAILED
    return 1 if reason else 0


def _run_suite(case: dict[str, Any], recorder: Any) -> str | None:
    """None if the suite went through, else why not, on one line."""
    try:
        suite = importlib.import_module(f".suites.{case['suite']}", __package__)
        suite.run(case, recorder)
    except Exception as error:
        traceback.print_exc()
        return " ".join(f"{type(error).__name__}: {error}".split())[:REASON_CHARACTERS]
    return None
