"""`kit lab audit`: the lab makes the runs that are due, one after another, then signs what follows from them.

Each run is in the ledger before it begins, so that none can be left out; stopped at any moment, the audit goes on with
the run that was begun. Which run is due and what the values come to is computed by `verify`, never here.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kit.errors import FAILED, KitError
from kit.files import write_atomic
from kit.lab import ledger, office
from kit.lab.office import Desk
from verify import audit, labruns, rerun, tolerance
from verify import ledger as book_reader
from verify.envelope import keyid
from verify.labruns import Replayed
from verify.rerun import Due, Facts, LabRun
from verify.scorer import scorer_sha256
from verify.strict import canonical


@dataclass(frozen=True, slots=True)
class Task:
    """A run to make: its cases, the challenge that seeds it, the run to go on with if one was begun."""

    due: Due
    desk: Desk
    chip: str
    out: Path
    resume: Path | None


CHOSEN = "chosen.json"
Execute = Callable[[Task, Callable[[Path], None]], Path]
Say = Callable[[str], None]


def perform(
    lab: Path, run: Path, keys: Sequence[Ed25519PrivateKey], source: str | None, chosen: Sequence[str], execute: Execute, say: Say
) -> tuple[Desk, dict[str, Any]]:
    """Make every run that is due, sign the audit, and return it; what was done before is kept."""
    office.trusted(source)
    desk = office.desk_of(lab, run)
    with ledger.opened(lab, desk.lab, keys[0]) as book:
        book.expect(desk.challenge.sha256, "Audit pass", _next(book.state(desk.challenge.sha256)))
        vendor = labruns.replayed(run, "RUN", source)
        if vendor.findings:
            raise KitError("run is refused", where=str(run), why=str(vendor.findings[0]), exit_code=FAILED)
        facts = _facts(desk, vendor, _chosen(desk, chosen))
        _fix(desk, facts.chosen)
        (desk.audit / audit.RUNS).mkdir(exist_ok=True)
        while (wanted := rerun.due(facts)) is not None:
            say(f"audit: {wanted.purpose} run {wanted.repeat} over {len(wanted.cases)} cases")
            made = _make(desk, book, wanted, vendor, [keyid(key.public_key()) for key in keys], execute)
            facts = replace(facts, runs=(*facts.runs, made))
        predicate = _sign(desk, book, facts, vendor, keys)
    return desk, predicate


def _next(state: str) -> str:
    steps = {
        "open": "give the receipt first: python -m kit lab receipt RUN",
        "receipted": "reveal first: python -m kit lab reveal RUN",
        "audited": "it was audited; publish: python -m kit lab publish RUN",
        "failed": "it failed for good; another run needs another challenge: python -m kit lab challenge",
    }
    return steps.get(state, "nothing leads back from here")


def _chosen(desk: Desk, asked: Sequence[str]) -> tuple[str, ...]:
    """Cases by choice: fixed by the first call, since later ones only go on with it."""
    path = desk.folder / CHOSEN
    fixed = tuple(office.json_of(path)) if path.exists() else tuple(asked)
    if asked and tuple(asked) != fixed:
        raise KitError("cases by choice were fixed before", where=str(path), why=", ".join(fixed) or "none", next_step="leave out --choose")
    return fixed


def _fix(desk: Desk, chosen: tuple[str, ...]) -> None:
    """Keep what was chosen, once it is known to be possible: a slip of the pen must not stand in the audit's way for good."""
    if not (desk.folder / CHOSEN).exists():
        write_atomic(desk.folder / CHOSEN, canonical(list(chosen)))


def _facts(desk: Desk, vendor: Replayed, chosen: tuple[str, ...]) -> Facts:
    """What the audit knows when it begins or goes on: the runs that the ledger says have ended."""
    table = tolerance.parse((desk.audit / audit.TABLE).read_bytes(), audit.TABLE)
    facts = audit.facts(desk.challenge, desk.read("reveal"), vendor, table, chosen, ())
    known = {member.id for member in facts.done}
    for name in chosen:
        if name not in known or name in facts.drawn or chosen.count(name) > 1:
            why, step = "it is not done, in the sample, or named twice", "choose among the other cases of the run, or leave --choose out"
            raise KitError(f"case '{name}' cannot be chosen", where="--choose", why=why, next_step=step)
    return replace(facts, runs=tuple(_ended(desk)))


