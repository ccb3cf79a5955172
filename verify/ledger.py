"""The lab's ledger: an append-only Merkle log of what it did with every challenge, so that nothing can be done in secret.

Each entry is followed by a checkpoint that the lab signed. A nonce is used once; a challenge goes through its states
in one direction, and a run that was received without an audit is a failed one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from verify import notes
from verify.envelope import PublicKey
from verify.files import Evidence
from verify.findings import Finding, Refused, error
from verify.merkle import Frontier
from verify.strict import loads

ORIGIN = "chipassay.dev/lab/"
ENTRIES = "entries.jsonl"
CHECKPOINTS = "checkpoints.txt"

Natural = Annotated[int, msgspec.Meta(ge=0)]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class Entry(msgspec.Struct, frozen=True, tag_field="type", forbid_unknown_fields=True):
    """One line; `challenge` is the payload digest of the challenge that it is about."""

    n: Natural
    wall_ns: Natural
    challenge: Sha256


class Challenge(Entry, frozen=True, tag="challenge"):
    """A challenge was issued; of its nonce only the digest is told."""

    nonce_sha256: Sha256


class Receipt(Entry, frozen=True, tag="receipt"):
    """A run was received and verified: payload digests of the receipt and of the vendor's statement."""

    sha256: Sha256
    run_sha256: Sha256


class Reveal(Entry, frozen=True, tag="reveal"):
    """The secret was told: payload digest of the reveal."""

    sha256: Sha256


class RunStart(Entry, frozen=True, tag="run-start"):
    """The lab began a run of its own, named by the SHA-256 of its name; `repeat` 0 is the first of its purpose."""

    name_sha256: Sha256
    purpose: Literal["sample", "full"]
    repeat: Annotated[int, msgspec.Meta(ge=0, le=100)]


class RunEnd(Entry, frozen=True, tag="run-end"):
    """That run was sealed: payload digest of its statement."""

    name_sha256: Sha256
    sha256: Sha256


class Audit(Entry, frozen=True, tag="audit"):
    """An audit was signed: its payload digest and verdict."""

    sha256: Sha256
    verdict: Literal["pass", "fail", "partial"]


class Failed(Entry, frozen=True, tag="failed"):
    """The audit ended without the vendor: withdrawn after the receipt, hardware not there, time over."""

    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]


class Publication(Entry, frozen=True, tag="publication"):
    """The result was published: payload digest of the publication."""

    sha256: Sha256


class Withdrawal(Entry, frozen=True, tag="withdrawal"):
    """The publication was withdrawn: payload digest of the withdrawal."""

    sha256: Sha256


AnyEntry = Challenge | Receipt | Reveal | RunStart | RunEnd | Audit | Failed | Publication | Withdrawal

# Kind of entry (an audit by its verdict) -> state before -> state after. Nothing leads back, and nothing leaves `failed`.
STEPS: dict[str, dict[str, str]] = {
    "Challenge": {"new": "open"},
    "Receipt": {"open": "receipted"},
    "Reveal": {"receipted": "revealed"},
    "RunStart": {"revealed": "revealed"},
    "RunEnd": {"revealed": "revealed"},
    "Audit partial": {"revealed": "revealed"},
    "Audit pass": {"revealed": "audited"},
    "Audit fail": {"revealed": "failed"},
    "Failed": {"receipted": "failed", "revealed": "failed", "audited": "failed"},
    "Publication": {"audited": "published"},
    "Withdrawal": {"published": "withdrawn"},
}


def step(entry: AnyEntry) -> str:
    """The name of an entry in STEPS."""
    return f"Audit {entry.verdict}" if isinstance(entry, Audit) else type(entry).__name__


@dataclass(slots=True)
class Ledger:
    """What the ledger says; `states` maps a challenge to how far it has come, `roots` a size to its root."""

    entries: list[AnyEntry] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    roots: dict[int, bytes] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    nonces: set[str] = field(default_factory=set)
    tree: Frontier = field(default_factory=Frontier)

    def of(self, challenge: str) -> list[AnyEntry]:
        """The entries on one challenge, in order."""
        return [entry for entry in self.entries if entry.challenge == challenge]

    def digests(self, challenge: str, kind: type[Entry]) -> list[str]:
        """Payload digests of the statements of one kind on one challenge, in order."""
        return [str(getattr(entry, "sha256")) for entry in self.of(challenge) if isinstance(entry, kind)]  # noqa: B009 - not all kinds have it


