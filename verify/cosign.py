"""C2SP cosignatures: what witnesses outside the vendor's reach saw of a run log, when, and what nobody saw in time.

A cosigned note is a checkpoint (origin, size, root), the log's own signature, and one line for each witness: key hash,
time in seconds, Ed25519. What is older than the last cosignature cannot be rewritten; inside the window it can.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from verify import notes
from verify.findings import Finding, Refused, error, notice
from verify.policy import Moment, Named, Policy
from verify.runlog import COSIGNATURES, Log

COSIGNATURE = b"\x04"
WHERE = f"runlog/{COSIGNATURES}"
KIND = "witness"
RULE = "cosignature/v1"
NS_PER_S = 10**9
MAX_WITNESSES = 16
_NOTE = re.compile(
    r"(?P<own>[!-~]{1,300}\n(?:0|[1-9][0-9]{0,18})\n[A-Za-z0-9+/]{43}=\n\n— [!-~]{1,300} [A-Za-z0-9+/]{91}=\n)"
    rf"(?P<lines>(?:— [!-~]{{1,300}} [A-Za-z0-9+/]{{102}}==\n){{1,{MAX_WITNESSES}}})\n"
)


@dataclass(frozen=True, slots=True)
class Cosignature:
    """One witness saw a checkpoint at `time_s` (Unix time)."""

    name: str
    key_hash: bytes
    time_s: int
    signature: bytes

    def by(self, key: Ed25519PublicKey) -> bool:
        """Whether the key hash is that of this key under this name."""
        return self.key_hash == key_hash(self.name, key)

    def holds(self, key: Ed25519PublicKey, body: str) -> bool:
        """Whether the signature is that of this key over the checkpoint."""
        try:
            key.verify(self.signature, message(self.time_s, body))
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Cosigned:
    """A checkpoint and who saw it."""

    note: notes.Note
    cosignatures: tuple[Cosignature, ...]

    @property
    def body(self) -> str:
        """The text that is signed."""
        return notes.body(self.note.origin, self.note.size, self.note.root)


def key_hash(name: str, key: Ed25519PublicKey) -> bytes:
    """The 4 bytes that tell which witness signed: of SHA-256(name || newline || 0x04 || 32-byte public key)."""
    return hashlib.sha256(name.encode() + b"\n" + COSIGNATURE + key.public_bytes_raw()).digest()[:4]


def message(time_s: int, body: str) -> bytes:
    """What a witness signs (C2SP tlog-cosignature, Ed25519)."""
    return f"cosignature/v1\ntime {time_s}\n{body}".encode()


def render(name: str, key: Ed25519PublicKey, time_s: int, signature: bytes) -> str:
    """A cosignature line with its newline."""
    blob = key_hash(name, key) + time_s.to_bytes(8, "big") + signature
    return f"— {name} {base64.b64encode(blob).decode()}\n"


def split(data: bytes, where: str = WHERE) -> list[Cosigned]:
    """Every cosigned note in order, or Refused."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused("witness.form", where, "UTF-8", "other bytes") from None
    found, at = [], 0
    while at < len(text):
        match = _NOTE.match(text, at)
        if match is None:
            raise Refused("witness.form", where, "checkpoints with cosignatures, a blank line after each", text[at : at + 80])
        lines = tuple(_line(line, where) for line in match["lines"].splitlines())
        found.append(Cosigned(notes.parse(match["own"], where), lines))
        at = match.end()
    return found


def _line(line: str, where: str) -> Cosignature:
    _, name, text = line.split(" ")
    blob = base64.b64decode(text)
    if base64.b64encode(blob).decode() != text:
        raise Refused("witness.form", where, "canonical base64", text)
    return Cosignature(name, blob[:4], int.from_bytes(blob[4:12], "big"), blob[12:])


@dataclass(slots=True)
class Seen:
    """Which tree sizes a quorum of witnesses had seen, and by when."""

    by: dict[int, int]
    witnesses: set[str]
    count: int = 0


