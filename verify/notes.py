"""C2SP checkpoints: signed notes that say how long a run log was and what its Merkle root was.

A note is three lines (origin, size, base64 root), a blank line, and one signature line. The bytes of a note are fixed
by what it says, so that a note changed in any byte is refused.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from verify.findings import Refused

ED25519 = b"\x01"
WHERE = "runlog/checkpoints.txt"
_NOTE = re.compile(
    r"(?P<origin>[!-~]{1,300})\n(?P<size>0|[1-9][0-9]{0,18})\n(?P<root>[A-Za-z0-9+/]{43}=)\n\n"
    r"— (?P<name>[!-~]{1,300}) (?P<sig>[A-Za-z0-9+/]{91}=)\n"
)


@dataclass(frozen=True, slots=True)
class Note:
    """A parsed checkpoint: `size` entries had the 32-byte `root`."""

    origin: str
    size: int
    root: bytes
    signature: bytes


def body(origin: str, size: int, root: bytes) -> str:
    """The text that a checkpoint signs."""
    return f"{origin}\n{size}\n{base64.b64encode(root).decode()}\n"


def key_hash(origin: str, public: bytes) -> bytes:
    """The 4 bytes that tell which key signed: of SHA-256(name || newline || 0x01 || 32-byte public key)."""
    return hashlib.sha256(origin.encode() + b"\n" + ED25519 + public).digest()[:4]


def render(note: Note) -> str:
    """The note as it stands in checkpoints.txt, without the blank line that follows."""
    return f"{body(note.origin, note.size, note.root)}\n— {note.origin} {base64.b64encode(note.signature).decode()}\n"


def parse(text: str, where: str = WHERE) -> Note:
    """One note from its exact text, or Refused."""
    match = _NOTE.fullmatch(text)
    if match is None:
        raise Refused("log.checkpoint", where, "a C2SP checkpoint with one signature", text)
    note = Note(match["origin"], int(match["size"]), base64.b64decode(match["root"]), base64.b64decode(match["sig"]))
    if match["name"] != note.origin or render(note) != text:
        raise Refused("log.checkpoint", where, "a canonical checkpoint signed under its origin", text)
    return note


def split(data: bytes) -> Iterator[Note]:
    """Every note of checkpoints.txt in order, or Refused."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused("log.checkpoint", WHERE, "UTF-8", "other bytes") from None
    lines = text.split("\n")
    if lines.pop() != "" or len(lines) % 6:
        raise Refused("log.checkpoint", WHERE, "notes of five lines with a blank line after each", f"{len(lines)} lines")
    for index in range(0, len(lines), 6):
        where = f"{WHERE}: note {index // 6}"
        if lines[index + 5]:
            raise Refused("log.checkpoint", where, "a blank line after the note", lines[index + 5])
        yield parse("\n".join(lines[index : index + 5]) + "\n", where)


def verify(note: Note, key: Ed25519PublicKey, where: str = WHERE) -> None:
    """Refuse a note that `key` did not sign."""
    public = key.public_bytes_raw()
    if note.signature[:4] != key_hash(note.origin, public):
        raise Refused("log.checkpoint", where, "the signer's key hash", note.signature[:4].hex())
    try:
        key.verify(note.signature[4:], body(note.origin, note.size, note.root).encode())
    except InvalidSignature:
        raise Refused("log.checkpoint", where, "a signature by the signer's key", "one that does not verify") from None
