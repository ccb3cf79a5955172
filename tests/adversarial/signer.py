"""The signer is the adversary: whole seals over what no honest kit writes, made with a key that holds."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.adversarial.attacks import add, envelope, logged
from tests.adversarial.builder import KEY, PRETRAIN, RUN_KEY, TEXT
from verify import notes
from verify.envelope import pae
from verify.merkle import root_of
from verify.strict import canonical

PAYLOAD_TYPE = "application/vnd.in-toto+json"
ED25519_SPKI = bytes.fromhex("302a300506032b6570032100")


@dataclass(frozen=True)
class Signer:
    """A key as its DER SubjectPublicKeyInfo, and how it signs."""

    spki: bytes
    sign: Callable[[bytes], bytes]

    @property
    def keyid(self) -> str:
        return hashlib.sha256(self.spki).hexdigest()

    @property
    def pem(self) -> bytes:
        return b"-----BEGIN PUBLIC KEY-----\n" + base64.b64encode(self.spki) + b"\n-----END PUBLIC KEY-----\n"


OWN = Signer(KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), KEY.sign)
LOG = Signer(RUN_KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), RUN_KEY.sign)
IDENTITY = b"\x01" + bytes(31)
ANYBODY = Signer(ED25519_SPKI + IDENTITY, lambda _: IDENTITY + bytes(32))  # holds for every message, where a verifier takes the key


def statement_of(run: Path) -> dict[str, Any]:
    return dict(json.loads(base64.b64decode(json.loads((run / "run.dsse.json").read_bytes())["payload"])))


def sign_payload(run: Path, payload: bytes, signer: Signer = OWN) -> None:
    """An envelope over these very bytes."""
    signature = base64.b64encode(signer.sign(pae(PAYLOAD_TYPE, payload))).decode()
    document = {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"keyid": signer.keyid, "sig": signature}],
    }
    (run / "run.dsse.json").write_bytes(canonical(document) + b"\n")


def seal_over(run: Path, sums: bytes, signer: Signer = OWN) -> None:
    """SHA256SUMS, the log's last entry, every checkpoint and the statement, all made anew over `sums`."""
    digest = hashlib.sha256(sums).hexdigest()
    (run / "SHA256SUMS").write_bytes(sums)
    path = run / "runlog/entries.jsonl"
    lines = path.read_bytes().splitlines()
    lines[-1] = canonical(json.loads(lines[-1]) | {"sums_sha256": digest})
    path.write_bytes(b"\n".join(lines) + b"\n")
    said = statement_of(run)
    checkpoints(run, lines, said["predicate"]["log"]["origin"], LOG if signer is OWN else signer)
    said["subject"][0]["digest"]["sha256"] = digest
    said["predicate"]["log"]["root"] = base64.b64encode(root_of(lines)).decode()
    sign_payload(run, canonical(said), signer)


def checkpoints(run: Path, lines: list[bytes], origin: str, signer: Signer) -> None:
    """The notes of the same sizes, signed anew."""
    path = run / "runlog/checkpoints.txt"
    made = []
    for size in (note.size for note in notes.split(path.read_bytes())):
        root = root_of(lines[:size])
        raw = notes.key_hash(origin, signer.spki[-32:]) + signer.sign(notes.body(origin, size, root).encode())
        made.append(notes.render(notes.Note(origin, size, root, raw)) + "\n")
    path.write_text("".join(made), encoding="utf-8")


def listed(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[Path], None]:
    """Other lines in SHA256SUMS, sealed."""

    def act(run: Path) -> None:
        seal_over(run, b"".join(change((run / "SHA256SUMS").read_bytes().splitlines(keepends=True))))

    return act


