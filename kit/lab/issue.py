"""Challenge, receipt, reveal: three statements, in this order and no other; the ledger has each before it leaves the lab."""

from __future__ import annotations

import datetime
import fnmatch
import hashlib
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kit import chip as chips
from kit import plan as plans
from kit.errors import FAILED, KitError
from kit.files import make_folder, write_atomic
from kit.lab import ledger, office
from kit.lab.office import Desk
from kit.schema import closest
from verify import audit, challenged, policy, replay, sample, timestamp, tolerance
from verify.data import root
from verify.envelope import keyid
from verify.findings import Refused
from verify.sample import Member
from verify.scorer import scorer_sha256

TABLES = "baselines/tolerances"
DEFAULT_K = 10


@dataclass(frozen=True, slots=True)
class Ask:
    """What `kit lab challenge` was asked for."""

    plan: str
    chip: str
    vendor: str
    party: str
    folder: Path
    policy: str | None
    tolerances: str
    strata: tuple[str, ...]
    run_days: int
    audit_days: int
    max_attempts: int
    images: tuple[str, ...]
    kits: tuple[str, ...]


def challenge(ask: Ask, key: Ed25519PrivateKey) -> Desk:
    """Issue a challenge: commit to a new secret, sign, log."""
    trust, resolved = office.trusted(ask.policy), plans.load(ask.plan)
    _check_parties(ask, trust, keyid(key.public_key()))
    chips.load(ask.chip)
    table = load_table(ask.tolerances)
    members = [Member(str(case["id"]), str(case["suite"])) for case in resolved.cases]
    secret, nonce = secrets.token_bytes(sample.SECRET_BYTES), secrets.token_hex(16)
    predicate = _predicate(ask, trust, members) | {
        "nonce": nonce,
        "revealCommit": {"sha256": sample.commitment(secret)},
        "tolerances": {"sha256": hashlib.sha256(table).hexdigest()},
    }
    make_folder(ask.folder, "the lab's folder", "name another with --folder DIR")
    work = ask.folder / f".new-{nonce[:8]}"
    try:
        _write(work, resolved, table, secret, key)
        path = work / "audit" / audit.FILES["challenge"]
        digest = office.issue(path, audit.KINDS["challenge"], {"plan.json": resolved.sha256()}, predicate, [key])
        _check(Desk(work, office.read_own(path, audit.KINDS["challenge"])), members, table)
        with ledger.opened(ask.folder, ask.party, key) as book:
            work.rename(ask.folder / digest[: office.NAMED])
            book.append("challenge", digest, nonce_sha256=hashlib.sha256(bytes.fromhex(nonce)).hexdigest())
    finally:
        shutil.rmtree(work, ignore_errors=True)  # where it still is: a secret that no challenge commits to is of no use
    return office.desk(ask.folder, digest)


def _write(work: Path, resolved: plans.Plan, table: bytes, secret: bytes, key: Ed25519PrivateKey) -> None:
    """What a challenge rests on, beside where it will lie."""
    (work / "audit").mkdir(parents=True, mode=0o700)
    office.write_secret(work / office.SECRET, secret)
    write_atomic(work / "plan.json", resolved.to_bytes())
    write_atomic(work / "audit" / audit.TABLE, table)
    office.write_public(work / "audit", key)


def _check_parties(ask: Ask, trust: policy.Policy, own: str) -> None:
    """KitError where no run could ever answer: the parties are one, or not those of the policy, or the key is not the lab's."""
    if ask.vendor == ask.party:
        raise KitError("vendor and lab are one party", where=ask.vendor, next_step="name two: --vendor PARTY --party PARTY")
    if trust.name == policy.SELF:
        return
    for option, name, kind in (("--vendor", ask.vendor, "vendor"), ("--party", ask.party, "lab")):
        known = sorted({named.party for named in trust.keys.values() if named.kind == kind})
        if name not in known:
            raise KitError(f"{option} is no {kind} of policy {trust.name}", where=name, next_step=closest(name, known))
    if own not in trust.keys or trust.keys[own].party != ask.party:
        raise KitError(f"key is not one of {ask.party} by policy {trust.name}", where=own, next_step="name the lab's own with --key PEM")


