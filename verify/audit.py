"""Checks an audit against the run it is about, from files alone: who signed, what names what, the sample, the decision.

An audit folder holds challenge, receipt, reveal and lab-audit as signed statements, the tolerance table, a copy of the
lab's ledger, the lab's public key, and the lab's own runs. Each statement names the payloads of those before it, so that
their order needs no clock. Everything that the lab computed is computed again and compared.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from verify import challenged, envelope, labruns, ledger, policy, replay, rerun, sample, statement, statements, timestamp, tolerance
from verify.files import Evidence
from verify.findings import Finding, Refused, Unchecked, error, notice, warning
from verify.labruns import Replayed
from verify.policy import Moment, Policy
from verify.rerun import Facts, LabRun
from verify.scorer import scorer_sha256
from verify.statements import Statement

KINDS = {"challenge": "challenge/v1", "receipt": "receipt/v1", "reveal": "reveal/v1", "audit": "lab-audit/v1"}
FILES = {"challenge": "challenge.dsse.json", "receipt": "receipt.dsse.json", "reveal": "reveal.dsse.json", "audit": "lab-audit.dsse.json"}
TABLE, LEDGER, RUNS, LAB_KEY = "tolerances.toml", "ledger", "runs", "lab.pub.pem"
TOP = (*FILES.values(), TABLE, LEDGER, RUNS, LAB_KEY)
NAMED_RULES = {"challenge": "audit.challenge", "receipt": "audit.receipt", "reveal": "audit.reveal"}
# What follows from the facts, and the rule that speaks where a lab says something else.
COMPUTED_RULES = {
    "r": "audit.secret", "seed": "audit.seed", "sample": "audit.sample", "runs": "audit.runs",
    "stages": "audit.values", "verdict": "audit.decision", "reasons": "audit.decision",
}  # fmt: skip


@dataclass(slots=True)
class Outcome:
    """What is known about an audit; `stated` is the lab-audit predicate once its signatures hold."""

    findings: list[Finding] = field(default_factory=list)
    stated: dict[str, Any] | None = None
    run: str = ""
    sha256: dict[str, str] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """`refused` by any error, `unchecked` where origin is unknown or the audit partial, else `verified`."""
        if self.stated is None or any(finding.severity == "error" for finding in self.findings):
            return "refused"
        open_ends = {"origin.unchecked", "audit.partial"}
        return "unchecked" if any(finding.rule in open_ends for finding in self.findings) else "verified"

    def add(self, found: Iterable[Finding]) -> None:
        """Keep findings; a Refused on the way is one more of them."""
        try:
            self.findings.extend(found)
        except Refused as bad:
            self.findings.append(bad.finding)

    def attempt(self, make: Callable[[], Any]) -> Any:
        """What `make` returns, or None with its refusal kept."""
        try:
            return make()
        except Refused as bad:
            self.findings.append(bad.finding)
            return None


@dataclass(frozen=True, slots=True)
class Chain:
    """The statements of an audit, and the vendor's run that they are about."""

    challenge: Statement
    receipt: Statement
    reveal: Statement
    audit: Statement
    vendor: Replayed


def audit(run: Path, folder: Path, trust: Policy, at: datetime.datetime, source: str | Path | None) -> Outcome:
    """Check the audit in `folder` of the run in `run`; `source` is what --policy named, for the replay of the run."""
    outcome = Outcome()
    outcome.add(_top(folder))
    if outcome.findings:
        return outcome
    if trust.name in {policy.SELF, policy.NOBODY.name}:
        if trust.name == policy.NOBODY.name:
            outcome.findings.append(warning("origin.unchecked", str(folder), "a trust policy that names the lab and the vendor", "none"))
        trust = own_keys(run, folder, outcome)
    opened = _open_all(folder, trust, at, outcome)
    if len(opened) < len(KINDS):
        return outcome
    vendor = outcome.attempt(lambda: _vendor(run, opened, trust, at, source, outcome))
    if vendor is None:
        return outcome
    chain = Chain(**opened, vendor=vendor)
    outcome.run, outcome.sha256 = vendor.statement.predicate["run"], {name: one.sha256 for name, one in opened.items()}
    outcome.sha256["run"] = vendor.statement.sha256
    outcome.add(challenged.policy_faults(chain.challenge, trust))
    outcome.add(links(chain))
    outcome.add(timestamp.faults(folder, chain.receipt.predicate, Evidence(run).read(replay.ENVELOPE, envelope.MAX_BYTES)))
    _recompute(chain, run, folder, trust, outcome)
    outcome.stated = chain.audit.predicate
    outcome.add(_said(chain.audit.predicate))
    return outcome


