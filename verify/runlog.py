"""Replays the run log: entries in sequence, attempts in pairs, checkpoints signed, and all of it bound by the statement.

The log is append-only by the vendor's word alone; what it binds is the order of attempts, so that none can be left out
once the run is sealed.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from verify import notes
from verify.envelope import PublicKey
from verify.files import Evidence
from verify.findings import Finding, Refused, error, warning
from verify.merkle import Frontier
from verify.strict import loads

ENTRIES = "entries.jsonl"
CHECKPOINTS = "checkpoints.txt"
ORIGIN = "chipassay.dev/run/"
NOT_LOGGED = frozenset({"cases.json", "signer.pub.pem"})  # written while sealing, bound by SHA256SUMS alone

Natural = Annotated[int, msgspec.Meta(ge=0)]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class Entry(msgspec.Struct, frozen=True, tag_field="type", forbid_unknown_fields=True):
    """One line of the log."""

    n: Natural
    wall_ns: Natural
    monotonic_ns: Natural


class Open(Entry, frozen=True, tag="open"):
    """First entry: what was opened, with which plan and kit."""

    run: str
    plan_sha256: Sha256
    kit_version: str
    worker_sha256: Sha256
    isolation: Literal["container", "environment", "none"]
    challenge_sha256: Sha256 | None
    run_key: Sha256


class Resume(Entry, frozen=True, tag="resume"):
    """A later process goes on, and signs with this key; clocks may start anew."""

    run_key: Sha256


class Recovered(Entry, frozen=True, tag="recovered"):
    """A torn line was cut off and kept in the file `torn`."""

    torn: Annotated[str, msgspec.Meta(pattern="^torn-[0-9]{1,6}$")]
    torn_sha256: Sha256
    size_bytes: Natural


class CaseStart(Entry, frozen=True, tag="case-start"):
    """An attempt begins."""

    case: str
    attempt: Annotated[int, msgspec.Meta(ge=1)]


class File(Entry, frozen=True, tag="file"):
    """A closed file below evidence/."""

    path: str
    size_bytes: Natural
    sha256: Sha256


class CaseEnd(Entry, frozen=True, tag="case-end"):
    """An attempt has ended."""

    case: str
    attempt: Annotated[int, msgspec.Meta(ge=1)]
    state: Literal["done", "failed", "interrupted"]
    reason: str | None


class Close(Entry, frozen=True, tag="close"):
    """The run was sealed over SHA256SUMS with this digest."""

    sums_sha256: Sha256


AnyEntry = Open | Resume | Recovered | CaseStart | File | CaseEnd | Close


@dataclass(slots=True)
class Log:
    """What the log says; `roots` maps a tree size to its root wherever a checkpoint may stand."""

    entries: list[Any] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    roots: dict[int, bytes] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Number of entries."""
        return len(self.entries)

    def attempts(self) -> dict[str, list[dict[str, Any]]]:
        """Case id -> its attempts in order, as cases.json must state them."""
        found: dict[str, list[dict[str, Any]]] = {}
        for entry in self.entries:
            if isinstance(entry, CaseStart):
                found.setdefault(entry.case, []).append({"attempt": entry.attempt, "state": "interrupted", "reason": "no end was logged"})
            elif isinstance(entry, CaseEnd) and entry.case in found:
                found[entry.case][-1] |= {"state": entry.state, "reason": entry.reason}
        return found


def read(folder: Path) -> Log:
    """Every entry of RUN/runlog, checked for form, sequence, time and pairing."""
    source, log, frontier = Evidence(folder), Log(), Frontier()
    try:
        for number, line in enumerate(source.lines(ENTRIES)):
            where = f"runlog/{ENTRIES}:{number + 1}"
            log.entries.append(_entry(line, where))
            frontier.add(line)
            log.roots[frontier.size] = frontier.root()
    except Refused as bad:
        log.findings.append(bad.finding)
        return log
    log.findings += [*_sequence(log.entries), *_pairs(log.entries), *_torn(log.entries, source)]
    return log


def _entry(line: bytes, where: str) -> AnyEntry:
    try:
        entry: AnyEntry = msgspec.convert(loads(line, where), AnyEntry)
    except msgspec.ValidationError as bad:
        raise Refused("log.entry", where, "an entry with exactly its fields", str(bad)) from None
    return entry


def _sequence(entries: list[AnyEntry]) -> Iterator[Finding]:
    before: AnyEntry | None = None
    for index, entry in enumerate(entries):
        where = f"runlog/{ENTRIES}:{index + 1}"
        if entry.n != index:
            yield error("log.sequence", where, f"n = {index}", entry.n)
        if isinstance(entry, Open) != (index == 0):
            yield error("log.open", where, "open as the first entry and nowhere else", type(entry).__name__)
        restarted = isinstance(entry, Resume | Recovered)
        if before is not None and not restarted and entry.monotonic_ns < before.monotonic_ns:
            yield error("log.time", where, f"monotonic_ns of at least {before.monotonic_ns}", entry.monotonic_ns)
        if before is not None and entry.wall_ns < before.wall_ns:
            yield warning("log.wall", where, f"wall_ns of at least {before.wall_ns}", entry.wall_ns)
        if isinstance(before, Close) and not restarted:
            yield error("log.close", where, "resume after close", type(entry).__name__)
        before = entry


