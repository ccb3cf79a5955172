"""Trust: whose key signed, when it was valid, how many parties must sign; and what `self` does not show."""

from __future__ import annotations

import base64
import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.adversarial import builder
from verify.findings import Unchecked
from verify.replay import replay

AT = datetime.datetime(2026, 6, 1, tzinfo=datetime.UTC)


def spki(key: Ed25519PrivateKey) -> str:
    return base64.b64encode(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()


def policy() -> dict[str, Any]:
    """One vendor with the tests' key, one lab with another."""
    return {
        "schemaVersion": 1,
        "keys": {
            "k1": {"alg": "ed25519", "spki": spki(builder.KEY), "party": "acme", "notBefore": "2026-01-01T00:00:00Z",
                   "notAfter": "2026-12-31T00:00:00Z", "revoked": None},
            "k2": {"alg": "ed25519", "spki": spki(Ed25519PrivateKey.generate()), "party": "lab", "notBefore": "2026-01-01T00:00:00Z",
                   "notAfter": "2026-12-31T00:00:00Z", "revoked": None},
        },
        "parties": {"acme": {"kind": "vendor"}, "lab": {"kind": "lab"}},
        "rules": {"vendor-run/v1": [{"kind": "vendor", "threshold": 1}]},
    }  # fmt: skip


def written(folder: Path, change: Callable[[dict[str, Any]], None] | None = None) -> Path:
    document = policy()
    if change:
        change(document)
    path = folder / "policy.json"
    path.write_text(json.dumps(document))
    return path


def test_a_named_key_shows_the_origin(tmp_path: Path) -> None:
    outcome = replay(builder.build(tmp_path), written(tmp_path), AT)
    assert (outcome.verdict, outcome.run["origin"]) == ("verified", "acme")


def test_without_a_policy_the_origin_is_unchecked(tmp_path: Path) -> None:
    run = builder.build(tmp_path)
    for trust in (None, written(tmp_path, lambda d: d["keys"]["k1"].update(spki=spki(Ed25519PrivateKey.generate())))):
        outcome = replay(run, trust, AT)
        assert (outcome.verdict, outcome.exit_code) == ("unchecked", 2)
        assert [finding.rule for finding in outcome.findings] == ["origin.unchecked"]


REFUSED: dict[str, tuple[Callable[[dict[str, Any]], Any], datetime.datetime]] = {
    "policy.window": (lambda _: None, AT.replace(year=2027)),
    "policy.revoked": (lambda d: d["keys"]["k1"].update(revoked={"since": "2026-05-01T00:00:00Z", "reason": "compromise"}), AT),
    "policy.threshold": (lambda d: d["rules"].update({"vendor-run/v1": [{"kind": "lab", "threshold": 1}]}), AT),
}


@pytest.mark.parametrize("rule", REFUSED)
def test_a_key_that_may_not_sign(rule: str, tmp_path: Path) -> None:
    change, at = REFUSED[rule]
    outcome = replay(builder.build(tmp_path), written(tmp_path, change), at)
    assert outcome.verdict == "refused"
    assert [finding.rule for finding in outcome.findings] == [rule]


UNUSABLE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "policy.twin": lambda d: d["keys"].update(k3=d["keys"]["k1"] | {"party": "lab"}),
    "policy.schema": lambda d: d.update(extra=1),
    "envelope.base64": lambda d: d["keys"]["k1"].update(spki="AA=A"),
    "key.order": lambda d: d["keys"]["k1"].update(spki=base64.b64encode(bytes.fromhex("302a300506032b6570032100") + bytes(32)).decode()),
}


@pytest.mark.parametrize("rule", UNUSABLE)
def test_a_policy_that_cannot_be_used(rule: str, tmp_path: Path) -> None:
    with pytest.raises(Unchecked, match=rule):
        replay(builder.build(tmp_path), written(tmp_path, UNUSABLE[rule]), AT)


def test_a_threshold_that_no_parties_can_reach(tmp_path: Path) -> None:
    with pytest.raises(Unchecked, match=r"policy\.threshold|policy\.schema"):
        replay(builder.build(tmp_path), written(tmp_path, lambda d: d["rules"]["vendor-run/v1"][0].update(threshold=2)), AT)
