"""Trust: what a policy may look like, whose signature counts when, and what `self` does not show."""

from __future__ import annotations

import base64
import datetime
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.adversarial import builder, trust
from tests.adversarial.trust import AT, Document
from verify import chain, policy
from verify.findings import Refused
from verify.replay import replay

Change = Callable[[Document], Any]
ANN, LEA, LEO = trust.name("ann"), trust.name("lea"), trust.name("leo")
ED25519 = bytes.fromhex("302a300506032b6570032100")
IDENTITY = (1).to_bytes(32, "little")
OFF_CURVE = (2).to_bytes(32, "little")


def written(folder: Path, change: Change | None = None) -> Path:
    document = trust.document()
    if change:
        change(document)
    return trust.write(folder / "trust", trust.seal(document))


def loaded(folder: Path, change: Change | None = None) -> policy.Policy:
    return chain.load(written(folder, change), AT)


def spki(data: bytes) -> str:
    return base64.b64encode(data).decode()


def add_key(document: Document, der: bytes, alg: str = "ed25519", person: str = "rob") -> None:
    document["keys"][hashlib.sha256(der).hexdigest()] = trust.entry("rob") | {"spki": spki(der), "alg": alg, "person": person}


def p256(document: Document) -> bytes:
    """A P-256 key in the policy, and the same point in compressed form."""
    public = generate_private_key(SECP256R1()).public_key()
    plain = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    point = public.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    add_key(document, plain, "ecdsa-p256-sha256")
    return bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200") + point


def test_a_named_key_shows_the_origin(tmp_path: Path) -> None:
    outcome = replay(builder.build(tmp_path), written(tmp_path), AT)
    assert (outcome.verdict, outcome.run["origin"]) == ("verified", "acme")
    assert [(f.rule, f.severity) for f in outcome.findings] == [("policy.first", "notice")]
    assert replay(tmp_path / builder.NAME, tmp_path / "trust", AT).findings == []


def test_without_a_policy_the_origin_is_unchecked(tmp_path: Path) -> None:
    run = builder.build(tmp_path)
    for given in (None, written(tmp_path, lambda d: d["keys"].pop(ANN))):
        outcome = replay(run, given, AT)
        assert (outcome.verdict, outcome.exit_code) == ("unchecked", 2)
        assert [finding.rule for finding in outcome.findings if finding.severity != "notice"] == ["origin.unchecked"]


def revoke(since: str, reason: str) -> Change:
    return lambda document: document["keys"][ANN].update(revoked={"since": since, "reason": reason})