def quorum(trust: Policy) -> int:
    """How many distinct witnesses must have seen a checkpoint: the policy's rule for cosignatures, else one."""
    return max((rule.threshold for rule in trust.rules.get(RULE, ())), default=1)


def judge(found: Iterable[Cosigned], log: Log, origin: str, named: Mapping[str, Named], quorum: int) -> tuple[Seen, list[Finding]]:
    """Sizes that `quorum` distinct witnesses of the policy had seen, and what is wrong with their cosignatures."""
    seen, findings = Seen({}, set()), []
    witnesses = [item for item in named.values() if item.kind == KIND and isinstance(item.key, Ed25519PublicKey)]
    for cosigned in found:
        where = f"{WHERE}: size {cosigned.note.size}"
        times: dict[str, int] = {}
        for cosignature in cosigned.cosignatures:
            signer = next((item for item in witnesses if isinstance(item.key, Ed25519PublicKey) and cosignature.by(item.key)), None)
            if signer is None:
                findings.append(notice("witness.unknown", where, "a witness that the policy names", cosignature.name))
            elif fault := _fault(cosigned, cosignature, signer, log, origin, where):
                findings.append(fault)
            else:
                times[signer.party] = min(cosignature.time_s, times.get(signer.party, cosignature.time_s))
        seen.witnesses |= times.keys()
        seen.count += len(times)
        if len(times) >= quorum:
            seen.by[cosigned.note.size] = sorted(times.values())[quorum - 1]
    return seen, findings


def _fault(cosigned: Cosigned, by: Cosignature, signer: Named, log: Log, origin: str, where: str) -> Finding | None:
    """Why a cosignature by a witness of the policy does not fit this log."""
    key, note = signer.key, cosigned.note
    if not isinstance(key, Ed25519PublicKey) or not by.holds(key, cosigned.body):
        return error("witness.signature", where, f"a signature by {signer.party}", "one that does not verify")
    moment = _moment(by.time_s)
    if moment is None:
        return error("witness.window", where, "a time that a calendar has", f"second {by.time_s}")
    if fault := next(signer.faults(moment), None):
        return error("witness.window", where, fault.expected, fault.found)
    if note.origin != origin:
        return error("witness.origin", where, origin, note.origin)
    if note.size > log.size:
        return error("witness.rollback", where, f"the {note.size} entries that {signer.party} saw", f"{log.size} entries")
    if log.roots.get(note.size) != note.root:
        return error("witness.fork", where, f"the history that {signer.party} saw", "another root at that size")
    return None


def _moment(time_s: int) -> Moment | None:
    try:
        return Moment(datetime.datetime.fromtimestamp(time_s, datetime.UTC))
    except (OverflowError, ValueError, OSError):
        return None


def unwitnessed(seen: Seen, log: Log) -> dict[str, Any]:
    """The longest stretch of entries, and of seconds, that could be rewritten before a quorum of witnesses saw it.

    Times of witnesses count from cosignature to cosignature; the first stretch begins and the last ends by the log's
    own clock, since nobody else's is known there.
    """
    begin = log.entries[0].wall_ns // NS_PER_S if log.entries else 0
    end = -(-log.last.wall_ns // NS_PER_S) if log.last else begin
    marks = [(0, begin), *sorted(seen.by.items())]
    if marks[-1][0] < log.size:
        marks.append((log.size, max(end, marks[-1][1])))
    pairs = list(itertools.pairwise(marks))
    return {
        "entries": max((later[0] - earlier[0] for earlier, later in pairs), default=0),
        "seconds": max((max(later[1] - earlier[1], 0) for earlier, later in pairs), default=0),
        "cosignatures": seen.count,
        "witnesses": sorted(seen.witnesses),
    }


def sizes(found: Iterable[Cosigned]) -> Iterator[int]:
    """Tree sizes at which witnesses saw the log."""
    return (cosigned.note.size for cosigned in found)