def _top(folder: Path) -> Iterator[Finding]:
    if not folder.is_dir():
        raise Unchecked("no such audit folder", where=str(folder), next_step="name the folder that the lab published")
    names = set(os.listdir(folder)) - {timestamp.FILE}
    for name in sorted(names ^ set(TOP)):
        expected = "a part of the audit" if name in TOP else f"only {', '.join(TOP)}"
        yield error("audit.folder", name, expected, "none" if name in TOP else "something else")


def own_keys(run: Path, folder: Path, outcome: Outcome, *more: str) -> Policy:
    """A policy of the keys that lie in the folders themselves: shows that the record is whole, not whose it is."""
    forever = (datetime.datetime.min.replace(tzinfo=datetime.UTC), datetime.datetime.max.replace(tzinfo=datetime.UTC))
    keys = {}
    named = outcome.attempt(lambda: _claimed_parties(folder)) or {}
    for kind, where, name in (("lab", folder, LAB_KEY), ("vendor", run / "evidence", "signer.pub.pem")):
        key = outcome.attempt(partial(_load_key, where, name))
        if key is not None:
            keys[envelope.keyid(key)] = policy.Named(key, envelope.keyid(key), kind, named.get(kind, kind), kind, *forever, None)
    rules: dict[str, tuple[policy.Rule, ...]] = {kind: (policy.Rule(None, "=challenge.lab", 1),) for kind in (*KINDS.values(), *more)}
    return Policy(policy.SELF, keys, rules | {statement.KIND: (policy.Rule(None, "=challenge.vendor", 1),)})


def _load_key(folder: Path, name: str) -> envelope.PublicKey:
    return envelope.load_key(Evidence(folder).read(name), name)


def claimed_bound(folder: Path) -> dict[str, str]:
    """Whom the challenge names, as policies refer to them, by its own word."""
    return {f"challenge.{who}": party for who, party in _claimed_parties(folder).items()}


def _claimed_parties(folder: Path) -> dict[str, str]:
    """Who lab and vendor are by the challenge's own word; used only where no policy names anybody."""
    sealed = envelope.parse(Evidence(folder).read(FILES["challenge"]), "challenge")
    said = statements.parse(sealed, KINDS["challenge"], "challenge").predicate
    return {"lab": said["lab"], "vendor": said["vendor"]}


def _open_all(folder: Path, trust: Policy, at: datetime.datetime, outcome: Outcome) -> dict[str, Statement]:
    """Every statement whose signatures hold; the later ones must be signed by the lab that the challenge names."""
    opened: dict[str, Statement] = {}
    for name, kind in KINDS.items():
        bound = parties(opened["challenge"]) if "challenge" in opened else None
        one = outcome.attempt(partial(open_one, folder, name, kind, trust, at, bound))
        if one is None:
            break
        opened[name] = one
        if name == "challenge" and not {one.predicate["lab"]} <= one.parties:
            outcome.findings.append(error("challenge.lab", name, f"a signature by {one.predicate['lab']}", sorted(one.parties)))
    return opened


def open_one(folder: Path, name: str, kind: str, trust: Policy, at: datetime.datetime, bound: dict[str, str] | None) -> Statement:
    """One statement of an audit folder, or Refused."""
    if bound is None:
        bound = claimed_bound(folder)
    data = Evidence(folder).read(FILES[name], envelope.MAX_BYTES)
    return statements.open_statement(data, kind, trust, Moment(at), bound=bound, where=FILES[name])


def parties(made: Statement) -> dict[str, str]:
    """Whom a challenge names, as policies refer to them."""
    return {"challenge.vendor": made.predicate["vendor"], "challenge.lab": made.predicate["lab"]}


def _vendor(
    run: Path, opened: dict[str, Statement], trust: Policy, at: datetime.datetime, source: str | Path | None, outcome: Outcome
) -> Replayed:
    """The vendor's run, replayed; its signature is judged at the time of the lab's receipt."""
    proved = policy.parse_time(opened["receipt"].predicate["received"])
    data, bound = Evidence(run).read(replay.ENVELOPE, envelope.MAX_BYTES), parties(opened["challenge"])
    signed = statements.open_statement(data, statement.KIND, trust, Moment(at, proved), bound=bound, where=replay.ENVELOPE)
    if bound["challenge.vendor"] not in signed.parties:
        outcome.findings.append(error("challenge.vendor", replay.ENVELOPE, bound["challenge.vendor"], sorted(signed.parties)))
    read = labruns.replayed(run, "RUN", source, at, proved)
    outcome.add(read.findings)
    return read


