"""What the vendor's statement of a run must agree with: the plan, the environment, the log, the cases, the claims."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterator
from typing import Any

from verify.findings import Finding, error, notice
from verify.runlog import ORIGIN, Close, Log, Open
from verify.statements import Statement

KIND = "vendor-run/v1"
WHERE = "statement"
SHARED = ("kit", "isolation", "image", "lock")
Predicate = dict[str, Any]


def subject(stated: Statement, sums_sha256: str) -> Iterator[Finding]:
    """The statement's subject is this SHA256SUMS."""
    expected = stated.subject["SHA256SUMS"]
    if expected != sums_sha256:
        yield error("statement.subject", "SHA256SUMS", expected, sums_sha256)


def _differ(rule: str, pairs: dict[str, tuple[object, object]]) -> Iterator[Finding]:
    for name, (expected, found) in pairs.items():
        if expected != found:
            yield error(rule, f"{WHERE} {name}", expected, found)


def against_environment(said: Predicate, plan_name: str, plan: bytes, environment: dict[str, Any]) -> Iterator[Finding]:
    """Plan, chip, kit, isolation, image and lock are those of the evidence."""
    yield from _differ(
        "statement.plan",
        {"plan.sha256": (hashlib.sha256(plan).hexdigest(), said["plan"]["sha256"]), "plan.name": (plan_name, said["plan"]["name"])},
    )
    yield from _differ(
        "statement.environment",
        {"chip": (environment["chip"]["id"], said["chip"]), **{name: (environment[name], said[name]) for name in SHARED}},
    )


def against_log(said: Predicate, log: Log) -> Iterator[Finding]:
    """The log was opened for this run, plan and kit, and started and finished when the statement says.

    A log without its close tells no time of finishing: rule log.close speaks up, this one does not guess.
    """
    if not log.entries or not isinstance(opened := log.entries[0], Open):
        return
    last = log.last
    finished = {"finished": (_rfc3339(last.wall_ns), said["finished"])} if isinstance(last, Close) else {}
    yield from _differ(
        "statement.log",
        {
            "log.origin": (ORIGIN + said["run"], said["log"]["origin"]),
            "run": (opened.run, said["run"]),
            "plan.sha256": (opened.plan_sha256, said["plan"]["sha256"]),
            "kit.version": (opened.kit_version, said["kit"]["version"]),
            "kit.worker": (opened.worker_sha256, said["kit"]["worker"]["sha256"]),
            "isolation.kind": (opened.isolation, said["isolation"]["kind"]),
            "started": (_rfc3339(opened.wall_ns), said["started"]),
        }
        | finished,
    )


def _rfc3339(wall_ns: int) -> str:
    try:
        return datetime.datetime.fromtimestamp(wall_ns // 10**9, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return "a time that no calendar has"


def named(said: Predicate, folder: str) -> Iterator[Finding]:
    """A run kept under another name is worth knowing, no more."""
    if said["run"] != folder:
        yield notice("run.name", folder, said["run"], folder)


def claimed(said: Predicate, expected: list[dict[str, Any]]) -> Iterator[Finding]:
    """Claims are what the events give, compared as text; none is missing, none is added."""
    ours = {(claim["case"], claim["metric"]): (claim["value"], claim["unit"]) for claim in expected}
    theirs: dict[tuple[str, str], tuple[str, str]] = {}
    for claim in said["claims"]:
        key = (claim["case"], claim["metric"])
        if key in theirs:
            yield error("claims.twin", f"claim {key[0]} {key[1]}", "each claim once", "two")
        theirs[key] = (claim["value"], claim["unit"])
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key):
            yield error(
                "claims.value", f"claim {key[0]} {key[1]}", " ".join(ours.get(key, ("no claim",))), " ".join(theirs.get(key, ("no claim",)))
            )


def facts(said: Predicate | None, folder: str) -> dict[str, Any]:
    """What result.json shows of the run."""
    if said is None:
        return {"run": folder}
    return {
        "run": said["run"],
        "plan": said["plan"]["name"],
        "chip": said["chip"],
        "isolation": said["isolation"]["kind"],
        "image": said["image"],
        "kit": said["kit"]["version"],
        "started": said["started"],
        "finished": said["finished"],
    }


def digests(stated: Statement) -> dict[str, Any]:
    """What a reader compares by hand: hashes of file list and plan, size and root of the run log."""
    said = stated.predicate
    return {
        "sums_sha256": stated.subject["SHA256SUMS"],
        "plan_sha256": said["plan"]["sha256"],
        "log_size": said["log"]["size"],
        "log_root": said["log"]["root"],
    }
