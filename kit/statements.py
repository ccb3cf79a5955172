"""Writes and signs statements: in-toto Statement v1 in a DSSE envelope, canonical JSON throughout."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kit.schema import check
from verify import envelope
from verify.statements import PAYLOAD_TYPE, PREDICATES, STATEMENT_TYPE, schema_of
from verify.strict import canonical, loads


def payload(kind: str, subject: Mapping[str, str], predicate: dict[str, Any]) -> bytes:
    """Payload bytes of a statement of a kind like `receipt/v1`, checked against its schema; `subject` maps names to hex SHA-256."""
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in subject.items()],
        "predicateType": PREDICATES + kind,
        "predicate": predicate,
    }
    check(statement, schema_of(kind), f"statement {kind}")
    return canonical(statement)


def sign(data: bytes, keys: Sequence[Ed25519PrivateKey], payload_type: str = PAYLOAD_TYPE) -> bytes:
    """A DSSE envelope over payload bytes with one signature for each key, as canonical JSON with a final newline."""
    signatures = [_signature(data, key, payload_type) for key in keys]
    document = {"payloadType": payload_type, "payload": base64.b64encode(data).decode(), "signatures": signatures}
    return canonical(document) + b"\n"


def add_signature(sealed: bytes, key: Ed25519PrivateKey, where: str) -> bytes:
    """The envelope with this key's signature added, or replaced where it had one; Refused where it is no envelope."""
    known = envelope.parse(sealed, where)
    added = _signature(known.payload, key, known.payload_type)
    document = loads(sealed, where)
    kept = [item for item in document["signatures"] if item["keyid"] != added["keyid"]]
    return canonical(document | {"signatures": [*kept, added]}) + b"\n"


def _signature(data: bytes, key: Ed25519PrivateKey, payload_type: str) -> dict[str, str]:
    signature = key.sign(envelope.pae(payload_type, data))
    return {"keyid": envelope.keyid(key.public_key()), "sig": base64.b64encode(signature).decode()}