def _entries(desk: Desk) -> list[book_reader.AnyEntry]:
    return book_reader.read(desk.folder.parent / "ledger").of(desk.challenge.sha256)


def _ended(desk: Desk) -> list[LabRun]:
    """The lab's runs so far, in the ledger's order."""
    names = {_digest(name): name for name in sorted(os.listdir(desk.audit / audit.RUNS))} if (desk.audit / audit.RUNS).is_dir() else {}
    entries = _entries(desk)
    ended = {entry.name_sha256 for entry in entries if isinstance(entry, book_reader.RunEnd)}
    found = []
    for entry in entries:
        if isinstance(entry, book_reader.RunStart) and entry.name_sha256 in ended:
            if entry.name_sha256 not in names:
                raise KitError(
                    "a run of the audit is missing", where=str(desk.audit / audit.RUNS), next_step="restore it", exit_code=FAILED
                )
            name = names[entry.name_sha256]
            found.append(labruns.lab_run(labruns.replayed(desk.audit / audit.RUNS / name, name), name, entry.purpose, entry.repeat))
    return found


def _make(desk: Desk, book: ledger.Writer, wanted: Due, vendor: Replayed, own: Sequence[str], execute: Execute) -> LabRun:
    """One run of the lab, logged before it begins and after it is sealed."""
    out = desk.folder / "work"
    out.mkdir(exist_ok=True)
    begun = _begun(desk, out)

    def opened(path: Path) -> None:
        if begun is None:
            fields = {"name_sha256": _digest(path.name), "purpose": wanted.purpose, "repeat": wanted.repeat}
            book.append("run-start", desk.challenge.sha256, **fields)

    if begun is not None and begun.parent.name == audit.RUNS:
        made = begun  # sealed and moved before the stop
    else:
        made = execute(Task(wanted, desk, vendor.statement.predicate["chip"], out, begun), opened)
    read = labruns.replayed(made, made.name)
    for fault in labruns.faults(read, vendor, own, made.name):
        raise KitError("the lab's own run cannot be used", where=str(made), why=str(fault), exit_code=FAILED)
    kept = desk.audit / audit.RUNS / made.name
    if made != kept:
        made.rename(kept)
    book.append("run-end", desk.challenge.sha256, name_sha256=_digest(made.name), sha256=read.statement.sha256)
    return labruns.lab_run(read, made.name, wanted.purpose, wanted.repeat)


def _begun(desk: Desk, out: Path) -> Path | None:
    """The run that the ledger says was begun and has not ended."""
    entries = _entries(desk)
    ended = {entry.name_sha256 for entry in entries if isinstance(entry, book_reader.RunEnd)}
    left = [entry.name_sha256 for entry in entries if isinstance(entry, book_reader.RunStart) and entry.name_sha256 not in ended]
    if not left:
        return None
    for folder in (out, desk.audit / audit.RUNS):
        for path in folder.iterdir():
            if _digest(path.name) == left[0]:
                return path
    raise KitError(
        "a run that was begun is missing", where=str(out), next_step="restore it: a run of an audit is never left out", exit_code=FAILED
    )


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _sign(desk: Desk, book: ledger.Writer, facts: Facts, vendor: Replayed, keys: Sequence[Ed25519PrivateKey]) -> dict[str, Any]:
    """Write and sign lab-audit, log it, and put the ledger beside it."""
    size = book.known.tree.size
    predicate = rerun.document(facts) | {
        "challenge": {"sha256": desk.challenge.sha256},
        "receipt": {"sha256": desk.read("receipt").sha256},
        "reveal": {"sha256": desk.read("reveal").sha256},
        "ledger": {"size": size, "root": base64.b64encode(book.known.roots[size]).decode()},
        "replay": {"scorer": {"sha256": scorer_sha256()}, "claims": {"sha256": labruns.claims_sha256(vendor)}},
    }
    subject = {"vendor-run": vendor.statement.sha256} | {f"{run.name}/SHA256SUMS": run.sums_sha256 for run in facts.runs}
    path = desk.audit / audit.FILES["audit"]
    if path.exists():  # a partial audit that went on
        path.unlink()
    signed = office.issue(path, audit.KINDS["audit"], subject, predicate, list(keys))
    book.append("audit", desk.challenge.sha256, sha256=signed, verdict=predicate["verdict"])
    office.copy_ledger(book.folder, desk.audit / audit.LEDGER)
    return predicate