REFUSED: dict[str, tuple[str, Change, datetime.datetime]] = {
    "a key that is not valid any more": ("policy.window", lambda d: d.update(expires="2028-01-01T00:00:00Z"), AT.replace(year=2027)),
    "a compromised key": ("policy.revoked", revoke("2026-05-01T00:00:00Z", "compromise"), AT),
    "a compromised key, looked at as of a time before": ("policy.revoked", revoke("2026-07-01T00:00:00Z", "compromise"), AT),
    "a key superseded by another": ("policy.revoked", revoke("2026-05-01T00:00:00Z", "superseded"), AT),
    "a lab's key signs a run": ("policy.role", lambda d: d["persons"]["ann"].update(party="lab-a"), AT),
    "another vendor is asked for": (
        "policy.threshold",
        lambda d: d["rules"].update({"vendor-run/v1": [{"party": "rival", "threshold": 1}]}),
        AT,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_key_that_may_not_sign(name: str, tmp_path: Path) -> None:
    rule, change, at = REFUSED[name]
    outcome = replay(builder.build(tmp_path), written(tmp_path, change), at)
    assert outcome.verdict == "refused"
    assert [finding.rule for finding in outcome.findings if finding.severity == "error"] == [rule]


BEFORE, AFTER = AT.replace(month=4), AT.replace(month=5, day=2)


@pytest.mark.parametrize(
    ("reason", "proved", "verdict"),
    [
        ("compromise", BEFORE, "verified"),
        ("compromise", AFTER, "refused"),
        ("superseded", BEFORE, "verified"),
        ("superseded", AFTER, "refused"),
    ],
)
def test_a_proved_time_saves_what_is_older_than_a_revocation(reason: str, proved: datetime.datetime, verdict: str, tmp_path: Path) -> None:
    given = written(tmp_path, revoke("2026-05-01T00:00:00Z", reason))
    assert replay(builder.build(tmp_path), given, AT, proved).verdict == verdict


def test_a_proved_time_saves_a_key_that_has_run_out(tmp_path: Path) -> None:
    given = written(tmp_path, lambda d: d["keys"][ANN].update(notAfter="2026-05-01T00:00:00Z"))
    run = builder.build(tmp_path)
    assert replay(run, given, AT).verdict == "refused"
    assert replay(run, given, AT, BEFORE).verdict == "verified"


UNUSABLE: dict[str, tuple[str, Change]] = {
    "the same key twice": ("policy.twin", lambda d: d["keys"].update({"0" * 64: trust.entry("ann") | {"person": "rob"}})),
    "the same point in two encodings": ("policy.twin", lambda d: add_key(d, p256(d), "ecdsa-p256-sha256")),
    "a keyid that is not the key's": ("policy.keyid", lambda d: d["keys"].update({"0" * 64: d["keys"].pop(ANN)})),
    "an unknown field": ("policy.schema", lambda d: d.update(extra=1)),
    "an unknown field of a key": ("policy.schema", lambda d: d["keys"][ANN].update(comment="x")),
    "a party with two kinds": ("policy.schema", lambda d: d["parties"]["acme"].update(kind=["vendor", "lab"])),
    "a rule for a party and a kind": ("policy.schema", lambda d: d["rules"]["vendor-run/v1"][0].update(party="acme")),
    "no rule on runs": ("policy.schema", lambda d: d["rules"].pop("vendor-run/v1")),
    "a key of low order": ("key.order", lambda d: add_key(d, ED25519 + IDENTITY)),
    "a key of order four": ("key.order", lambda d: add_key(d, ED25519 + bytes(32))),
    "a point off the curve": ("key.curve", lambda d: add_key(d, ED25519 + OFF_CURVE)),
    "a P-256 point off the curve": ("key.format", lambda d: add_key(d, p256(d)[:-1] + b"\x00\x00", "ecdsa-p256-sha256")),
    "a key that is none": ("key.format", lambda d: d["keys"][ANN].update(spki="AAAA")),
    "base64 with spare bits": ("envelope.base64", lambda d: d["keys"][ANN].update(spki="AB==")),
    "another algorithm than the key's": ("policy.algorithm", lambda d: d["keys"][ANN].update(alg="ecdsa-p256-sha256")),
    "a reversed window": ("policy.times", lambda d: d["keys"][ANN].update(notAfter="2025-01-01T00:00:00Z")),
    "a day that does not exist": ("policy.times", lambda d: d["keys"][ANN].update(notBefore="2026-02-30T00:00:00Z")),
    "a person whom nobody lists": ("policy.person", lambda d: d["keys"][ANN].update(person="bob")),
    "a party that nobody lists": ("policy.party", lambda d: d["persons"]["ann"].update(party="other")),
    "a rule on a party that nobody lists": (
        "policy.party",
        lambda d: d["rules"].update({"vendor-run/v1": [{"party": "other", "threshold": 1}]}),
    ),
    "a vendor may sign audits": ("policy.role", lambda d: d["rules"].update({"lab-audit/v1": [{"kind": "vendor", "threshold": 1}]})),
    "a vendor by name may sign audits": ("policy.role", lambda d: d["rules"].update({"lab-audit/v1": [{"party": "acme", "threshold": 1}]})),
    "the challenged vendor may sign audits": ("policy.role", lambda d: d["rules"]["lab-audit/v1"][0].update(party="=challenge.vendor")),
    "a lab may sign runs": ("policy.role", lambda d: d["rules"].update({"vendor-run/v1": [{"kind": "lab", "threshold": 1}]})),
    "a rule on a statement that nobody knows": (
        "policy.rule",
        lambda d: d["rules"].update({"gossip/v1": [{"kind": "lab", "threshold": 1}]}),
    ),
    "more persons than the lab has": ("policy.threshold", lambda d: d["rules"]["lab-audit/v1"][0].update(threshold=4)),
    "two of one party": ("policy.threshold", lambda d: d["rules"].update({"vendor-run/v1": [{"party": "acme", "threshold": 2}]})),
    "more root persons than there are": ("policy.threshold", lambda d: d["root"].update(threshold=4)),
    "a root key that nobody lists": ("policy.root", lambda d: d["root"]["keys"].append("0" * 64)),
    "a first version with a number": ("policy.version", lambda d: d.update(previous={"sha256": "0" * 64})),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_policy_that_cannot_be_used(name: str, tmp_path: Path) -> None:
    rule, change = UNUSABLE[name]
    with pytest.raises(Refused) as stop:
        loaded(tmp_path, change)
    assert stop.value.finding.rule == rule


def test_two_keys_of_one_person_do_not_make_two(tmp_path: Path) -> None:
    def change(document: Document) -> None:
        for number in (1, 2):
            document["keys"][trust.name("lea", number)] = trust.entry("lea", number)

    made = loaded(tmp_path, change)
    signed = [trust.name("lea", number) for number in range(3)]
    found = list(made.judge("lab-audit/v1", signed, trust.NOW, trust.BOUND))
    assert [fault.rule for fault in found] == ["policy.threshold"]
    assert list(made.judge("lab-audit/v1", [LEA, LEO], trust.NOW, trust.BOUND)) == []


def test_two_persons_of_one_party_do_not_make_two_parties(tmp_path: Path) -> None:
    made = loaded(tmp_path, lambda d: d["rules"].update({"challenge/v1": [{"kind": "lab", "threshold": 2}]}))
    assert [f.rule for f in made.judge("challenge/v1", [LEA, LEO], trust.NOW)] == ["policy.threshold"]
    assert list(made.judge("challenge/v1", [LEA, trust.name("liz")], trust.NOW)) == []


def test_a_signature_that_does_not_count_takes_nothing_away(tmp_path: Path) -> None:
    made = loaded(tmp_path)
    assert list(made.judge("lab-audit/v1", [ANN, LEA, LEO], trust.NOW, trust.BOUND)) == []
    assert {named.person for named in made.counted("lab-audit/v1", [ANN, LEA, LEO], trust.NOW)} == {"lea", "leo"}


@pytest.mark.parametrize(
    ("kind", "signed", "rule"),
    [
        ("lab-audit/v1", ["ann"], "policy.role"),
        ("vendor-run/v1", ["lea"], "policy.role"),
        ("receipt/v1", ["liz"], "policy.threshold"),
        ("run-key/v1", ["rob"], "policy.threshold"),
        ("publication/v1", ["pia"], "policy.threshold"),
        ("gossip/v1", ["pia"], "policy.rule"),
    ],
)
def test_who_may_sign_what(kind: str, signed: list[str], rule: str, tmp_path: Path) -> None:
    found = list(loaded(tmp_path).judge(kind, [trust.name(person) for person in signed], trust.NOW, trust.BOUND))
    assert [fault.rule for fault in found] == [rule]


def test_a_policy_speaks_for_p256_keys_too(tmp_path: Path) -> None:
    assert len(loaded(tmp_path, lambda d: p256(d) and None).keys) == len(trust.PERSONS) + 1
