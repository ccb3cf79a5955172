"""The challenge that a run answers: what binds the two, and the seeds that its nonce gives to the cases.

A challenged run keeps the challenge as evidence/challenge.dsse.json, and its log names the payload in the first entry.
Whether it is the lab's is a question to the trust policy; without one only the binding is shown.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator, Mapping
from typing import Any

from verify import envelope, statements
from verify.files import Evidence
from verify.findings import Finding, Refused, error, warning
from verify.policy import Moment, Policy
from verify.runlog import Log, Open
from verify.statements import Statement

KIND = "challenge/v1"
FILE = "challenge.dsse.json"
SEED_BYTES = 4  # a case's seed has 32 bits, as the schemas of cases say


def parse(data: bytes, where: str = FILE) -> Statement:
    """What a challenge says, read strictly; nobody has been asked yet who signed it."""
    return statements.parse(envelope.parse(data, where), KIND, where)


def read(source: Evidence) -> Statement | None:
    """The challenge among the evidence; None where the run answers none."""
    return parse(source.read(FILE)) if FILE in source.names(".") else None


def seed(nonce: str, case_id: str) -> int:
    """The seed of a case: the first 4 bytes, big-endian, of HMAC-SHA256(nonce as bytes, case id)."""
    return int.from_bytes(hmac.digest(bytes.fromhex(nonce), case_id.encode(), hashlib.sha256)[:SEED_BYTES], "big")


def handed(case: Mapping[str, Any], attempt: int, made: Statement | None) -> dict[str, Any]:
    """What the worker must have been given: case.json as an object."""
    given = {"attempt": attempt, "case": dict(case)}
    return given if made is None else given | {"seed": seed(made.predicate["nonce"], case["id"])}


def effective(case: Mapping[str, Any], made: Statement | None) -> dict[str, Any]:
    """The case as the worker runs it: of a challenged run the seed is the challenge's."""
    if made is None or "seed" not in case:
        return dict(case)
    return dict(case) | {"seed": seed(made.predicate["nonce"], case["id"])}


def parties(made: Statement | None) -> dict[str, str]:
    """Whom the challenge names, as rules of a policy ask for them."""
    return {} if made is None else {f"challenge.{role}": made.predicate[role] for role in ("vendor", "lab")}


def bound(made: Statement | None, said: Mapping[str, Any] | None, log: Log) -> Iterator[Finding]:
    """Statement and log name the challenge that lies among the evidence, and no other."""
    expected = None if made is None else made.sha256
    found: dict[str, str | None] = {}
    if log.entries and isinstance(opened := log.entries[0], Open):
        found["runlog: open"] = opened.challenge_sha256
    if said is not None:
        found["statement challenge"] = said["challenge"] and said["challenge"]["sha256"]
    for where, digest in found.items():
        if digest != expected:
            yield error("challenge.bound", where, f"the challenge of evidence/{FILE}: {expected}", digest)


def trusted(data: bytes, trust: Policy, when: Moment) -> Iterator[Finding]:
    """The challenge is a lab's that the policy names."""
    try:
        made = statements.open_statement(data, KIND, trust, when, where=FILE)
    except Refused as bad:
        yield bad.finding
        return
    lab = made.predicate["lab"]
    if lab not in made.parties:
        yield error("challenge.lab", FILE, f"a signature by {lab}, which it names as lab", sorted(made.parties))


def vendor(made: Statement, signers: set[str]) -> Iterator[Finding]:
    """The run is sealed by the vendor that the challenge names."""
    if made.predicate["vendor"] not in signers:
        yield error("challenge.vendor", FILE, f"a run sealed by {made.predicate['vendor']}", sorted(signers))


def unbound(trust: Policy, kind: str, made: Statement | None) -> Iterator[Finding]:
    """A policy that asks for the challenge's vendor can say nothing of a run that answers no challenge."""
    if made is None and any(rule.bound for rule in trust.rules.get(kind, ())):
        yield warning("origin.unchecked", "run.dsse.json", "a challenge that names the vendor, as the policy asks", "a run without one")
