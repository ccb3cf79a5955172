"""Reads the lab's own runs: each is replayed like a vendor's, and its values are what its events give."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verify import envelope, policy, replay, score, statement, statements, tree
from verify.files import Evidence
from verify.findings import Finding, error
from verify.rerun import LabRun
from verify.strict import canonical

SHARED_RULES = {"plan": "audit.run_plan", "chip": "audit.run_chip", "challenge": "audit.run_challenge"}


@dataclass(frozen=True, slots=True)
class Replayed:
    """A run that was replayed: what it says, what its events give, and what is wrong with it."""

    statement: statements.Statement
    claims: list[dict[str, Any]]
    states: dict[str, str]
    suites: dict[str, str]
    host: str
    signer: str
    events: frozenset[str]
    findings: tuple[Finding, ...]


def replayed(
    run: Path,
    where: str,
    trust: str | Path | None = policy.SELF,
    at: datetime.datetime | None = None,
    proved: datetime.datetime | None = None,
) -> Replayed:
    """Replay a run, by default under its own key; Refused where its statement cannot be read at all."""
    outcome = replay.replay(run, trust, at, proved)
    found = tuple(error(f.rule, f"{where}: {f.where}", f.expected, f.found) for f in outcome.findings if f.severity == "error")
    stated = statements.parse(envelope.parse(Evidence(run).read(replay.ENVELOPE, envelope.MAX_BYTES), where), statement.KIND, where)
    facts = score.document(Evidence(run / "evidence"), "environment.json", "environment")
    return Replayed(
        stated,
        score.claims(outcome.cases),
        {case["id"]: case["state"] for case in stated.predicate["cases"]},
        {case.id: case.suite for case in outcome.cases},
        hashlib.sha256(canonical(facts["host"])).hexdigest(),
        str(outcome.run.get("signer")),
        event_digests(run),
        found,
    )


def event_digests(run: Path) -> frozenset[str]:
    """SHA-256 of every file of events in a run's SHA256SUMS."""
    listed = tree.parse_sums(Evidence(run).read(replay.SUMS))
    return frozenset(digest for path, digest in listed.items() if path.rpartition("/")[2].startswith("events-"))


def lab_run(read: Replayed, name: str, purpose: str, repeat: int) -> LabRun:
    """What an audit needs of a run of the lab."""
    return LabRun(
        name=name,
        purpose=purpose,
        repeat=repeat,
        sha256=read.statement.sha256,
        sums_sha256=read.statement.subject["SHA256SUMS"],
        host=read.host,
        tried=frozenset(case for case, state in read.states.items() if state != "not_run"),
        values={(claim["case"], claim["metric"]): claim["value"] for claim in read.claims},
    )


def faults(read: Replayed, vendor: Replayed, lab_keys: Iterable[str], where: str) -> Iterator[Finding]:
    """A run of the lab is whole, sealed by the lab, of the same plan, chip and challenge, and its events are its own."""
    yield from read.findings
    if read.signer not in (allowed := sorted(lab_keys)):
        yield error("audit.run_signer", where, f"a key of the lab: {allowed}", read.signer)
    for name, rule in SHARED_RULES.items():
        expected, found = vendor.statement.predicate.get(name), read.statement.predicate.get(name)
        if expected != found:
            yield error(rule, where, expected, found)
    if vendor.events & read.events:
        yield error("audit.copied", where, "events of the lab's own", "events of the vendor's run")


def vendor_values(read: Replayed) -> dict[tuple[str, str], str]:
    """(case, metric) -> the vendor's claim."""
    return {(claim["case"], claim["metric"]): claim["value"] for claim in read.statement.predicate["claims"]}


def claims_sha256(read: Replayed) -> str:
    """SHA-256 of the recomputed claims in canonical JSON."""
    return hashlib.sha256(canonical(read.claims)).hexdigest()
