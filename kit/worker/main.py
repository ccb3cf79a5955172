"""Entry of the worker: `python worker.pyz CASE.json FOLDER`. Starts the ranks of a case and runs its suite in each."""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

RECORDING_FAILED = 74  # EX_IOERR
REFUSED = 78  # EX_CONFIG: this node may not take part, and trying again is of no use
REASON_CHARACTERS = 300


def main(argv: list[str]) -> int:
    """Run the case; exit code 0 only if every rank ended it as done."""
    if len(argv) != 2:
        print("usage: worker.pyz CASE.json FOLDER", file=sys.stderr)
        return 2
    job = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if job["case"]["processes"] > 1 and "RANK" not in os.environ:
        return _start_ranks(job["case"], argv)
    if job["case"]["processes"] < job["case"].get("nodes", 1) and not _is_first():
        return _keep(_seeded(job), job["attempt"])
    return _run_rank(_seeded(job), job["attempt"], Path(argv[1]))


def _seeded(job: dict[str, Any]) -> dict[str, Any]:
    """The case; where a challenge gives a seed, weights and inputs come from that instead of the plan's."""
    case: dict[str, Any] = job["case"]
    return case | {"seed": job["seed"]} if "seed" in job and "seed" in case else case


def _start_ranks(case: dict[str, Any], argv: list[str]) -> int:
    from . import ranks, rendezvous

    try:
        return ranks.start(case, argv, rendezvous.of(case, ranks.free_endpoint()))
    except rendezvous.RollCallError as error:
        print(f"worker: {error}", file=sys.stderr)
        return 1


def _is_first() -> bool:
    """Whether this node is the first of several, as far as anybody says."""
    from . import rendezvous

    return next((os.environ[name] for name in rendezvous.SITE_NODES if name in os.environ), "0") == "0"


def _keep(case: dict[str, Any], attempt: int) -> int:
    """A node of a supervised training that is not the supervisor's; it records nothing."""
    from . import rendezvous
    from .stability.supervisor import GaveUp
    from .suites import stability

    try:
        why = stability.keep(case, attempt)
    except (rendezvous.RollCallError, GaveUp) as error:
        why = str(error)
    if why:
        print(f"worker: {why}", file=sys.stderr)
    return REFUSED if why else 0


def _run_rank(case: dict[str, Any], attempt: int, folder: Path) -> int:
    from . import inside, ranks, rendezvous
    from .record import Recorder

    if "RANK" in os.environ:  # whoever started it: our agent, torchrun, DeepSpeed's launcher, the site's
        ranks.die_with_agent()
        rendezvous.face_the_others(case)
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    try:
        recorder = Recorder(folder, rank=rank, case=case, attempt=attempt, world_size=world_size)
        reason = _run_suite(case, recorder)
        inside.write(folder, rank)
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
