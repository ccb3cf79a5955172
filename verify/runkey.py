"""The keys that sign a run's log: made for one run, certified by the vendor's key, each from an `open` or `resume` entry on.

The certificates are evidence/run-keys/<n>.dsse.json, in the order in which they were made.
"""

from __future__ import annotations

import datetime
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from verify import envelope, statements
from verify.envelope import PublicKey
from verify.files import Evidence
from verify.findings import Finding, Refused, error
from verify.policy import parse_time
from verify.runlog import Log, Open, Resume
from verify.statements import Statement
from verify.strict import canonical

KIND = "run-key/v1"
FOLDER = "run-keys"
SUBJECT = "run-key"
_FILE = re.compile(r"(0|[1-9][0-9]{0,3})\.dsse\.json")


@dataclass(frozen=True, slots=True)
class RunKey:
    """A key of the run log with what the vendor certified of it."""

    path: str
    key: PublicKey
    keyid: str
    made: Statement


def read(source: Evidence, signer: PublicKey | None) -> list[RunKey]:
    """Every certificate of the run, each signed by the vendor's key; or Refused."""
    names = source.names(FOLDER)
    numbers = [int(match[1]) for name in names if (match := _FILE.fullmatch(name))]
    if not names or len(numbers) != len(names) or sorted(numbers) != list(range(len(names))):
        raise Refused("run_key.files", f"evidence/{FOLDER}", "0.dsse.json, 1.dsse.json, ... and nothing else", names)
    return [_one(source, f"{FOLDER}/{number}.dsse.json", signer) for number in range(len(names))]


def _one(source: Evidence, path: str, signer: PublicKey | None) -> RunKey:
    sealed = envelope.as_written(source.read(path), path)
    statements.check_type(sealed, path)
    if signer is None or None in envelope.signers(sealed, [signer]):
        raise Refused("run_key.signature", path, "a signature by evidence/signer.pub.pem, and no other", "another")
    made = statements.parse(sealed, KIND, path)
    key = envelope.load_key(envelope.decode(made.predicate["spki"], path), path)
    if made.subject[SUBJECT] != envelope.keyid(key):
        raise Refused("run_key.subject", path, envelope.keyid(key), made.subject[SUBJECT])
    return RunKey(path, key, envelope.keyid(key), made)


def spans(log: Log, keys: list[RunKey]) -> list[tuple[int, RunKey | None]]:
    """(number of the entry from which on it signs, key) in order; None where the key has no certificate."""
    known = {key.keyid: key for key in keys}
    return [(entry.n, known.get(entry.run_key)) for entry in log.entries if isinstance(entry, Open | Resume)]


def at(found: list[tuple[int, RunKey | None]], size: int) -> PublicKey | None:
    """The key that signs a checkpoint over `size` entries."""
    chosen = [key for begin, key in found if begin < size]
    return chosen[-1].key if chosen and chosen[-1] is not None else None


def faults(keys: list[RunKey], said: Mapping[str, Any] | None, environment: Mapping[str, Any] | None, log: Log) -> Iterator[Finding]:
    """Certificates are of this run, are those that the statement lists, and cover the time in which they signed."""
    for entry in log.entries:
        if isinstance(entry, Open | Resume) and entry.run_key not in {key.keyid for key in keys}:
            yield error("run_key.unknown", f"runlog: entry {entry.n}", "a key that a certificate in run-keys/ names", entry.run_key)
    if said is not None:
        expected = [{"sha256": key.made.sha256} for key in keys]
        if said["runKeys"] != expected:
            yield error("run_key.stated", "statement runKeys", expected, said["runKeys"])
        for key in keys:
            yield from _bound(key, said, environment)
    yield from _windows(log, keys)


def _bound(key: RunKey, said: Mapping[str, Any], environment: Mapping[str, Any] | None) -> Iterator[Finding]:
    expected = {"run": said["run"], "plan": {"sha256": said["plan"]["sha256"]}, "challenge": said["challenge"]}
    if environment is not None:
        expected["host"] = host(environment)
    found = {name: key.made.predicate[name] for name in expected}
    if found != expected:
        yield error("run_key.bound", key.path, expected, found)


def host(environment: Mapping[str, Any]) -> str:
    """Hex SHA-256 of the host's facts in canonical JSON."""
    return hashlib.sha256(canonical(environment["host"])).hexdigest()


def _windows(log: Log, keys: list[RunKey]) -> Iterator[Finding]:
    """Each key signs inside its window, by the wall clock of the log."""
    if not (found := spans(log, keys)):
        return
    for (begin, key), (end, _) in zip(found, [*found[1:], (log.size, None)], strict=True):
        if key is None:
            continue
        start, stop = (_ns(key.made.predicate[name]) for name in ("notBefore", "notAfter"))
        walls = [entry.wall_ns for entry in log.entries if begin <= entry.n < end]
        if walls and not (start <= min(walls) and max(walls) < stop + 10**9):
            window = f"{key.made.predicate['notBefore']} to {key.made.predicate['notAfter']}"
            yield error("run_key.window", key.path, f"entries {begin} to {end - 1} within {window}", f"{min(walls)} to {max(walls)} ns")


def _ns(text: str) -> int:
    try:
        return int((parse_time(text) - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)).total_seconds()) * 10**9
    except ValueError:
        raise Refused("run_key.window", "run-keys", "a time like 2026-01-01T00:00:00Z", text) from None
