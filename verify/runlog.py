"""Replays the run log: entries in sequence, attempts in pairs, checkpoints signed, and all of it bound by the statement.

The log is append-only by the vendor's word alone; what it binds is the order of attempts, so that none can be left out
once the run is sealed.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from verify import heartbeat, notes
from verify.envelope import PublicKey
from verify.files import Evidence
from verify.findings import Finding, Refused, error, notice, warning
from verify.merkle import Frontier
from verify.strict import loads

ENTRIES = "entries.jsonl"
CHECKPOINTS = "checkpoints.txt"
COSIGNATURES = "cosignatures.txt"
NAMES = frozenset({ENTRIES, CHECKPOINTS, COSIGNATURES})
ORIGIN = "chipassay.dev/run/"
SHOWN_MISSING = 20
RULES = {
    "heartbeat.prefix": "what a heartbeat says of an open segment is what the final file begins with, and sizes only grow",
    "log.checkpoint_missing": "a checkpoint stands behind each heartbeat, case end and close that no crash followed",
    "log.clock_step": "where wall and monotonic clock go apart, a clock-step entry says by how much",
    "log.clock_set": "no wall clock was set while the run went on",
    "log.wall": "the wall clock never goes back",
    "log.gap": "an open case has an entry every few heartbeats",
    "witness.form": "cosignatures are C2SP notes",
    "witness.signature": "a cosignature by a key of the policy verifies",
    "witness.window": "a witness signs while its key is valid",
    "witness.origin": "a cosignature is for this run",
    "witness.rollback": "the log has all entries that a witness saw",
    "witness.fork": "the log has the history that a witness saw",
    "witness.unknown": "cosignatures are by witnesses that the policy names",
}
NOT_LOGGED = frozenset({"cases.json", "signer.pub.pem"})  # written while sealing, bound by SHA256SUMS alone

Natural = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Signed = Annotated[int, msgspec.Meta(ge=-(2**63) + 1, le=2**63 - 1)]
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
    heartbeat_s: Annotated[int, msgspec.Meta(ge=1)] | None = None


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


class Prefix(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first `size_bytes` bytes of an open event segment."""

    path: str
    size_bytes: Natural
    sha256: Sha256


class Heartbeat(Entry, frozen=True, tag="heartbeat"):
    """A case goes on: what its open segments hold so far, and what device and host count by themselves."""

    open: list[Prefix]
    counters: dict[str, Signed]


class ClockStep(Entry, frozen=True, tag="clock-step"):
    """The wall clock was set by `step_ns` since the entry before, as the monotonic clock tells."""

    step_ns: Signed


class CaseEnd(Entry, frozen=True, tag="case-end"):
    """An attempt has ended."""

    case: str
    attempt: Annotated[int, msgspec.Meta(ge=1)]
    state: Literal["done", "failed", "interrupted"]
    reason: str | None


class Close(Entry, frozen=True, tag="close"):
    """The run was sealed over SHA256SUMS with this digest."""

    sums_sha256: Sha256


AnyEntry = Open | Resume | Recovered | CaseStart | File | Heartbeat | ClockStep | CaseEnd | Close
_RESTART = (Resume, Recovered)
_DECODER = msgspec.json.Decoder(AnyEntry)
_ENCODER = msgspec.json.Encoder(order="sorted")


@dataclass(slots=True)
class Log:
    """What the log says; `entries` are all but heartbeats, so that memory does not grow with a run's time.

    `roots` maps a tree size to its root wherever a checkpoint or a cosignature stands, and at the end.
    """

    entries: list[Any] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    roots: dict[int, bytes] = field(default_factory=dict)
    notes: list[notes.Note] = field(default_factory=list)
    prefixes: heartbeat.Prefixes = field(default_factory=dict)
    missing: list[int] = field(default_factory=list)
    size: int = 0
    last: AnyEntry | None = None

    def attempts(self) -> dict[str, list[dict[str, Any]]]:
        """Case id -> its attempts in order, as cases.json must state them."""
        found: dict[str, list[dict[str, Any]]] = {}
        for entry in self.entries:
            if isinstance(entry, CaseStart):
                found.setdefault(entry.case, []).append({"attempt": entry.attempt, "state": "interrupted", "reason": "no end was logged"})
            elif isinstance(entry, CaseEnd) and entry.case in found:
                found[entry.case][-1] |= {"state": entry.state, "reason": entry.reason}
        return found


