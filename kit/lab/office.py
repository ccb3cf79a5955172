"""The lab's folder: one ledger, and one folder for each challenge with its statements, its secret and the audit so far.

LAB/ledger/                         append-only, see kit.lab.ledger
LAB/<first 16 hex of a challenge>/  secret (mode 0600), plan.json, audit/ (what will be handed out), work/ (runs of the lab)
"""

from __future__ import annotations

import datetime
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kit import statements
from kit.errors import FAILED, KitError
from kit.files import sync_folder, write_atomic
from kit.keys import public_pem
from verify import audit, chain, envelope, given, ledger, policy
from verify import statements as reader
from verify.files import Evidence
from verify.findings import Refused
from verify.statements import Statement
from verify.strict import loads

SECRET = "secret"  # noqa: S105 - the name of the file
NAMED = 16


@dataclass(frozen=True, slots=True)
class Desk:
    """One challenge on the lab's desk."""

    folder: Path
    challenge: Statement

    @property
    def audit(self) -> Path:
        """What will be handed out with the run."""
        return self.folder / "audit"

    @property
    def lab(self) -> str:
        """The lab's party."""
        return str(self.challenge.predicate["lab"])

    def has(self, name: str) -> bool:
        """Whether a statement was issued."""
        return (self.audit / audit.FILES[name]).is_file()

    def read(self, name: str) -> Statement:
        """A statement that this lab issued earlier; its own word needs no policy."""
        return read_own(self.audit / audit.FILES[name], audit.KINDS[name])

    def secret(self) -> bytes:
        """The secret r; refused where others may read it."""
        path = self.folder / SECRET
        try:
            if path.stat().st_mode & 0o077:
                raise KitError("secret is open to others", where=str(path), next_step=f"chmod 600 {path}, and ask who read it")
            return bytes.fromhex(path.read_text(encoding="ascii"))
        except (OSError, ValueError) as error:
            raise KitError("secret cannot be read", where=str(path), why=str(error), next_step="restore it from the lab's copy") from error


def read_own(path: Path, kind: str) -> Statement:
    """A statement from a file, read strictly, its signatures left to `verify`."""
    try:
        return reader.parse(envelope.parse(Evidence(path.parent).read(path.name), str(path)), kind, str(path))
    except (Refused, OSError) as bad:
        raise KitError("statement cannot be read", where=str(path), why=str(bad), next_step="restore the file") from None


def desk(lab: Path, digest: str) -> Desk:
    """The challenge of this payload digest, or a KitError."""
    folder = lab / digest[:NAMED]
    if not (folder / "audit").is_dir():
        raise KitError("no such challenge here", where=str(folder), next_step="name the lab's folder with --folder")
    found = Desk(folder, read_own(folder / "audit" / audit.FILES["challenge"], audit.KINDS["challenge"]))
    if found.challenge.sha256 != digest:
        raise KitError("challenge is not the one that the run names", where=str(folder), why=found.challenge.sha256, exit_code=FAILED)
    return found


def desk_of(lab: Path, run: Path) -> Desk:
    """The challenge that a sealed run names."""
    return desk(lab, challenge_of(run))


def challenge_of(run: Path) -> str:
    """Payload digest of the challenge that a run's statement names; the statement is checked later."""
    if run.is_dir() and not (run / "run.dsse.json").exists():
        raise KitError("run is not sealed", where=str(run), next_step="the vendor seals it: python -m kit seal RUN")
    said = read_own(run / "run.dsse.json", "vendor-run/v1").predicate.get("challenge") if run.is_dir() else None
    if said is None:
        raise KitError("run answers no challenge", where=str(run), next_step="the vendor runs it with --challenge challenge.dsse.json")
    return str(said["sha256"])


def issue(path: Path, kind: str, subject: dict[str, str], predicate: dict[str, Any], keys: list[Ed25519PrivateKey]) -> str:
    """Write and sign a statement, once; returns its payload digest. After a crash the one that is there is taken."""
    if path.exists():
        earlier = read_own(path, kind)
        if earlier.subject != subject:
            raise KitError(
                "another statement was issued before", where=str(path), next_step="statements are never replaced", exit_code=FAILED
            )
        return earlier.sha256
    write_atomic(path, statements.sign(statements.payload(kind, subject, predicate), keys))
    sync_folder(path.parent)
    return read_own(path, kind).sha256


def write_secret(path: Path, secret: bytes) -> None:
    """A new file of mode 0600."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(secret.hex())
        file.flush()
        os.fsync(handle)


def write_public(folder: Path, key: Ed25519PrivateKey) -> None:
    """The lab's public key beside its statements."""
    write_atomic(folder / audit.LAB_KEY, public_pem(key))


def now() -> datetime.datetime:
    """The time that statements carry, whole seconds."""
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)


def trusted(source: str | None) -> policy.Policy:
    """The trust policy of --policy: a file, or `self` for an exercise without one."""
    if source is None:
        raise KitError("no trust policy", next_step="name it with --policy FILE; --policy self shows how an audit goes, and proves nothing")
    given.trust(source)
    return chain.load(source, now())


def json_of(path: Path) -> Any:
    """A JSON file of ours."""
    return loads(path.read_bytes(), str(path))


def copy_ledger(source: Path, target: Path) -> None:
    """The ledger as it is now, beside what it tells of."""
    target.mkdir(exist_ok=True)
    for name in (ledger.ENTRIES, ledger.CHECKPOINTS):
        write_atomic(target / name, (source / name).read_bytes())