def payload(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Other bytes in the payload, signed."""
    return lambda run: sign_payload(run, change(canonical(statement_of(run))))


def everybody(run: Path) -> None:
    """A run that seals with a key under which anybody's signature holds."""
    (run / "evidence/signer.pub.pem").write_bytes(ANYBODY.pem)
    old = (run / "SHA256SUMS").read_bytes().splitlines(keepends=True)
    digest = hashlib.sha256(ANYBODY.pem).hexdigest().encode()
    seal_over(run, b"".join(digest + line[64:] if line.endswith(b"  signer.pub.pem\n") else line for line in old), ANYBODY)


def line(path: str) -> bytes:
    return b"%s  %s\n" % (hashlib.sha256(b"").hexdigest().encode(), path.encode())


def claim(value: str) -> Callable[[dict[str, Any]], None]:
    return lambda said: said["predicate"]["claims"][-1].update(value=value)


SUMS = ("tree.missing", "log.files")
add(
    "tree.missing",
    "tampered",
    "a path that climbs out, sealed",
    listed(lambda old: sorted([*old, line("../outside")], key=lambda x: x[66:])),
    *SUMS,
)
add(
    "tree.missing",
    "tampered",
    "an absolute path, sealed",
    listed(lambda old: sorted([*old, line("/etc/hostname")], key=lambda x: x[66:])),
    *SUMS,
)
add("tree.sums", "tampered", "no file listed, sealed", listed(lambda _: []))
add("tree.sums", "tampered", "a path twice, sealed", listed(lambda old: [*old, old[-1]]))
add("tree.extra", "tampered", "a log left out, sealed", listed(lambda old: [x for x in old if b"stderr" not in x]), *SUMS)
add("key.order", "tampered", "a whole run under a key of low order", everybody, "envelope.signature", "log.checkpoint")
add("json.duplicate", "tampered", "two subjects, signed", payload(lambda d: d.replace(b'"subject":', b'"subject":[],"subject":', 1)))
add("json.duplicate", "tampered", "a key twice by case, signed", payload(lambda d: d.replace(b'"chip":', b'"Chip":"x","chip":', 1)))
add("json.number", "tampered", "NaN, signed", payload(lambda d: d.replace(b'"image":null', b'"image":NaN', 1)))
add("json.number", "tampered", "a size beyond 2^53, signed", payload(lambda d: d.replace(b'"size":', b'"size":9007199254740993,"x":', 1)))
add("json.depth", "tampered", "deep nesting, signed", payload(lambda d: d.replace(b'"image":null', b'"image":' + b"[" * 60 + b"]" * 60, 1)))
add("json.encoding", "tampered", "half a surrogate pair, signed", payload(lambda d: d.replace(b'"chip":"cpu"', b'"chip":"\\ud800"', 1)))
add("envelope.signatures", "tampered", "17 signatures", lambda run: envelope(run, lambda d: d.update(signatures=d["signatures"] * 17)))
add("statement.schema", "restated", "a decimal comma", claim("1,0"))
add("statement.schema", "restated", "a value with an exponent", claim("1e3"))
add("statement.schema", "restated", "a hexadecimal value", claim("0x1p3"))
add(
    "statement.schema",
    "restated",
    "a trailing zero",
    lambda s: s["predicate"]["claims"][-1].update(value=s["predicate"]["claims"][-1]["value"] + ".0"),
)
add("case.handed", "sealed", "one case run as another", lambda b: b.handed.update({TEXT: {"case": b.plan.cases[0], "attempt": 1}}))
add(
    "events.schema",
    "sealed",
    "a kind of event that steers a terminal",
    lambda b: b.step(1).update(e="\x1b[2J\r\u202e<script>\nverdict: VERIFIED"),
)
add("events.schema", "sealed", "a truth value for a loss", lambda b: b.step(1).update(loss=True))
add("events.schema", "sealed", "a text for a loss", lambda b: b.step(1).update(loss="3.5"))
logged("log.attempts", "an end of an attempt that never began", [{"type": "case-end", "case": PRETRAIN, "attempt": 2, "state": "failed", "reason": "x"}],
       "log.checkpoint_missing", "cases.attempts")  # fmt: skip
