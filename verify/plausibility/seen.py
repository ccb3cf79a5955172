"""A local index of what was verified before: the same durations under another run, chip or vendor are no coincidence.

The index holds digests only: of each series whole, and of a few of its stretches (those whose digests are smallest), so
that a part of a series is known again wherever it stands.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verify.findings import Finding, Refused, Unchecked, error, notice
from verify.strict import canonical, loads

STRETCH = 16
KEPT = 32
LEAST = 20
LEAST_DISTINCT = 12


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose run it is: its name, the chip, and the party or key that signed."""

    run: str
    chip: str
    signer: str


def fingerprints(durations: Mapping[str, Sequence[int]]) -> dict[str, list[str]]:
    """Series name -> digests of the whole and of some stretches; short or steady series have none."""
    return {name: _digests(tuple(series)) for name, series in durations.items() if len(series) >= LEAST}


def _digests(series: tuple[int, ...]) -> list[str]:
    starts = range(len(series) - STRETCH + 1)
    stretches = {
        _digest(series[start : start + STRETCH]) for start in starts if len(set(series[start : start + STRETCH])) >= LEAST_DISTINCT
    }
    return [_digest(series), *sorted(stretches)[:KEPT]] if stretches else []


def _digest(values: Sequence[int]) -> str:
    return hashlib.sha256(",".join(map(str, values)).encode()).hexdigest()[:32]


def check(index: Path, who: Identity, marks: Mapping[str, list[str]]) -> Iterator[Finding]:
    """What the index knows of these series; it must exist, an empty file will do."""
    known = read(index)
    for name, digests in sorted(marks.items()):
        for digest in digests:
            if digest not in known:
                continue
            other, series = known[digest]
            where = f"{name}: {'whole' if digest == digests[0] else f'{STRETCH} values'}"
            if other == who:
                yield notice("seen.before", where, "a record not seen before", f"the same run, {series}")
            else:
                found = f"those of {other.run}, {other.chip}, {other.signer}: {series}"
                yield error("seen.duplicate", where, "durations of its own", found)
            break


def add(index: Path, who: Identity, marks: Mapping[str, list[str]]) -> None:
    """Note the series of a run; a run that is there already is not noted twice."""
    known = read(index)
    lines = [
        canonical({"run": who.run, "chip": who.chip, "signer": who.signer, "series": name, "digests": digests}) + b"\n"
        for name, digests in sorted(marks.items())
        if digests and digests[0] not in known
    ]
    with index.open("ab") as file:
        file.write(b"".join(lines))
        file.flush()
        os.fsync(file.fileno())


def read(index: Path) -> dict[str, tuple[Identity, str]]:
    """Digest -> whose series it is; the first that was noted wins."""
    known: dict[str, tuple[Identity, str]] = {}
    next_step = f"make an empty one: touch {index}"
    if index.exists() and not index.is_file():
        raise Unchecked("index of seen runs is no file", where=str(index), next_step="name a file; an empty one will do")
    try:
        lines = index.read_bytes().splitlines()
    except OSError as fault:
        raise Unchecked("index of seen runs cannot be read", where=str(index), why=fault.strerror or "", next_step=next_step) from None
    for number, line in enumerate(lines, start=1):
        entry = _entry(line, f"{index}:{number}")
        who = Identity(entry["run"], entry["chip"], entry["signer"])
        for digest in entry["digests"]:
            known.setdefault(digest, (who, entry["series"]))
    return known


def _entry(line: bytes, where: str) -> dict[str, Any]:
    try:
        entry = loads(line, where)
        if set(entry) == {"run", "chip", "signer", "series", "digests"} and all(isinstance(text, str) for text in entry["digests"]):
            return dict(entry)
    except (Refused, TypeError, json.JSONDecodeError):
        pass
    raise Unchecked("index of seen runs cannot be used", where=where, next_step="take the broken line out")
