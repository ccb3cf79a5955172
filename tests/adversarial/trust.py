"""Makes trust policies for tests: two vendors, a lab with two persons, a publisher, a witness, three root keys.

Nobody here is real; keys come from names, so that they are the same in every test.
"""

from __future__ import annotations

import base64
import copy
import datetime
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kit import statements
from tests.adversarial.builder import KEY
from verify.chain import PAYLOAD_TYPE
from verify.envelope import keyid, spki
from verify.policy import Moment
from verify.strict import canonical

AT = datetime.datetime(2026, 6, 1, tzinfo=datetime.UTC)
NOW = Moment(AT)
Document = dict[str, Any]
PARTIES = {"acme": "vendor", "rival": "vendor", "lab-a": "lab", "lab-b": "lab", "paper": "publisher", "watch": "witness"}
PERSONS = {
    "ann": "acme", "rob": "rival", "lea": "lab-a", "leo": "lab-a", "liz": "lab-b", "pia": "paper", "wim": "watch",
    "root-1": "lab-a", "root-2": "lab-b", "root-3": "paper",
}  # fmt: skip
ROOTS = ("root-1", "root-2", "root-3")
BOUND = {"challenge.vendor": "acme", "challenge.lab": "lab-a"}
RULES: dict[str, list[dict[str, Any]]] = {
    "challenge/v1": [{"kind": "lab", "threshold": 1}],
    "run-key/v1": [{"party": "=challenge.vendor", "threshold": 1}],
    "vendor-run/v1": [{"kind": "vendor", "threshold": 1}],
    "receipt/v1": [{"party": "=challenge.lab", "threshold": 1}],
    "reveal/v1": [{"party": "=challenge.lab", "threshold": 1}],
    "lab-audit/v1": [{"party": "=challenge.lab", "threshold": 2, "distinct": "person"}],
    "publication/v1": [{"kind": "publisher", "threshold": 1}, {"party": "=challenge.lab", "threshold": 1}],
    "withdrawal/v1": [{"kind": "publisher", "threshold": 1}],
    "status/v1": [{"kind": "publisher", "threshold": 1}],
}


def key(person: str, number: int = 0) -> Ed25519PrivateKey:
    """A person's key; acme's is the one that seals the tests' runs."""
    if (person, number) == ("ann", 0):
        return KEY
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(f"tests of ChipAssay: {person} {number}".encode()).digest())


def name(person: str, number: int = 0) -> str:
    """The keyid of a person's key."""
    return keyid(key(person, number).public_key())


def entry(person: str, number: int = 0) -> Document:
    """A person's key as a policy lists it."""
    text = base64.b64encode(spki(key(person, number).public_key())).decode()
    times = {"notBefore": "2026-01-01T00:00:00Z", "notAfter": "2026-12-31T00:00:00Z"}
    return {"alg": "ed25519", "spki": text, "person": person, "revoked": None} | times


def document() -> Document:
    """Version 1, everything in order; threshold of two of three root keys."""
    return {
        "schemaVersion": 1, "name": "tests", "version": 1, "previous": None, "expires": "2027-01-01T00:00:00Z",
        "root": {"threshold": 2, "keys": [name(person) for person in ROOTS]},
        "parties": {party: {"kind": kind} for party, kind in PARTIES.items()},
        "persons": {person: {"party": party, "name": person.title()} for person, party in PERSONS.items()},
        "keys": {name(person): entry(person) for person in PERSONS},
        "rules": {kind: [dict(rule) for rule in rules] for kind, rules in RULES.items()},
        "statusMaxAgeDays": 30,
    }  # fmt: skip


def seal(made: Document, signers: Sequence[str] = ROOTS[:2]) -> bytes:
    """The envelope of a policy, signed by these persons' first keys."""
    return statements.sign(canonical(made), [key(person) for person in signers], PAYLOAD_TYPE)


def after(made: Document) -> Document:
    """The next version, the same but for number and `previous`."""
    return copy.deepcopy(made) | {"version": made["version"] + 1, "previous": {"sha256": hashlib.sha256(canonical(made)).hexdigest()}}


def write(folder: Path, *versions: bytes) -> Path:
    """Versions 1, 2, ... as files; the path of the last one."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(versions, start=1):
        (folder / f"{number}.dsse.json").write_bytes(data)
    return folder / f"{len(versions)}.dsse.json"