def _predicate(ask: Ask, trust: policy.Policy, members: Sequence[Member]) -> dict[str, Any]:
    now = office.now()
    ends = [now + datetime.timedelta(days=days) for days in (ask.run_days, ask.run_days + ask.audit_days)]
    return {
        "vendor": ask.vendor,
        "lab": ask.party,
        "chip": ask.chip,
        "notBefore": policy.format_time(now),
        "notAfter": policy.format_time(ends[0]),
        "auditBy": policy.format_time(ends[1]),
        "allowed": {"images": list(ask.images), "kits": list(ask.kits)},
        "scorer": {"sha256": scorer_sha256()},
        "sampling": {"rule": sample.RULE, "strata": strata(ask.strata, members)},
        "maxAttempts": ask.max_attempts,
        "policy": None if trust.version == 0 else {"version": trust.version, "sha256": trust.sha256},
    }


def strata(asked: Sequence[str], members: Sequence[Member]) -> list[dict[str, Any]]:
    """Strata of `SUITE=K` and `SUITE:GLOB=K`; a suite that is not named gets DEFAULT_K."""
    made: list[dict[str, Any]] = []
    rest = {member.suite: DEFAULT_K for member in members}
    taken: set[str] = set()
    named: set[str] = set()
    for text in asked:
        name, _, number = text.rpartition("=")
        suite, _, glob = name.partition(":")
        if suite not in rest or not number.isdecimal() or int(number) < 1:
            raise KitError(f"'{text}' is not SUITE=K or SUITE:GLOB=K", where="--k", next_step=closest(suite, rest))
        if name in named:
            raise KitError(f"'{name}' has two sizes", where="--k", next_step="give each suite and each stratum once")
        named.add(name)
        if not glob:
            rest[suite] = int(number)
            continue
        cases = [m.id for m in members if m.suite == suite and fnmatch.fnmatchcase(m.id, glob) and m.id not in taken]
        if not cases:
            raise KitError(
                f"no case of {suite} is left that fits '{glob}'", where="--k", next_step="see the plan's cases with kit run --dry-run"
            )
        taken |= set(cases)
        made.append({"suite": suite, "k": int(number), "cases": cases})
    return made + [{"suite": suite, "k": k, "cases": None} for suite, k in sorted(rest.items())]


def load_table(name: str) -> bytes:
    """A tolerance table by name or file, checked."""
    path = Path(name) if name.endswith(".toml") else root() / TABLES / f"{name}.toml"
    try:
        data = path.read_bytes()
        tolerance.parse(data, str(path))
    except OSError as error:
        known = ", ".join(sorted(file.stem for file in (root() / TABLES).glob("*.toml")))
        raise KitError("tolerance table cannot be read", where=str(path), why=error.strerror or "", next_step=f"known: {known}") from error
    except Refused as bad:
        raise KitError("tolerance table cannot be used", where=str(path), why=str(bad), next_step="correct the table") from None
    return data


def _check(made: Desk, members: list[Member], table: bytes) -> None:
    for fault in challenged.plan_faults(made.challenge, members, tolerance.parse(table, audit.TABLE)):
        raise KitError(
            "challenge cannot be audited", where=fault.where, why=str(fault), next_step="add it to the table or leave the case out"
        )


def receipt(lab: Path, run: Path, key: Ed25519PrivateKey, source: str | None, token: Path | None = None) -> Path:
    """Verify a run that answers a challenge, then sign that it was received; `token` is an RFC 3161 response on its run.dsse.json."""
    trust, made = office.trusted(source), office.desk_of(lab, run)
    book = ledger.Writer(lab / "ledger", made.lab, key)
    try:
        book.expect(made.challenge.sha256, "Receipt", "a challenge takes one run; issue another challenge for another run")
        digest = _verified(run, made, trust, source, keyid(key.public_key()))
        now = policy.format_time(office.now())
        path = made.audit / audit.FILES["receipt"]
        proof = _proof(token, run, made.audit) if token else None
        predicate = {"challenge": {"sha256": made.challenge.sha256}, "received": now, "proof": proof}
        signed = office.issue(path, audit.KINDS["receipt"], {"vendor-run": digest}, predicate, [key])
        book.append("receipt", made.challenge.sha256, sha256=signed, run_sha256=digest)
    finally:
        book.close()
    return path


