"""A published result: one folder that holds the run, its audit and result.json, bound by a publication statement.

    RESULT/publication.dsse.json result.json run/<name>/ audit/

Whether a publication still stands is told by a status list, which expires: a stale list shows nothing.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from verify import audit, envelope, policy, replay, statements
from verify.files import Evidence
from verify.findings import Finding, Unchecked, error
from verify.policy import Moment, Policy
from verify.scoring.attach import attach
from verify.statements import Statement
from verify.strict import loads

KIND, STATUS = "publication/v1", "status/v1"
FILE, RESULT, RUN, AUDIT = "publication.dsse.json", "result.json", "run", "audit"
TOP = (FILE, RESULT, RUN, AUDIT)


def check(folder: Path, trust: Policy, at: datetime.datetime, source: str | Path | None) -> audit.Outcome:
    """Check a published result: its parts, its audit, and that the statement binds just these."""
    if not folder.is_dir():
        raise Unchecked("no such result", where=str(folder), next_step="name the folder RESULT that was published")
    if (folder / replay.ENVELOPE).exists() and not (folder / FILE).exists():
        raise Unchecked("a run, and no published result", where=str(folder), next_step="python -m verify RUN")
    names, runs = set(os.listdir(folder)), os.listdir(folder / RUN) if (folder / RUN).is_dir() else []
    if names != set(TOP) or len(runs) != 1:
        outcome = audit.Outcome()
        outcome.findings.append(error("publication.folder", str(folder), f"{', '.join(TOP)}, one run in {RUN}/", sorted(names)))
        return outcome
    run = folder / RUN / runs[0]
    outcome = audit.audit(run, folder / AUDIT, trust, at, source)
    if outcome.verdict == "refused":
        return outcome
    made = outcome.attempt(lambda: _open(run, folder, trust, at))
    if made is not None:
        outcome.sha256["publication"] = made.sha256
        outcome.add(_links(made, run, folder, outcome))
    return outcome


def _open(run: Path, folder: Path, trust: Policy, at: datetime.datetime) -> Statement:
    if trust.name in {policy.SELF, policy.NOBODY.name}:
        trust = audit.own_keys(run, folder / AUDIT, audit.Outcome(), KIND)
    data = Evidence(folder).read(FILE, envelope.MAX_BYTES)
    return statements.open_statement(data, KIND, trust, Moment(at), bound=audit.claimed_bound(folder / AUDIT), where=FILE)


def _links(made: Statement, run: Path, folder: Path, outcome: audit.Outcome) -> Iterator[Finding]:
    """The publication names this result and every statement that it rests on."""
    data = Evidence(folder).read(RESULT)
    pairs = {name: (outcome.sha256[name], made.predicate[name]["sha256"]) for name in ("challenge", "receipt", "audit")}
    pairs["run"] = (outcome.sha256["run"], made.predicate["run"]["sha256"])
    pairs[RESULT] = (hashlib.sha256(data).hexdigest(), made.subject[RESULT])
    for name, (expected, found) in pairs.items():
        if expected != found:
            yield error("publication.names", f"publication: {name}", expected, found)
    yield from _recomputed(data, run)


def _recomputed(data: bytes, run: Path) -> Iterator[Finding]:
    """result.json holds the metrics and scores that the events give now."""
    theirs, result = loads(data, RESULT), replay.replay(run, policy.SELF)
    attach(result, str(theirs["run"].get("profile")))
    ours = result.document()
    for part in ("cases", "sections"):
        if loads(json.dumps(ours[part]).encode(), RESULT) != theirs.get(part):
            yield error("publication.result", f"{RESULT}: {part}", "what the events give", "something else")


def counted(folder: Path) -> tuple[int, int, int]:
    """How many metrics, cases and scores of sections the result.json of a published result holds."""
    document = loads(Evidence(folder).read(RESULT), RESULT)
    parts = [part for section in document["sections"].values() for part in section.values()]
    metrics = [len(case["metrics"]) for case in document["cases"]]
    return sum(metrics), sum(count > 0 for count in metrics), sum(part["score"] is not None for part in parts)


def open_status(path: Path, trust: Policy, at: datetime.datetime) -> dict[str, Any]:
    """The status list in a file; Refused where it was not signed by those who may, Unchecked where it has expired."""
    made = statements.open_statement(Evidence(path.parent).read(path.name), STATUS, trust, Moment(at), where=str(path))
    expires = policy.parse_time(made.predicate["expires"])
    if at > expires:
        raise Unchecked(
            "status.stale: status list has expired",
            where=str(path),
            why=f"version {made.predicate['version']} was valid until {policy.format_time(expires)}",
            next_step="get its next version: a withdrawal may have been held back",
        )
    return dict(made.predicate)


def standing(status: dict[str, Any], published: str) -> Iterator[Finding]:
    """Whether a publication (payload digest) stands by a status list."""
    listed = {one["sha256"]: one for one in status["publications"]}
    one = listed.get(published)
    if one is None or one["state"] != "stands":
        yield error(
            "status.publication", published, "a publication that stands", "none" if one is None else f"{one['state']}: {one['reason']}"
        )
