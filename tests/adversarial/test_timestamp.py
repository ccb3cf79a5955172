"""A time proof beside the receipt: a token of an authority made here by openssl, bound to the run and to the receipt."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kit.errors import KitError
from kit.lab import issue
from tests.adversarial import audits, builder
from tests.adversarial.test_audit import Copy
from verify import timestamp

CONFIG = """[tsa]
signer_digest = sha256
default_policy = 1.2.3.4
digests = sha256
serial = {folder}/serial
accuracy = secs:1
[ext]
extendedKeyUsage = critical,timeStamping
"""


def openssl(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["openssl", *arguments], check=False, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A time stamping authority: a self-signed certificate for this purpose alone."""
    folder = tmp_path_factory.mktemp("authority")
    (folder / "tsa.cnf").write_text(CONFIG.format(folder=folder), encoding="utf-8")
    (folder / "serial").write_text("01", encoding="ascii")
    openssl(folder, "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "key.pem")
    subject = ["-subj", "/CN=authority of a test", "-addext", "extendedKeyUsage=critical,timeStamping"]
    openssl(folder, "req", "-x509", "-new", "-key", "key.pem", "-days", "2", *subject, "-out", "cert.pem")
    return folder


def stamped(authority: Path, file: Path, name: str = "answer.tsr") -> Path:
    """A token on a file."""
    openssl(authority, "ts", "-query", "-data", str(file), "-sha256", "-cert", "-out", "query.tsq")
    issued = ["-config", "tsa.cnf", "-section", "tsa", "-inkey", "key.pem", "-signer", "cert.pem"]
    openssl(authority, "ts", "-reply", "-queryfile", "query.tsq", *issued, "-out", name)
    return authority / name


@pytest.fixture(scope="module")
def played(authority: Path, tmp_path_factory: pytest.TempPathFactory) -> audits.Played:
    return audits.play(tmp_path_factory.mktemp("played"), stamp=lambda run: stamped(authority, run / "run.dsse.json"))


def test_a_receipt_with_a_time_proof_is_verified_and_openssl_says_so_too(played: audits.Played, authority: Path) -> None:
    copy = Copy(played.run, played.audit, played.office.policy)
    outcome = copy.check()
    assert (outcome.verdict, outcome.findings) == ("verified", [])
    proof = played.audit / timestamp.FILE
    assert played.desk.read("receipt").predicate["proof"] == {"type": "rfc3161", "sha256": hashlib.sha256(proof.read_bytes()).hexdigest()}
    said = openssl(authority, "ts", "-verify", "-data", str(played.run / "run.dsse.json"), "-in", str(proof), "-CAfile", "cert.pem")
    assert "Verification: OK" in said


CHANGES: dict[str, Callable[[Path, Path, Path], object]] = {
    "taken away": lambda proof, *_: proof.unlink(),
    "edited": lambda proof, *_: proof.write_bytes(proof.read_bytes()[:-1] + b"\0"),
    "exchanged": lambda proof, authority, other: proof.write_bytes(stamped(authority, other, "other.tsr").read_bytes()),
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_proof_is_refused(name: str, played: audits.Played, authority: Path, tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    folder.mkdir()
    (folder / timestamp.FILE).write_bytes((played.audit / timestamp.FILE).read_bytes())
    receipt, sealed = played.desk.read("receipt").predicate, (played.run / "run.dsse.json").read_bytes()
    assert list(timestamp.faults(folder, receipt, sealed)) == []
    CHANGES[name](folder / timestamp.FILE, authority, played.run / "SHA256SUMS")
    assert {finding.rule for finding in timestamp.faults(folder, receipt, sealed)} == {"receipt.proof"}


def test_a_proof_on_something_else_or_one_that_nobody_names_is_refused(played: audits.Played, authority: Path, tmp_path: Path) -> None:
    token = stamped(authority, played.run / "SHA256SUMS").read_bytes()
    (tmp_path / timestamp.FILE).write_bytes(token)
    named = {"proof": {"type": "rfc3161", "sha256": hashlib.sha256(token).hexdigest()}}
    sealed = (played.run / "run.dsse.json").read_bytes()
    [finding] = timestamp.faults(tmp_path, named, sealed)
    assert (finding.rule, finding.found) == ("receipt.proof", "a token on something else")
    assert [finding.found for finding in timestamp.faults(tmp_path, {"proof": None}, sealed)] == ["a file"]


def test_the_lab_takes_no_token_on_something_else(authority: Path, tmp_path: Path) -> None:
    run = builder.build(tmp_path)
    with pytest.raises(KitError, match="time stamp is not on this run"):
        issue._proof(stamped(authority, run / "SHA256SUMS"), run, tmp_path)
    with pytest.raises(KitError, match="time stamp cannot be read"):
        issue._proof(tmp_path / "none.tsr", run, tmp_path)
    assert issue._proof(stamped(authority, run / "run.dsse.json"), run, tmp_path)["type"] == "rfc3161"


@pytest.mark.parametrize(("between", "said"), [(b"", True), (b"\x05\x00", True), (b"\x05", False)])
def test_an_imprint_may_leave_the_parameters_of_sha256_out(between: bytes, said: bool) -> None:
    """RFC 5754 section 2: absent, or NULL."""
    token = b"\x30\x03" + timestamp.IMPRINT + between + b"\x04\x20" + hashlib.sha256(b"sealed").digest()
    assert timestamp.speaks_of(token, b"sealed") == said