def read(folder: Path, sizes: Iterable[int] = ()) -> Log:
    """Every entry of RUN/runlog, checked for form, sequence, time and pairing; `sizes` are those of cosigned trees."""
    source, log, frontier = Evidence(folder), Log(), Frontier()
    noted = _noted(source, log)
    wanted, check = noted | set(sizes), _Check(log, noted)
    try:
        for number, line in enumerate(source.lines(ENTRIES)):
            entry = _entry(line, number)
            check.entry(entry)
            frontier.add(line)
            if frontier.size in wanted:
                log.roots[frontier.size] = frontier.root()
    except Refused as bad:
        log.findings.append(bad.finding)
        return log
    log.roots[frontier.size] = frontier.root()
    check.end()
    log.findings += _torn(log.entries, source)
    return log


def _noted(source: Evidence, log: Log) -> set[int]:
    """Reads checkpoints.txt into the log; the sizes at which its notes stand."""
    try:
        log.notes = list(notes.split(source.read(CHECKPOINTS)))
    except Refused as bad:
        log.findings.append(bad.finding)
    return {note.size for note in log.notes}


def _entry(line: bytes, number: int) -> AnyEntry:
    """One entry. A line that the typed reader reads and the sorted writer writes again has no key twice and no other trap."""
    try:
        entry: AnyEntry = _DECODER.decode(line)
        if _ENCODER.encode(entry) == line:
            return entry
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        pass
    where = _where(number)
    try:
        entry = msgspec.convert(loads(line, where), AnyEntry)
    except msgspec.ValidationError as bad:
        raise Refused("log.entry", where, "an entry with exactly its fields", str(bad)) from None
    return entry


def _where(index: int) -> str:
    return f"runlog/{ENTRIES}:{index + 1}"


