"""Opens the log of a run: anew, with everything that the run is bound to, or again after an interruption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kit import __version__, archive, challenge, job, plan, record, runkey
from kit.files import write_atomic
from verify import heartbeat
from verify.strict import canonical


def create(
    run: Path,
    resolved: plan.Plan,
    facts: dict[str, Any],
    key: Ed25519PrivateKey,
    isolation: job.Isolation,
    made: archive.Archive,
    asked: challenge.Challenge | None,
) -> record.RunLog:
    """Make the run's folder, write what is known before the first case, and log it.

    `facts` become environment.json; `key` is the vendor's.
    """
    evidence = run / "evidence"
    evidence.mkdir(parents=True)
    write_atomic(evidence / "plan.json", resolved.to_bytes())
    write_atomic(evidence / "environment.json", canonical(facts) + b"\n")
    paths = [evidence / "plan.json", evidence / "environment.json"]
    if asked is not None:
        challenge.remember(asked, run.name)  # of the lab's own runs only the last one is known, which harms nothing
        write_atomic(evidence / challenge.FILE, asked.data)
        paths.append(evidence / challenge.FILE)
    own = runkey.obtain(run, key, resolved.sha256(), asked.made if asked else None)
    log = record.RunLog(run, own.key)
    log.append(
        "open",
        run=run.name,
        plan_sha256=resolved.sha256(),
        kit_version=__version__,
        worker_sha256=made.sha256,
        isolation=isolation.kind,
        challenge_sha256=asked.made.sha256 if asked else None,
        run_key=own.keyid,
        heartbeat_s=heartbeat.settings().heartbeat_s,
    )
    for path in [*paths, *([own.made] if own.made else [])]:
        log.append_file(path)
    log.checkpoint()
    return log


def again(run: Path, key: Ed25519PrivateKey) -> tuple[record.RunLog, runkey.RunKey]:
    """The log of a run that goes on, under the run's own key; nothing is written to it yet."""
    asked = challenge.of_run(run, None)
    own = runkey.obtain(run, key, plan.from_run(run / "evidence/plan.json").sha256(), asked.made if asked else None)
    return record.RunLog(run, own.key), own


def resumed(log: record.RunLog, own: runkey.RunKey) -> None:
    """Log that the run goes on, and its new certificate if there is one."""
    log.append("resume", run_key=own.keyid)
    if own.made:
        log.append_file(own.made)
