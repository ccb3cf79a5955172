"""A key for the log of one run, certified by the vendor's key: made when the run is opened, kept outside of the run.

It lies in the user's configuration folder so that a run goes on after a crash, and is destroyed once every case is done. A run
that goes on without it gets another one.
"""

from __future__ import annotations

import base64
import datetime
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kit import keys, statements
from kit.errors import KitError
from kit.files import write_atomic
from verify import envelope, runkey
from verify.files import Evidence
from verify.findings import Refused
from verify.policy import format_time
from verify.statements import Statement
from verify.strict import loads

VALID_DAYS = 30  # where no challenge gives a window; ten times the longest test, 72 h
SIGNER = "signer.pub.pem"


@dataclass(frozen=True, slots=True)
class RunKey:
    """The key at hand; `made` is its certificate where it has just been written, and is not logged yet."""

    key: Ed25519PrivateKey
    made: Path | None

    @property
    def keyid(self) -> str:
        """Hex SHA-256 of the DER SPKI, as the log names the key."""
        return envelope.keyid(self.key.public_key())


def obtain(run: Path, vendor: Ed25519PrivateKey, plan_sha256: str, asked: Statement | None) -> RunKey:
    """The run's key: the one kept for it where the vendor's key certified that, else a new one with its certificate."""
    _check_vendor(run, vendor)
    path = _path(run.name)
    if path.exists():
        key = keys.load(path)
        if envelope.keyid(key.public_key()) in {known.keyid for known in certified(run, vendor)}:
            return RunKey(key, None)
        path.unlink()
    key = keys.load(keys.write_private(path))
    return RunKey(key, _certify(run, vendor, key, plan_sha256, asked))


def certified(run: Path, vendor: Ed25519PrivateKey) -> list[runkey.RunKey]:
    """Keys of the run's log so far."""
    evidence = Evidence(run / "evidence")
    if not evidence.names(runkey.FOLDER):
        return []
    try:
        return runkey.read(evidence, vendor.public_key())
    except Refused as bad:
        raise KitError("certificates of the run's keys cannot be used", where=str(run), why=str(bad), next_step="start a new run") from None


def destroy(run_name: str) -> None:
    """Forget the key of a run; nobody can add to its log under this key any more."""
    _path(run_name).unlink(missing_ok=True)


def _path(run_name: str) -> Path:
    return keys.config_folder() / "run-keys" / f"{run_name}.key.pem"


def _check_vendor(run: Path, vendor: Ed25519PrivateKey) -> None:
    """One vendor's key opens, certifies and seals a run."""
    path, pem = run / "evidence" / SIGNER, keys.public_pem(vendor)
    if not path.exists():
        write_atomic(path, pem)
    elif path.read_bytes() != pem:
        raise KitError("run was opened with another key", where=str(run), next_step="use that one: --key PEM")


def _certify(run: Path, vendor: Ed25519PrivateKey, key: Ed25519PrivateKey, plan_sha256: str, asked: Statement | None) -> Path:
    folder = run / "evidence" / runkey.FOLDER
    folder.mkdir(exist_ok=True)
    now = datetime.datetime.now(datetime.UTC)
    public, environment = key.public_key(), loads((run / "evidence/environment.json").read_bytes())
    window = {"notBefore": format_time(now), "notAfter": format_time(now + datetime.timedelta(days=VALID_DAYS))}
    predicate = {
        "run": run.name,
        "challenge": {"sha256": asked.sha256} if asked else None,
        "plan": {"sha256": plan_sha256},
        "spki": base64.b64encode(envelope.spki(public)).decode(),
        "host": runkey.host(environment),
    } | ({name: asked.predicate[name] for name in window} if asked else window)
    path = folder / f"{len(list(folder.iterdir()))}.dsse.json"
    payload = statements.payload(runkey.KIND, {runkey.SUBJECT: envelope.keyid(public)}, predicate)
    write_atomic(path, statements.sign(payload, [vendor]))
    return path