class _Check:
    """Rules on the order of entries, fed one entry at a time."""

    def __init__(self, log: Log, noted: set[int]) -> None:
        self.log, self.noted = log, noted
        self.limits = heartbeat.settings()
        self.beat_s: int | None = None
        self.before: AnyEntry | None = None
        self.open_now: tuple[str, int] | None = None
        self.counts: dict[str, int] = {}
        self.done: set[str] = set()
        self.owed = 0

    def entry(self, entry: AnyEntry) -> None:
        """Check one more entry and keep what is needed of it."""
        log, index, restarted = self.log, self.log.size, isinstance(entry, _RESTART)
        log.findings += self._sequence(entry, index)
        if self.before is not None and not restarted:
            log.findings += self._time(self.before, entry, index)
        if not restarted:
            self.end()
        log.size = index + 1
        log.last = self.before = entry
        self.owed = log.size if isinstance(entry, Heartbeat | CaseEnd | Close) else 0
        if isinstance(entry, Heartbeat):
            for prefix in entry.open:
                log.prefixes.setdefault(prefix.path, []).append(heartbeat.Stop(prefix.size_bytes, prefix.sha256, entry.monotonic_ns))
            return
        log.entries.append(entry)
        log.findings += self._pairs(entry, index)

    def end(self) -> None:
        """A checkpoint must stand behind each heartbeat, case end and close, unless a crash followed at once."""
        if self.owed and self.owed not in self.noted and len(self.log.missing) < SHOWN_MISSING:
            self.log.missing.append(self.owed)

    def _sequence(self, entry: AnyEntry, index: int) -> Iterator[Finding]:
        if entry.n != index:
            yield error("log.sequence", _where(index), f"n = {index}", entry.n)
        if isinstance(entry, Open) != (index == 0):
            yield error("log.open", _where(index), "open as the first entry and nowhere else", type(entry).__name__)
        if isinstance(entry, Open):
            self.beat_s = entry.heartbeat_s
        if isinstance(entry, Heartbeat) and self.open_now is None:
            yield error("log.attempts", _where(index), "heartbeats of an open attempt", "none is open")
        if self.before is not None and entry.wall_ns < self.before.wall_ns:
            yield warning("log.wall", _where(index), f"wall_ns of at least {self.before.wall_ns}", entry.wall_ns)

    def _time(self, before: AnyEntry, entry: AnyEntry, index: int) -> Iterator[Finding]:
        wall, monotonic = entry.wall_ns - before.wall_ns, entry.monotonic_ns - before.monotonic_ns
        if monotonic < 0:
            yield error("log.time", _where(index), f"monotonic_ns of at least {before.monotonic_ns}", entry.monotonic_ns)
        if isinstance(before, Close):
            yield error("log.close", _where(index), "resume after close", type(entry).__name__)
        if isinstance(entry, ClockStep):
            if entry.step_ns != wall - monotonic:
                yield error("log.clock_step", _where(index), f"step_ns = {wall - monotonic}, as the clocks say", entry.step_ns)
            else:
                yield notice("log.clock_set", _where(index), "clocks that agree", f"wall clock set by {entry.step_ns / 10**9:.3f} s")
        elif step := heartbeat.step_ns(wall, monotonic, self.limits):
            yield error("log.clock_step", _where(index), "a clock-step entry, as the writer puts before", f"clocks {step} ns apart")
        if self.open_now and monotonic > (limit := self.limits.gap_factor * (self.beat_s or self.limits.heartbeat_s)) * 10**9:
            make = warning if self.beat_s else notice
            yield make("log.gap", _where(index), f"an entry of an open case every {limit} s", f"{monotonic / 10**9:.1f} s without")

    def _pairs(self, entry: AnyEntry, index: int) -> Iterator[Finding]:
        """Attempts are numbered from 1, one is open at a time, each is ended before the log closes."""
        if isinstance(entry, CaseStart):
            self.counts[entry.case] = number = self.counts.get(entry.case, 0) + 1
            if self.open_now is not None or entry.attempt != number:
                yield error(
                    "log.attempts",
                    _where(index),
                    f"attempt {number} with no other open",
                    f"attempt {entry.attempt}, open: {self.open_now}",
                )
            if entry.case in self.done:
                yield warning(
                    "log.retry", _where(index), "no attempt after the first completed one", f"attempt {entry.attempt}; it does not count"
                )
            self.open_now = (entry.case, entry.attempt)
        elif isinstance(entry, CaseEnd):
            if self.open_now != (entry.case, entry.attempt):
                yield error("log.attempts", _where(index), f"the end of {self.open_now}", (entry.case, entry.attempt))
            if entry.state == "done":
                self.done.add(entry.case)
            self.open_now = None
        elif isinstance(entry, Close) and self.open_now is not None:
            yield error("log.attempts", _where(index), f"the end of {self.open_now}", "close")


def _torn(entries: list[AnyEntry], source: Evidence) -> Iterator[Finding]:
    """Every torn-<n> is as a `recovered` entry says, and none is unnamed."""
    named = {entry.torn: entry for entry in entries if isinstance(entry, Recovered)}
    present = {name for name in source.names(".") if name not in NAMES}
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


def checkpoints(log: Log, origin: str, key: Callable[[int], PublicKey | None]) -> Iterator[Finding]:
    """Every checkpoint is signed by the key that `key` gives for its size, has the log's root there, and none is missing."""
    sizes = [note.size for note in log.notes]
    if sorted(set(sizes)) != sizes:
        yield error("log.checkpoint", notes.WHERE, "sizes that grow", sizes[:20])
    for index, note in enumerate(log.notes):
        yield from _checkpoint(note, log, origin, key(note.size), f"{notes.WHERE}: note {index}")
    if log.missing:
        yield error("log.checkpoint_missing", notes.WHERE, f"checkpoints of sizes {log.missing}", "none")


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
    last = log.last
    digest = hashlib.sha256(sums).hexdigest()
    if not isinstance(last, Close) or last.sums_sha256 != digest:
        yield error("log.close", f"runlog/{ENTRIES}", f"close over SHA256SUMS {digest} as the last entry", type(last).__name__)


def bound(log: Log, stated: dict[str, Any]) -> Iterator[Finding]:
    """The statement's `log` names this log's origin form, size and root."""
    root = base64.b64encode(log.roots.get(log.size, b"")).decode()
    for name, expected in (("size", log.size), ("root", root)):
        if stated[name] != expected:
            yield error("log.root", f"statement log.{name}", stated[name], expected)