def read(folder: Path) -> Ledger:
    """Every entry in `folder`, checked for form, sequence, nonces and states."""
    ledger = Ledger()
    try:
        for line in Evidence(folder).lines(ENTRIES):
            entry = parse(line, f"ledger/{ENTRIES}:{len(ledger.entries) + 1}")
            ledger.findings += faults(ledger, entry)
            add(ledger, entry, line)
    except Refused as bad:
        ledger.findings.append(bad.finding)
    return ledger


def parse(line: bytes, where: str) -> AnyEntry:
    """The entry in a line, or Refused."""
    try:
        entry: AnyEntry = msgspec.convert(loads(line, where), AnyEntry)
    except msgspec.ValidationError as bad:
        raise Refused("ledger.entry", where, "an entry with exactly its fields", str(bad)) from None
    return entry


def faults(ledger: Ledger, entry: AnyEntry) -> Iterator[Finding]:
    """What is wrong with an entry after those before it."""
    where = f"ledger/{ENTRIES}:{len(ledger.entries) + 1}"
    if entry.n != len(ledger.entries):
        yield error("ledger.sequence", where, f"n = {len(ledger.entries)}", entry.n)
    if ledger.entries and entry.wall_ns < ledger.entries[-1].wall_ns:
        yield error("ledger.time", where, f"wall_ns of at least {ledger.entries[-1].wall_ns}", entry.wall_ns)
    if isinstance(entry, Challenge) and entry.nonce_sha256 in ledger.nonces:
        yield error("ledger.nonce", where, "a nonce that was never used", "one used before")
    state, allowed = ledger.states.get(entry.challenge, "new"), STEPS[step(entry)]
    if state not in allowed:
        yield error("ledger.state", where, f"{step(entry)} from {' or '.join(sorted(allowed))}", f"from {state}")


def add(ledger: Ledger, entry: AnyEntry, line: bytes) -> None:
    """Take an entry in; its challenge moves on."""
    ledger.entries.append(entry)
    ledger.tree.add(line)
    ledger.roots[ledger.tree.size] = ledger.tree.root()
    if isinstance(entry, Challenge):
        ledger.nonces.add(entry.nonce_sha256)
    state = ledger.states.get(entry.challenge, "new")
    ledger.states[entry.challenge] = STEPS[step(entry)].get(state, state)


def checkpoints(folder: Path, ledger: Ledger, lab: str, keys: list[PublicKey]) -> Iterator[Finding]:
    """One checkpoint of the lab after each entry, with the ledger's root and a signature by one of the lab's keys."""
    try:
        found = list(notes.split(Evidence(folder).read(CHECKPOINTS)))
    except Refused as bad:
        yield error("ledger.checkpoint", f"ledger/{CHECKPOINTS}", bad.finding.expected, bad.finding.found)
        return
    if [note.size for note in found] != list(range(1, len(ledger.entries) + 1)):
        yield error("ledger.checkpoint", f"ledger/{CHECKPOINTS}", "one checkpoint after each entry", [note.size for note in found][:20])
    for index, note in enumerate(found):
        where = f"ledger/{CHECKPOINTS}: note {index}"
        if (note.origin, note.root) != (ORIGIN + lab, ledger.roots.get(note.size)):
            yield error("ledger.checkpoint", where, f"the ledger's root under {ORIGIN}{lab}", f"another under {note.origin}")
        if not any(isinstance(key, Ed25519PublicKey) and _signed(note, key) for key in keys):
            yield error("ledger.checkpoint", where, f"a signature by a key of {lab}", "none that verifies")


def _signed(note: notes.Note, key: Ed25519PublicKey) -> bool:
    try:
        notes.verify(note, key)
    except Refused:
        return False
    return True
