"""The end of an attempt: what its files say of it, every file hashed and logged, its end logged, the tree signed."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any

from kit import heartbeat, job
from kit.files import sync_folder
from kit.record import RunLog, open_attempts
from verify.events import SEGMENT

WORD = "worker: "  # begins the line in which the worker says why it ends
NODE_LOG = re.compile(r"node-(\d+)\.stderr\.log")
TAIL_BYTES = 65536
REASON_CHARACTERS = 300
SILENT_S = 5  # recorders touch their files every half second
SHOWN = 4


def end_open(log: RunLog) -> None:
    """Log attempts that a crash left without an end as `interrupted`, with the files they left."""
    for case_id, number in open_attempts(log.entries):
        end(log, case_id, number, "interrupted", "the kit was stopped before the attempt ended")


def state_of(folder: Path, outcome: job.Outcome) -> tuple[str, str | None]:
    """`done` needs both a clean exit and the worker's own word in its last event."""
    last = _last_event(folder)
    if outcome.reason is None and last.get("e") == "case_end" and last.get("state") == "done":
        return "done", None
    if outcome.timed_out:
        return "failed", f"{outcome.reason}{_silent(folder)}"
    return "failed", _workers_word(folder) or last.get("reason") or outcome.reason or "the worker wrote no case_end"


def _workers_word(folder: Path) -> str | None:
    """What the worker itself said of its end; of several nodes, that of the one where a rank was killed, else the first."""
    found = []
    for path in sorted(folder.glob("*stderr.log")):
        match = NODE_LOG.fullmatch(path.name)
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
        if said := next((line.removeprefix(WORD) for line in reversed(lines) if line.startswith(WORD)), None):
            found.append((" was killed by " not in said, said.startswith("stopped by "), int(match[1]) if match else 0, said))
    if not found:
        return None
    _, _, node, said = min(found)
    return " ".join((f"node {node}: {said}" if node and not said.startswith(("node ", "rank ")) else said).split())[:REASON_CHARACTERS]


def _silent(folder: Path) -> str:
    """Which of several ranks gave no sign of life any more: their recorders touch their files while the process runs."""
    last: dict[int, float] = {}
    for path in folder.glob("events-*.jsonl"):
        if match := SEGMENT.fullmatch(path.name):
            rank = int(match[1] or 0)
            last[rank] = max(last.get(rank, 0.0), path.stat().st_mtime)
    if len(last) < 2:
        return ""
    newest = max(last.values())
    silent = [f"rank {rank} fell silent {newest - seen:.0f} s before" for rank, seen in sorted(last.items()) if newest - seen > SILENT_S]
    return f"; {', '.join(silent[:SHOWN])}" if silent else "; all ranks were alive to the end"


def _last_event(folder: Path) -> dict[str, Any]:
    segments = sorted(folder.glob("events-[0-9]*.jsonl"))
    if not segments:
        return {}
    last = segments[-1].read_bytes().rstrip(b"\n").rpartition(b"\n")[2]
    with contextlib.suppress(ValueError):
        event = json.loads(last)
        return event if isinstance(event, dict) else {}
    return {}


def recorded_bytes(folder: Path) -> int:
    """Bytes of events on all ranks so far."""
    return sum(path.stat().st_size for path in folder.glob("events-*.jsonl"))


def end(log: RunLog, case_id: str, number: int, state: str, reason: str | None) -> None:
    """Hash and log every file of the attempt that is not logged yet, then its end, then sign the tree."""
    folder = log.run / "evidence/cases" / case_id / f"attempt-{number}"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "stderr.log").exists():
        (folder / "stderr.log").write_bytes(b"")
    _remove_empty_folders(folder)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.relative_to(log.run / "evidence").as_posix() not in log.logged:
            heartbeat.secure(path)
            log.append_file(path)
    sync_folder(folder)
    log.append("case-end", case=case_id, attempt=number, state=state, reason=reason)
    log.checkpoint()


def _remove_empty_folders(folder: Path) -> None:
    for path in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
        with contextlib.suppress(OSError):
            path.rmdir()
