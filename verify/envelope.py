"""DSSE v1 envelopes: what is signed is checked before it is parsed.

`keyid` is a hint only: every key that may sign is tried on every signature. Keys are Ed25519 or ECDSA P-256; points of
low order, for which anybody can make signatures, are refused.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)

from verify.findings import Refused
from verify.strict import canonical, loads

MAX_BYTES = 32 * 2**20
MAX_SIGNATURES = 16
PublicKey = Ed25519PublicKey | EllipticCurvePublicKey

_P = 2**255 - 19
_D = -121665 * pow(121666, -1, _P) % _P
_ORDER_8 = (
    2707385501144840649318225287225658788936804267575313519463743609750303402022,
    55188659117513257062467267217118295137698188065244968500265048394206261417927,
)
LOW_ORDER_Y = frozenset({0, 1, _P - 1, *_ORDER_8})  # RFC 8032 curve: every y of a point whose order divides 8

_STANDARD = re.compile(r"[A-Za-z0-9+/]*={0,2}")
_URLSAFE = re.compile(r"[A-Za-z0-9_-]*={0,2}")


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature: `keyid` as it was given, and the raw bytes."""

    keyid: str
    raw: bytes


@dataclass(frozen=True, slots=True)
class Envelope:
    """A parsed envelope; the payload is not to be read before `signers` has said who signed it."""

    payload_type: str
    payload: bytes
    signatures: tuple[Signature, ...]


def pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE pre-authentication encoding: the bytes that are signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def decode(text: str, where: str) -> bytes:
    """Strict base64, standard or URL-safe, no whitespace, canonical padding bits."""
    urlsafe = _URLSAFE.fullmatch(text) is not None
    if not urlsafe and _STANDARD.fullmatch(text) is None:
        raise Refused("envelope.base64", where, "standard or URL-safe base64", text[:80])
    altchars = b"-_" if urlsafe else b"+/"
    try:
        data = base64.b64decode(text, altchars=altchars, validate=True)
    except (binascii.Error, ValueError) as bad:
        raise Refused("envelope.base64", where, "padded base64", str(bad)) from None
    if base64.b64encode(data, altchars).decode() != text:
        raise Refused("envelope.base64", where, "canonical base64", "spare bits that are not zero")
    return data


def _fields(value: object, names: set[str], where: str) -> dict[str, object]:
    if not isinstance(value, dict) or set(value) != names:
        raise Refused(
            "envelope.fields",
            where,
            f"an object with exactly {', '.join(sorted(names))}",
            sorted(value) if isinstance(value, dict) else value,
        )
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise Refused("envelope.fields", where, "a string", value)
    return value


def parse(data: bytes, where: str = "run.dsse.json") -> Envelope:
    """The envelope in `data`, or Refused; checks form only."""
    top = _fields(loads(data, where, limit=MAX_BYTES), {"payload", "payloadType", "signatures"}, where)
    listed = top["signatures"]
    if not isinstance(listed, list) or not 1 <= len(listed) <= MAX_SIGNATURES:
        raise Refused("envelope.signatures", where, f"1 to {MAX_SIGNATURES} signatures", listed)
    found = []
    for index, item in enumerate(listed):
        place = f"{where}: signature {index}"
        one = _fields(item, {"keyid", "sig"}, place)
        found.append(Signature(_text(one["keyid"], place), decode(_text(one["sig"], place), place)))
    return Envelope(_text(top["payloadType"], where), decode(_text(top["payload"], where), where), tuple(found))


def as_written(data: bytes, where: str) -> Envelope:
    """The envelope of a run, which has one writing only: canonical JSON, base64 in its standard alphabet, a final newline; or Refused."""
    made = parse(data, where)
    if _render(made) != data:
        raise Refused("envelope.canonical", where, "canonical JSON, a final newline, base64 in its standard alphabet", "another writing")
    return made


def _render(made: Envelope) -> bytes:
    listed = [{"keyid": one.keyid, "sig": base64.b64encode(one.raw).decode()} for one in made.signatures]
    document = {"payload": base64.b64encode(made.payload).decode(), "payloadType": made.payload_type, "signatures": listed}
    return canonical(document) + b"\n"


def spki(key: PublicKey) -> bytes:
    """DER SubjectPublicKeyInfo."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def keyid(key: PublicKey) -> str:
    """Hex SHA-256 of the DER SPKI."""
    return hashlib.sha256(spki(key)).hexdigest()


def algorithm(key: PublicKey) -> str:
    """`ed25519` or `ecdsa-p256-sha256`."""
    return "ed25519" if isinstance(key, Ed25519PublicKey) else "ecdsa-p256-sha256"


def load_key(data: bytes, where: str) -> PublicKey:
    """An allowed public key from SPKI, PEM or DER; or Refused."""
    try:
        key = load_pem_public_key(data) if data.startswith(b"-----BEGIN ") else load_der_public_key(data)
    except (ValueError, TypeError, UnsupportedAlgorithm) as bad:
        raise Refused("key.format", where, "a SubjectPublicKeyInfo, PEM or DER", str(bad) or "something else") from None
    if isinstance(key, Ed25519PublicKey):
        _check_order(key, where)
        return key
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return key
    raise Refused("key.algorithm", where, "Ed25519 or ECDSA P-256", type(key).__name__)


def _check_order(key: Ed25519PublicKey, where: str) -> None:
    y = int.from_bytes(key.public_bytes_raw(), "little") & (2**255 - 1)
    if y >= _P or y in LOW_ORDER_Y:
        raise Refused("key.order", where, "a point of full order", f"y = {y}")
    if not _on_curve(y):
        raise Refused("key.curve", where, "a point of the curve", f"y = {y}")


def _on_curve(y: int) -> bool:
    """Whether x^2 = (y^2 - 1) / (d y^2 + 1) has a root modulo p (RFC 8032 section 5.1.3), by Euler's criterion."""
    square = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    return pow(square, (_P - 1) // 2, _P) == 1


def signed_by(envelope: Envelope, signature: Signature, key: PublicKey) -> bool:
    """Whether `key` made `signature` over the envelope."""
    message = pae(envelope.payload_type, envelope.payload)
    try:
        if isinstance(key, Ed25519PublicKey):
            key.verify(signature.raw, message)
        else:
            key.verify(signature.raw, message, ECDSA(SHA256()))
    except InvalidSignature:
        return False
    return True


def signers(envelope: Envelope, keys: Iterable[PublicKey]) -> list[str | None]:
    """For each signature the keyid of the key among `keys` that made it, or None."""
    tried = {keyid(key): key for key in keys}
    return [next((name for name, key in tried.items() if signed_by(envelope, signature, key)), None) for signature in envelope.signatures]