def _pairs(entries: list[AnyEntry]) -> Iterator[Finding]:
    """Attempts are numbered from 1, one is open at a time, each is ended before the log closes."""
    open_now: tuple[str, int] | None = None
    counts: dict[str, int] = {}
    done: set[str] = set()
    for index, entry in enumerate(entries):
        where = f"runlog/{ENTRIES}:{index + 1}"
        if isinstance(entry, CaseStart):
            counts[entry.case] = counts.get(entry.case, 0) + 1
            if open_now is not None or entry.attempt != counts[entry.case]:
                yield error(
                    "log.attempts", where, f"attempt {counts[entry.case]} with no other open", f"attempt {entry.attempt}, open: {open_now}"
                )
            if entry.case in done:
                yield warning("log.retry", where, "no attempt after the first completed one", f"attempt {entry.attempt}; it does not count")
            open_now = (entry.case, entry.attempt)
        elif isinstance(entry, CaseEnd):
            if open_now != (entry.case, entry.attempt):
                yield error("log.attempts", where, f"the end of {open_now}", (entry.case, entry.attempt))
            if entry.state == "done":
                done.add(entry.case)
            open_now = None
        elif isinstance(entry, Close) and open_now is not None:
            yield error("log.attempts", where, f"the end of {open_now}", "close")


def _torn(entries: list[AnyEntry], source: Evidence) -> Iterator[Finding]:
    """Every torn-<n> is as a `recovered` entry says, and none is unnamed."""
    named = {entry.torn: entry for entry in entries if isinstance(entry, Recovered)}
    present = {name for name in source.names(".") if name not in {ENTRIES, CHECKPOINTS}}
    for name in sorted(named.keys() | present):
        where = f"runlog/{name}"
        if name not in named:
            yield error("log.torn", where, "a file that a recovered entry names", "another")
            continue
        try:
            data = source.read(name)
        except Refused as bad:
            yield error("log.torn", where, bad.finding.expected, bad.finding.found)
            continue
        if (hashlib.sha256(data).hexdigest(), len(data)) != (named[name].torn_sha256, named[name].size_bytes):
            yield error(
                "log.torn", where, f"{named[name].size_bytes} bytes, {named[name].torn_sha256}", f"{len(data)} bytes, other content"
            )


def checkpoints(folder: Path, log: Log, origin: str, key: Callable[[int], PublicKey | None]) -> Iterator[Finding]:
    """Every checkpoint is signed by the key that `key` gives for its size, has the log's root there, and none is missing."""
    try:
        found = list(notes.split(Evidence(folder).read(CHECKPOINTS)))
    except Refused as bad:
        yield bad.finding
        return
    sizes = [note.size for note in found]
    if sorted(set(sizes)) != sizes:
        yield error("log.checkpoint", notes.WHERE, "sizes that grow", sizes[:20])
    for index, note in enumerate(found):
        yield from _checkpoint(note, log, origin, key(note.size), f"{notes.WHERE}: note {index}")
    for size in sorted(_due(log) - set(sizes)):
        yield error("log.checkpoint_missing", notes.WHERE, f"a checkpoint of size {size}", "none")


def _checkpoint(note: notes.Note, log: Log, origin: str, key: PublicKey | None, where: str) -> Iterator[Finding]:
    if note.origin != origin:
        yield error("log.checkpoint", where, f"origin {origin}", note.origin)
    if log.roots.get(note.size) != note.root:
        yield error("log.checkpoint", where, "the log's root at that size", f"size {note.size}, another root")
    if not isinstance(key, Ed25519PublicKey):
        yield error("log.checkpoint", where, "an Ed25519 key certified for the run", "none")
        return
    try:
        notes.verify(note, key, where)
    except Refused as bad:
        yield bad.finding


def _due(log: Log) -> set[int]:
    """Tree sizes at which a checkpoint must stand: at each case end and close that a crash did not follow at once."""
    ends = {index + 1 for index, entry in enumerate(log.entries) if isinstance(entry, CaseEnd | Close)}
    return {size for size in ends if size == log.size or not isinstance(log.entries[size], Resume | Recovered)}


def files(log: Log, listed: dict[str, str], sizes: dict[str, int]) -> Iterator[Finding]:
    """`file` entries and SHA256SUMS name the same files with the same digests and sizes."""
    named: set[str] = set()
    for entry in log.entries:
        if not isinstance(entry, File):
            continue
        named.add(entry.path)
        if listed.get(entry.path) != entry.sha256 or sizes.get(entry.path, entry.size_bytes) != entry.size_bytes:
            yield error("log.files", entry.path, f"{entry.sha256}, {entry.size_bytes} bytes", listed.get(entry.path, "not listed"))
    for path in sorted(listed.keys() - named - NOT_LOGGED):
        yield error("log.files", path, "a file entry in the run log", "none")


def closing(log: Log, sums: bytes) -> Iterator[Finding]:
    """The last entry closes the log over these SHA256SUMS."""
    last = log.entries[-1] if log.entries else None
    digest = hashlib.sha256(sums).hexdigest()
    if not isinstance(last, Close) or last.sums_sha256 != digest:
        yield error("log.close", f"runlog/{ENTRIES}", f"close over SHA256SUMS {digest} as the last entry", type(last).__name__)


def bound(log: Log, stated: dict[str, Any]) -> Iterator[Finding]:
    """The statement's `log` names this log's origin form, size and root."""
    root = base64.b64encode(log.roots.get(log.size, b"")).decode()
    for name, expected in (("size", log.size), ("root", root)):
        if stated[name] != expected:
            yield error("log.root", f"statement log.{name}", stated[name], expected)
