"""Seals a run: SHA256SUMS over every file, a closed run log, claims from replay, and one DSSE-signed statement."""

from __future__ import annotations

import datetime
import hashlib
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kit import keyscan, runkey, statements
from kit.files import write_atomic
from kit.plan import Plan
from kit.record import RunLog, attempts
from verify import score, statement, tree
from verify.files import Evidence
from verify.strict import canonical, loads


def case_states(plan: Plan, log: RunLog) -> list[dict[str, Any]]:
    """Every case of the plan with its state and attempts; the first completed attempt decides."""
    tried = attempts(log.entries)
    return [
        {
            "id": case["id"],
            "suite": case["suite"],
            "state": state_of(tried.get(case["id"], [])),
            "attempts": tried.get(case["id"], []),
        }
        for case in plan.cases
    ]


def state_of(tries: list[dict[str, Any]]) -> str:
    """`done` once any attempt is done, else the last attempt's state, else `not_run`."""
    if any(attempt["state"] == "done" for attempt in tries):
        return "done"
    return str(tries[-1]["state"]) if tries else "not_run"


def unseal(run: Path) -> None:
    """Take away an old seal before a run goes on; the run log keeps its `close` entry."""
    (run / "run.dsse.json").unlink(missing_ok=True)
    (run / "SHA256SUMS").unlink(missing_ok=True)


def seal(run: Path, plan: Plan, log: RunLog, key: Ed25519PrivateKey) -> None:
    """Write cases.json, SHA256SUMS, the closing entry and run.dsse.json, each atomically and in this order."""
    evidence = run / "evidence"
    keyscan.check(evidence)
    states = case_states(plan, log)
    write_atomic(evidence / "cases.json", canonical({"schemaVersion": 1, "cases": states}) + b"\n")
    source = Evidence(evidence)
    claims = score.claims(score.evaluate(source))
    sums = tree.sums(source)
    digest = hashlib.sha256(sums).hexdigest()
    write_atomic(run / "SHA256SUMS", sums)
    log.append("close", sums_sha256=digest)
    log.checkpoint()
    stated = _predicate(log, plan, states, claims) | {"runKeys": [{"sha256": own.made.sha256} for own in runkey.certified(run, key)]}
    write_atomic(run / "run.dsse.json", statements.sign(statements.payload(statement.KIND, {"SHA256SUMS": digest}, stated), [key]))
    if all(case["state"] == "done" for case in states):
        runkey.destroy(run.name)


def _predicate(log: RunLog, plan: Plan, states: list[dict[str, Any]], claims: list[dict[str, Any]]) -> dict[str, Any]:
    environment = loads((log.run / "evidence/environment.json").read_bytes())
    opened = log.entries[0]
    return {
        "run": log.run.name,
        "challenge": None if opened["challenge_sha256"] is None else {"sha256": opened["challenge_sha256"]},
        "plan": {"name": plan.name, "sha256": plan.sha256()},
        "chip": environment["chip"]["id"],
        "kit": environment["kit"],
        "isolation": environment["isolation"],
        "image": environment["image"],
        "lock": environment["lock"],
        "patches": environment["patches"],
        "log": {"origin": log.origin, "size": log.size, "root": log.root_base64()},
        "cases": [{"id": case["id"], "state": case["state"]} for case in states],
        "claims": claims,
        "started": rfc3339(opened["wall_ns"]),
        "finished": rfc3339(log.entries[-1]["wall_ns"]),
    }


def rfc3339(wall_ns: int) -> str:
    """Unix nanoseconds as an RFC 3339 time in UTC, whole seconds."""
    return datetime.datetime.fromtimestamp(wall_ns // 10**9, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
