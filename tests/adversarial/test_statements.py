"""Statements: opened only when signed by those who may, read strictly, known by the bytes of their payload."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from kit import statements as writer
from kit.errors import KitError
from tests.adversarial import trust
from tests.conftest import ROOT
from verify import chain, policy, statements
from verify.data import has_schema
from verify.findings import Refused
from verify.strict import canonical

SUBJECT = {"vendor-run": "1" * 64}
RECEIPT = {"challenge": {"sha256": "2" * 64}, "received": "2026-05-01T00:00:00Z", "proof": None}


@pytest.fixture
def trusted(tmp_path: Path) -> policy.Policy:
    return chain.load(trust.write(tmp_path / "trust", trust.seal(trust.document())), trust.AT)


def receipt(*persons: str) -> bytes:
    return writer.sign(writer.payload("receipt/v1", SUBJECT, RECEIPT), [trust.key(person) for person in persons])


def opened(data: bytes, trusted: policy.Policy, kind: str = "receipt/v1") -> statements.Statement:
    return statements.open_statement(data, kind, trusted, trust.NOW, bound=trust.BOUND)


def test_a_statement_says_who_signed_it(trusted: policy.Policy) -> None:
    found = opened(receipt("lea", "ann"), trusted)
    assert (found.kind, found.subject, found.predicate) == ("receipt/v1", SUBJECT, RECEIPT)
    assert (found.parties, found.persons) == ({"lab-a"}, {"lea"})


def test_its_digest_is_that_of_the_payload(trusted: policy.Policy) -> None:
    sealed = receipt("lea")
    payload = base64.b64decode(json.loads(sealed)["payload"])
    assert opened(sealed, trusted).sha256 == hashlib.sha256(payload).hexdigest()
    assert opened(writer.add_signature(sealed, trust.key("leo"), "test"), trusted).sha256 == opened(sealed, trusted).sha256


def test_a_wrong_keyid_is_only_a_wrong_hint(trusted: policy.Policy) -> None:
    document = json.loads(receipt("lea"))
    document["signatures"][0]["keyid"] = ""
    assert opened(canonical(document), trusted).persons == {"lea"}


def signed(value: Any, payload_type: str = statements.PAYLOAD_TYPE) -> bytes:
    return writer.sign(value if isinstance(value, bytes) else canonical(value), [trust.key("lea")], payload_type)


def changed(**fields: Any) -> bytes:
    return signed(json.loads(writer.payload("receipt/v1", SUBJECT, RECEIPT)) | fields)


def stripped() -> bytes:
    """An audit that two persons had signed, with one signature taken away."""
    sealed = json.loads(writer.sign(b"{}", [trust.key("lea"), trust.key("leo")]))
    return canonical(sealed | {"signatures": sealed["signatures"][:1]})


REFUSED: dict[str, tuple[str, str, bytes]] = {
    "by a key that the policy does not name": ("policy.signer", "receipt/v1", writer.sign(b"{}", [trust.key("stranger")])),
    "by the vendor": ("policy.role", "receipt/v1", receipt("ann")),
    "an audit by the vendor": ("policy.role", "lab-audit/v1", writer.sign(b"{}", [trust.key("ann")])),
    "a run by the lab": ("policy.role", "vendor-run/v1", writer.sign(b"{}", [trust.key("lea")])),
    "by another lab than the challenge's": ("policy.threshold", "receipt/v1", receipt("liz")),
    "a co-signature stripped": ("policy.threshold", "lab-audit/v1", stripped()),
    "a signature moved to another payload": (
        "policy.signer",
        "receipt/v1",
        canonical(json.loads(receipt("lea")) | {"payload": base64.b64encode(b"{}").decode()}),
    ),
    "another payload type": ("statement.type", "receipt/v1", signed(b"{}", "application/json")),
    "a policy's payload type": ("statement.type", "receipt/v1", signed(b"{}", chain.PAYLOAD_TYPE)),
    "a statement of another kind": ("statement.schema", "reveal/v1", receipt("lea")),
    "an unknown field": ("statement.schema", "receipt/v1", changed(extra=1)),
    "a key twice": ("json.duplicate", "receipt/v1", signed(b'{"_type":1,"_TYPE":1}')),
    "an integer that JavaScript would round": ("json.number", "receipt/v1", signed(b'{"_type":9007199254740993}')),
    "spaces": ("statement.canonical", "receipt/v1", signed(writer.payload("receipt/v1", SUBJECT, RECEIPT).replace(b":", b": ", 1))),
    "no signature": ("envelope.signatures", "receipt/v1", canonical(json.loads(receipt("lea")) | {"signatures": []})),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_statement_that_is_refused(name: str, trusted: policy.Policy) -> None:
    rule, kind, data = REFUSED[name]
    with pytest.raises(Refused) as stop:
        opened(data, trusted, kind)
    assert stop.value.finding.rule == rule


def test_two_subjects_of_one_name_are_refused(trusted: policy.Policy) -> None:
    value = json.loads(writer.payload("receipt/v1", SUBJECT, RECEIPT))
    sealed = writer.envelope.parse(signed(value | {"subject": value["subject"] * 2}))
    with pytest.raises(Refused, match=r"statement\.(schema|twin)"):
        statements.parse(sealed, "receipt/v1", "test")


def test_the_kit_writes_no_statement_that_breaks_its_schema() -> None:
    with pytest.raises(KitError, match="received"):
        writer.payload("receipt/v1", SUBJECT, RECEIPT | {"received": "yesterday"})


@pytest.mark.parametrize("kind", statements.kinds())
def test_every_kind_has_a_schema_with_its_type(kind: str) -> None:
    assert has_schema(statements.schema_of(kind))
    schema = json.loads((ROOT / f"manifests/schemas/{statements.schema_of(kind)}.schema.json").read_text(encoding="utf-8"))
    assert schema["properties"]["predicateType"] == {"const": statements.PREDICATES + kind}


def test_kinds_are_as_their_schema_says() -> None:
    from kit.schema import check

    check({"schemaVersion": 1, "predicate": {kind: {"signers": list(by)} for kind, by in policy.predicates().items()}}, "predicates", "x")