def _same(rule: str, where: str, expected: object, found: object) -> Iterator[Finding]:
    if expected != found:
        yield error(rule, where, expected, found)


def links(chain: Chain) -> Iterator[Finding]:
    """Each statement names the payloads of those before it."""
    made, receipt, reveal, said = chain.challenge, chain.receipt, chain.reveal, chain.audit.predicate
    run = chain.vendor.statement
    yield from challenged.run_faults(made, run)
    yield from challenged.received_in_time(made, receipt)
    yield from _same("receipt.run", "receipt: subject", run.sha256, receipt.subject["vendor-run"])
    yield from _same("receipt.challenge", "receipt: challenge", made.sha256, receipt.predicate["challenge"]["sha256"])
    yield from _same("reveal.challenge", "reveal: subject", made.sha256, reveal.subject["challenge"])
    yield from _same("reveal.receipt", "reveal: receipt", receipt.sha256, reveal.predicate["receipt"]["sha256"])
    committed = sample.commitment(bytes.fromhex(reveal.predicate["r"]))
    yield from _same("reveal.commit", "reveal: r", made.predicate["revealCommit"]["sha256"], committed)
    yield from _same("audit.run", "lab-audit: subject vendor-run", run.sha256, chain.audit.subject.get("vendor-run"))
    for name, rule in NAMED_RULES.items():
        yield from _same(rule, f"lab-audit: {name}", getattr(chain, name).sha256, said[name]["sha256"])


def _recompute(chain: Chain, run: Path, folder: Path, trust: Policy, outcome: Outcome) -> None:
    """Compute what the lab had to say, from the run, the lab's runs and the table."""
    data = outcome.attempt(lambda: Evidence(folder).read(TABLE, tolerance.MAX_BYTES))
    outcome.add(
        _same("audit.tolerances", TABLE, chain.challenge.predicate["tolerances"]["sha256"], hashlib.sha256(data or b"").hexdigest())
    )
    table = outcome.attempt(lambda: tolerance.parse(data or b"", TABLE))
    if table is None:
        return
    outcome.add(challenged.evidence_faults(chain.challenge, chain.vendor.statement, run, table))
    runs = _lab_runs(chain, folder, trust, outcome)
    computed = facts(chain.challenge, chain.reveal, chain.vendor, table, tuple(chain.audit.predicate["chosen"]), runs)
    outcome.add(judge(computed, chain))
    outcome.add(_ledger(chain, folder, trust))


def _lab_runs(chain: Chain, folder: Path, trust: Policy, outcome: Outcome) -> tuple[LabRun, ...]:
    """The lab's runs that the audit lists, each replayed; the folder holds these and no others."""
    listed = chain.audit.predicate["runs"]
    present = sorted(os.listdir(folder / RUNS))
    outcome.add(_same("audit.runs", RUNS, sorted(one["name"] for one in listed), present))
    lab_keys = [named.keyid for named in trust.keys.values() if named.party == chain.challenge.predicate["lab"]]
    found = []
    for one in listed:
        where = f"{RUNS}/{one['name']}"
        if one["name"] not in present:
            continue
        read = outcome.attempt(partial(labruns.replayed, folder / where, where))
        if read is None:
            continue
        outcome.add(labruns.faults(read, chain.vendor, lab_keys, where))
        found.append(labruns.lab_run(read, one["name"], one["purpose"], one["repeat"]))
        outcome.add(_same("audit.run_subject", where, found[-1].sums_sha256, chain.audit.subject.get(f"{one['name']}/SHA256SUMS")))
    return tuple(found)


def facts(
    made: Statement, reveal: Statement, vendor: Replayed, table: tolerance.Table, chosen: tuple[str, ...], runs: tuple[LabRun, ...]
) -> Facts:
    """Everything that the audit's numbers hang on."""
    done = tuple(sample.Member(name, vendor.suites[name]) for name, state in vendor.states.items() if state == "done")
    return Facts(
        secret=bytes.fromhex(reveal.predicate["r"]),
        run_sha256=vendor.statement.sha256,
        challenge_sha256=made.sha256,
        strata=sample.parse(made.predicate["sampling"]["strata"]),
        table=table,
        done=done,
        claims=labruns.vendor_values(vendor),
        chosen=chosen,
        runs=runs,
    )


