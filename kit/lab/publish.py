"""Publication, withdrawal, failure, the status list: what the public may rely on, and until when."""

from __future__ import annotations

import datetime
import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kit.errors import FAILED, KitError
from kit.files import make_folder, writable, write_atomic
from kit.lab import ledger, office
from kit.lab.office import Desk
from verify import audit, chain, given, policy, publication, replay
from verify import ledger as reader
from verify.findings import Unchecked
from verify.scoring.attach import attach

DAYS = 365
PASSED = "only an audit that passed is published: `kit lab audit RUN` comes first; if that failed, begin anew: `kit lab challenge`"


def publish(lab: Path, run: Path, target: Path, keys: Sequence[Ed25519PrivateKey], source: str | None, supersedes: str | None) -> Path:
    """Check an audit as anybody will, then write the self-contained folder RESULT/ with a publication statement."""
    trust, desk = office.trusted(source), office.desk_of(lab, run)
    if target.exists():
        raise KitError("folder of the result exists", where=str(target), next_step="name another; a result is never overwritten")
    with ledger.opened(lab, desk.lab, keys[0]) as book:
        book.expect(desk.challenge.sha256, "Publication", PASSED)
        _check(run, desk, trust, source)
        make_folder(target, "folder of the result", "name another with --out RESULT")
        try:
            data = _fill(target, run, desk, source)
            predicate = _predicate(desk, run, trust, supersedes)
            subject = {publication.RESULT: hashlib.sha256(data).hexdigest()}
            signed = office.issue(target / publication.FILE, publication.KIND, subject, predicate, list(keys))
            shutil.copy(target / publication.FILE, desk.folder / publication.FILE)
            book.append("publication", desk.challenge.sha256, sha256=signed)
        except BaseException:
            if book.state(desk.challenge.sha256) != "published":  # half a result is none, and would stand in the way of the next try
                shutil.rmtree(target, ignore_errors=True)
            raise
    return target


def _fill(target: Path, run: Path, desk: Desk, source: str | None) -> bytes:
    """Copy run and audit into the folder of the result, and write its result.json, whose bytes are returned."""
    shutil.copytree(run, target / publication.RUN / run.name)
    shutil.copytree(desk.audit, target / publication.AUDIT)
    result = replay.replay(run, source, None, policy.parse_time(desk.read("receipt").predicate["received"]))
    attach(result)
    data = (json.dumps(result.document(), indent=1, sort_keys=True) + "\n").encode()
    write_atomic(target / publication.RESULT, data)
    return data


def _check(run: Path, desk: Desk, trust: policy.Policy, source: str | None) -> None:
    outcome = audit.audit(run, desk.audit, trust, office.now(), source)
    if outcome.verdict != "verified":
        why = next((str(fault) for fault in outcome.findings if fault.severity != "notice"), outcome.verdict)
        raise KitError(
            "audit does not hold", where=str(desk.audit), why=why, next_step="python -m verify audit RUN AUDIT", exit_code=FAILED
        )


def _predicate(desk: Desk, run: Path, trust: policy.Policy, supersedes: str | None) -> dict[str, Any]:
    now = office.now()
    return {
        "policy": {"sha256": trust.sha256 or "0" * 64},
        "challenge": {"sha256": desk.challenge.sha256},
        "run": {"sha256": office.read_own(run / replay.ENVELOPE, "vendor-run/v1").sha256},
        "receipt": {"sha256": desk.read("receipt").sha256},
        "audit": {"sha256": desk.read("audit").sha256},
        "supersedes": None if supersedes is None else {"sha256": supersedes},
        "published": policy.format_time(now),
        "notAfter": policy.format_time(now + datetime.timedelta(days=DAYS)),
    }