def _proof(token: Path, run: Path, folder: Path) -> dict[str, str]:
    """Keep the token beside the receipt, and say what the receipt says of it; KitError where it is on something else."""
    try:
        data = token.read_bytes()
    except OSError as fault:
        step = "name the answer of the time stamping authority with --timestamp"
        raise KitError("time stamp cannot be read", where=str(token), why=fault.strerror or "", next_step=step) from fault
    if len(data) > timestamp.MAX_BYTES or not timestamp.speaks_of(data, (run / replay.ENVELOPE).read_bytes()):
        step = "openssl ts -query -data RUN/run.dsse.json -sha256 -cert, answered by the time stamping authority"
        raise KitError(
            "time stamp is not on this run", where=str(token), why="no SHA-256 of its run.dsse.json in it", next_step=step, exit_code=FAILED
        )
    write_atomic(folder / timestamp.FILE, data)
    return {"type": timestamp.RFC3161, "sha256": hashlib.sha256(data).hexdigest()}


def _verified(run: Path, made: Desk, trust: policy.Policy, source: str | None, own: str) -> str:
    """Payload digest of a run that holds and answers the challenge; a KitError with the first fault otherwise."""
    outcome = replay.replay(run, source)
    if outcome.run.get("signer") == own:
        raise KitError("vendor and lab sign with one key", where=str(run), next_step="kit keygen DIR, then --key", exit_code=FAILED)
    stated = office.read_own(run / replay.ENVELOPE, "vendor-run/v1")
    table = tolerance.parse((made.audit / audit.TABLE).read_bytes(), audit.TABLE)
    faults = [fault for fault in outcome.findings if fault.severity == "error"]
    faults += challenged.policy_faults(made.challenge, trust)
    if not faults:
        faults += [*challenged.run_faults(made.challenge, stated), *challenged.evidence_faults(made.challenge, stated, run, table)]
    if trust.name != policy.SELF and outcome.run.get("origin") != made.challenge.predicate["vendor"]:
        raise KitError(
            "run is not the vendor's",
            where=str(run),
            why=f"signed by {outcome.run.get('origin')}",
            next_step="ask the vendor for the run that it signed itself",
            exit_code=FAILED,
        )
    if faults:
        raise KitError(
            "run is refused, no receipt is given",
            where=str(run),
            why=str(faults[0]),
            next_step="the vendor mends it or runs again",
            exit_code=FAILED,
        )
    if not any(case["state"] == "done" for case in stated.predicate["cases"]):
        raise KitError("run has no case that is done", where=str(run), next_step="there is nothing to audit", exit_code=FAILED)
    return stated.sha256


def reveal(lab: Path, run: Path, key: Ed25519PrivateKey) -> tuple[Desk, list[str]]:
    """Open the commitment, after the receipt and never before; returns the challenge and the sample."""
    made = office.desk_of(lab, run)
    with ledger.opened(lab, made.lab, key) as book:
        book.expect(made.challenge.sha256, "Reveal", "give the receipt first: python -m kit lab receipt RUN")
        taken = made.read("receipt")
        if taken.subject["vendor-run"] != office.read_own(run / replay.ENVELOPE, "vendor-run/v1").sha256:
            raise KitError("receipt is on another run", where=str(run), next_step="name the run that was received", exit_code=FAILED)
        predicate = {"receipt": {"sha256": taken.sha256}, "r": made.secret().hex()}
        path = made.audit / audit.FILES["reveal"]
        signed = office.issue(path, audit.KINDS["reveal"], {"challenge": made.challenge.sha256}, predicate, [key])
        book.append("reveal", made.challenge.sha256, sha256=signed)
    return made, drawn(made, run)


def drawn(made: Desk, run: Path) -> list[str]:
    """The sample of a run whose secret was revealed."""
    said, secret = office.read_own(run / replay.ENVELOPE, "vendor-run/v1"), bytes.fromhex(made.read("reveal").predicate["r"])
    suites = {case["id"]: case["suite"] for case in office.json_of(run / "evidence/plan.json")["cases"]}
    members = [Member(case["id"], suites[case["id"]]) for case in said.predicate["cases"] if case["state"] == "done"]
    parsed = sample.parse(made.challenge.predicate["sampling"]["strata"])
    return sample.draw(sample.seed(secret, said.sha256, made.challenge.sha256), parsed, members)
