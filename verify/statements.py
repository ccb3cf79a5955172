"""Opens any signed statement of ours, in the one safe order: form, signatures, who may sign, and only then content.

A statement is known by the SHA-256 of its payload bytes, not of its envelope, since anybody can add a signature.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from verify import envelope
from verify.data import violations
from verify.findings import Refused
from verify.policy import Moment, Named, Policy, predicates
from verify.strict import SAFE_INTEGER, canonical, loads

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATES = "https://chipassay.dev/attestation/"


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement that was signed by those who may: `sha256` is of its payload, `subject` maps names to hex SHA-256.

    `signers` are those whose signatures count.
    """

    kind: str
    sha256: str
    subject: dict[str, str]
    predicate: dict[str, Any]
    signers: tuple[Named, ...] = ()

    @property
    def parties(self) -> frozenset[str]:
        """Parties among the signers."""
        return frozenset(named.party for named in self.signers)

    @property
    def persons(self) -> frozenset[str]:
        """Persons among the signers."""
        return frozenset(named.person for named in self.signers)


def schema_of(kind: str) -> str:
    """Name below manifests/schemas of the schema of a kind like `receipt/v1`."""
    return f"predicates/{kind.replace('/', '-')}"


def open_statement(
    data: bytes, kind: str, trust: Policy, when: Moment, *, bound: Mapping[str, str] | None = None, where: str = ""
) -> Statement:
    """The statement of one kind in an envelope, or Refused by the first rule that it breaks.

    `bound` says whom the challenge names: {"challenge.vendor": party, "challenge.lab": party}.
    """
    where = where or kind
    sealed = envelope.parse(data, where)
    check_type(sealed, where)
    signed = envelope.signers(sealed, [named.key for named in trust.keys.values()])
    if not trust.named(signed):
        raise Refused("policy.signer", where, "a signature by a key that the policy names", "none")
    for fault in trust.judge(kind, signed, when, bound):
        raise Refused(fault.rule, f"{where}: {fault.where}", fault.expected, fault.found)
    return parse(sealed, kind, where, tuple(trust.counted(kind, signed, when)))


def check_type(sealed: envelope.Envelope, where: str) -> None:
    """Refuse a payload that is not an in-toto statement before a byte of it is read."""
    if sealed.payload_type != PAYLOAD_TYPE:
        raise Refused("statement.type", where, PAYLOAD_TYPE, sealed.payload_type)


def parse(sealed: envelope.Envelope, kind: str, where: str, signers: tuple[Named, ...] = ()) -> Statement:
    """The statement in an envelope whose signatures were checked, strictly read; or Refused."""
    check_type(sealed, where)
    value = loads(sealed.payload, where, largest=SAFE_INTEGER)
    for fault in violations(value, schema_of(kind), "statement.schema", where):
        raise Refused(fault.rule, fault.where, fault.expected, fault.found)
    if canonical(value) != sealed.payload:
        raise Refused("statement.canonical", where, "canonical JSON, which the shell check relies on", "another writing of it")
    return Statement(kind, hashlib.sha256(sealed.payload).hexdigest(), _subject(value, where), value["predicate"], signers)


def _subject(value: dict[str, Any], where: str) -> dict[str, str]:
    named = {item["name"]: item["digest"]["sha256"] for item in value["subject"]}
    if len(named) != len(value["subject"]):
        raise Refused("statement.twin", where, "each subject once", [item["name"] for item in value["subject"]])
    return named


def kinds() -> tuple[str, ...]:
    """Every kind of statement, like `receipt/v1`."""
    return tuple(predicates())