def withdraw(lab: Path, name: str, reason: str, keys: Sequence[Ed25519PrivateKey]) -> str:
    """Withdraw a publication; a challenge that was received and not published fails instead, and stays on the list."""
    desk = find(lab, name)
    with ledger.opened(lab, desk.lab, keys[0]) as book:
        digest = desk.challenge.sha256
        if book.state(digest) != "published":
            book.expect(digest, "Failed", "only what was received or published can be withdrawn")
            book.append("failed", digest, reason=reason)
            return "failed"
        published = office.read_own(desk.folder / publication.FILE, publication.KIND).sha256
        predicate = {"reason": reason, "withdrawn": policy.format_time(office.now())}
        path = desk.folder / "withdrawal.dsse.json"
        signed = office.issue(path, "withdrawal/v1", {"publication": published}, predicate, list(keys))
        book.append("withdrawal", digest, sha256=signed)
    return "withdrawn"


def find(lab: Path, name: str) -> Desk:
    """A challenge by the first hex digits of its digest, or by the run that names it."""
    if Path(name).is_dir():
        return office.desk_of(lab, Path(name))
    found = [path for path in lab.glob("*/audit") if path.parent.name.startswith(name)] if len(name) >= 4 else []
    if len(found) != 1:
        raise KitError(
            f"no single challenge '{name}'", where=str(lab), next_step="name a run, or the first digits that kit lab status shows"
        )
    digest = office.read_own(found[0] / audit.FILES["challenge"], audit.KINDS["challenge"]).sha256
    return office.desk(lab, digest)


def overdue(lab: Path, party: str, key: Ed25519PrivateKey) -> list[str]:
    """Fail every run that was received and has no audit by its time; returns their challenges."""
    failed = []
    with ledger.opened(lab, party, key) as book:
        for digest, state in sorted(book.known.states.items()):
            due = office.desk(lab, digest).challenge.predicate["auditBy"]
            if state in {"receipted", "revealed"} and policy.format_time(office.now()) > due:
                book.append("failed", digest, reason=f"no audit by {due}")
                failed.append(digest)
    return failed


def rows(lab: Path) -> list[dict[str, str]]:
    """Every challenge with its vendor and its state, in the ledger's order."""
    known = reader.read(lab / "ledger")
    return [
        {"challenge": digest, "vendor": office.desk(lab, digest).challenge.predicate["vendor"], "state": state}
        for digest, state in known.states.items()
    ]


def status(lab: Path, target: Path, keys: Sequence[Ed25519PrivateKey], source: str | None, days: int) -> Path:
    """Write the signed status list: its version only grows, and it expires."""
    writable(target, "status list", "name a file with --write FILE")
    trust, listed = office.trusted(source), rows(lab)
    if not listed:
        raise KitError("no challenge was issued yet", where=str(lab), next_step="python -m kit lab challenge --help")
    party = office.desk(lab, listed[0]["challenge"]).lab
    for failed in overdue(lab, party, keys[0]):
        print(f"{failed[: office.NAMED]} failed: no audit in time")
    version = office.read_own(target, "status/v1").predicate["version"] + 1 if target.exists() else 1
    now = office.now()
    predicate = {
        "version": version,
        "issued": policy.format_time(now),
        "expires": policy.format_time(now + datetime.timedelta(days=days)),
        "publications": [_standing(lab, row) for row in rows(lab) if row["state"] in {"published", "withdrawn"}],
        "audits": rows(lab),
    }
    target.unlink(missing_ok=True)
    office.issue(target, "status/v1", {"policy": trust.sha256 or "0" * 64}, predicate, list(keys))
    return target


def _standing(lab: Path, row: dict[str, str]) -> dict[str, Any]:
    desk = office.desk(lab, row["challenge"])
    published = office.read_own(desk.folder / publication.FILE, publication.KIND).sha256
    if row["state"] == "published":
        return {"sha256": published, "state": "stands", "reason": None}
    reason = office.read_own(desk.folder / "withdrawal.dsse.json", "withdrawal/v1").predicate["reason"]
    return {"sha256": published, "state": "withdrawn", "reason": reason}


def check_status(path: Path, source: str | None, at: datetime.datetime) -> dict[str, Any]:
    """The status list in a file, signed by those who may and not expired at `at`; Unchecked where it is stale."""
    try:
        given.trust(source)
        trust = chain.load(source, at)
        given.sealed(path, "status list", "get it from the lab")
        return publication.open_status(path, trust, at)
    except Unchecked as stop:
        raise KitError(str(stop)) from None