def judge(computed: Facts, chain: Chain) -> Iterator[Finding]:
    """The lab says what follows from the facts, and made the runs that were due."""
    said, names = chain.audit.predicate, {member.id for member in computed.done}
    if bad := [name for name in computed.chosen if name not in names or name in computed.drawn]:
        yield error("audit.chosen", "lab-audit: chosen", "cases that the vendor has done, outside the sample, each once", bad)
        return
    if len(set(computed.chosen)) != len(computed.chosen):
        yield error("audit.chosen", "lab-audit: chosen", "each case once", computed.chosen)
    for run, wanted in rerun.out_of_turn(computed):
        yield error("audit.turn", f"{RUNS}/{run.name}", wanted or "no more runs", f"{run.purpose} {run.repeat} over {sorted(run.tried)}")
    expected = rerun.document(computed)
    for name, rule in COMPUTED_RULES.items():
        yield from _same(rule, f"lab-audit: {name}", expected[name], said[name])
    yield from _same("audit.replay", "lab-audit: claims", labruns.claims_sha256(chain.vendor), said["replay"]["claims"]["sha256"])
    if said["replay"]["scorer"]["sha256"] != scorer_sha256():
        yield notice("audit.scorer", "lab-audit: scorer", f"this verify: {scorer_sha256()}", said["replay"]["scorer"]["sha256"])


def _ledger(chain: Chain, folder: Path, trust: Policy) -> Iterator[Finding]:
    """The lab's ledger is whole, goes as far as the audit says, and tells of this challenge what the statements tell."""
    known = ledger.read(folder / LEDGER)
    lab = chain.challenge.predicate["lab"]
    yield from known.findings
    yield from ledger.checkpoints(folder / LEDGER, known, lab, [named.key for named in trust.keys.values() if named.party == lab])
    stated = chain.audit.predicate["ledger"]
    root = base64.b64encode(known.roots.get(stated["size"], b"")).decode()
    yield from _same("ledger.root", f"ledger of size {stated['size']}", root, stated["root"])
    yield from _told(chain, known)


def _told(chain: Chain, known: ledger.Ledger) -> Iterator[Finding]:
    name, where = chain.challenge.sha256, "ledger"
    nonce = hashlib.sha256(bytes.fromhex(chain.challenge.predicate["nonce"])).hexdigest()
    entries = known.of(name)
    yield from _same("ledger.told", f"{where}: nonce", [nonce], [e.nonce_sha256 for e in entries if isinstance(e, ledger.Challenge)])
    for kind, one in ((ledger.Receipt, chain.receipt), (ledger.Reveal, chain.reveal)):
        yield from _same("ledger.told", f"{where}: {one.kind}", [one.sha256], known.digests(name, kind))
    run = chain.vendor.statement.sha256
    yield from _same("ledger.told", f"{where}: run", [run], [e.run_sha256 for e in entries if isinstance(e, ledger.Receipt)])
    before = entries[: next((i for i, e in enumerate(entries) if e.n >= chain.audit.predicate["ledger"]["size"]), len(entries))]
    listed = chain.audit.predicate["runs"]
    started = [(hashlib.sha256(one["name"].encode()).hexdigest(), one["purpose"], one["repeat"]) for one in listed]
    ended = [one["run"]["sha256"] for one in listed]
    yield from _same(
        "ledger.runs",
        f"{where}: runs begun",
        started,
        [(e.name_sha256, e.purpose, e.repeat) for e in before if isinstance(e, ledger.RunStart)],
    )
    yield from _same("ledger.runs", f"{where}: runs ended", ended, [e.sha256 for e in before if isinstance(e, ledger.RunEnd)])


def _said(said: dict[str, Any]) -> Iterator[Finding]:
    """A true audit that the vendor did not pass never ends with exit code 0."""
    reasons = "; ".join(said["reasons"])
    if said["verdict"] == "fail":
        yield error("audit.fail", "lab-audit: verdict", "pass", f"fail: {reasons}")
    elif said["verdict"] == "partial":
        yield warning("audit.partial", "lab-audit: verdict", "pass or fail", f"partial: {reasons}")
