"""The end of an attempt: what its files say of it, every file hashed and logged, its end logged, the tree signed."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from kit import heartbeat, job
from kit.files import sync_folder
from kit.record import RunLog, open_attempts


def end_open(log: RunLog) -> None:
    """Log attempts that a crash left without an end as `interrupted`, with the files they left."""
    for case_id, number in open_attempts(log.entries):
        end(log, case_id, number, "interrupted", "the kit was stopped before the attempt ended")


def state_of(folder: Path, outcome: job.Outcome) -> tuple[str, str | None]:
    """`done` needs both a clean exit and the worker's own word in its last event."""
    last = _last_event(folder)
    if outcome.reason is None and last.get("e") == "case_end" and last.get("state") == "done":
        return "done", None
    return "failed", last.get("reason") or outcome.reason or "the worker wrote no case_end"


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
