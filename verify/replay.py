"""Replays one run: every check of seal, log, files and numbers, in an order in which nothing unchecked is trusted.

A finding does not stop the replay where going on is safe; the payload of an envelope that nobody signed is not parsed.
"""

from __future__ import annotations

import datetime
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verify import (
    chain,
    challenge,
    complete,
    cosign,
    crossed,
    envelope,
    heartbeat,
    inside,
    patches,
    policy,
    runkey,
    runlog,
    statement,
    statements,
    tree,
)
from verify.files import Evidence
from verify.findings import Finding, Refused, Unchecked, capped, error, warning
from verify.plausibility import seen
from verify.plausibility.judge import durations, judge
from verify.result import Result
from verify.score import claims, document, evaluate

ENVELOPE = "run.dsse.json"
SUMS = "SHA256SUMS"
FOLDERS = ("evidence", "runlog")
TOP = (ENVELOPE, SUMS, *FOLDERS)


@dataclass(slots=True)
class _Replay:
    """What is known so far about the run at hand."""

    run: Path
    trust: policy.Policy
    when: policy.Moment
    witnessed: tuple[cosign.Cosigned, ...] = ()
    result: Result = field(default_factory=Result)
    signer: envelope.PublicKey | None = None
    stated: statements.Statement | None = None
    asked: statements.Statement | None = None
    run_keys: list[runkey.RunKey] = field(default_factory=list)
    listed: dict[str, str] = field(default_factory=dict)
    log: runlog.Log = field(default_factory=runlog.Log)
    environment: dict[str, Any] | None = None
    evidence: Evidence = field(init=False)

    def __post_init__(self) -> None:
        self.evidence = Evidence(self.run / "evidence")

    @property
    def said(self) -> dict[str, Any] | None:
        """The predicate of the statement, once its signature holds."""
        return self.stated.predicate if self.stated else None

    def add(self, found: Iterable[Finding]) -> None:
        """Keep findings, of each rule not more than a reader needs; a Refused on the way is one more of them."""
        try:
            for finding in capped(found):
                self.result.findings.append(finding)
        except Refused as bad:
            self.result.findings.append(bad.finding)

    def attempt(self, make: Callable[[], Any]) -> Any:
        """What `make` returns, or None with its refusal kept."""
        try:
            return make()
        except Refused as bad:
            self.result.findings.append(bad.finding)
            return None


def replay(
    run: Path,
    trust: str | Path | None,
    at: datetime.datetime | None = None,
    proved: datetime.datetime | None = None,
    *,
    witnessed: tuple[cosign.Cosigned, ...] = (),
    index: Path | None = None,
) -> Result:
    """Check the sealed run in folder `run` under a policy (`self`, a file, or None) at a time (default now).

    `proved` is when others, such as a lab's receipt, show that the run had been signed; `witnessed` are cosigned checkpoints
    from the witness itself, beside those in the run log; `index` is a file of series that were seen before, to which those of
    a run that is not refused are added.
    """
    if not run.is_dir() or not any((run / name).exists() for name in TOP):
        raise Unchecked(
            "not a run directory", where=str(run), why=f"none of {', '.join(TOP)} is there", next_step="name a folder below runs/"
        )
    when = policy.Moment(at or datetime.datetime.now(datetime.UTC), proved)
    state = _Replay(run, chain.load(trust, when.at), when, witnessed)
    state.add(state.trust.findings)
    state.add(_top(run))
    _seal(state)
    _log(state)
    before = len(state.result.findings)
    walk = tree.Walk(run / "evidence")
    _complete(state)
    after = state.result.findings[before:]
    del state.result.findings[before:]
    _tree(state, walk)
    state.result.findings += after
    if state.environment:
        state.add(judge(state.evidence, state.log, state.result.cases, state.environment))
    state.result.run |= statement.facts(state.said, run.name)
    _seen(state, index)
    if state.stated:
        state.result.run["digests"] = statement.digests(state.stated)
    return state.result


def _seen(state: _Replay, index: Path | None) -> None:
    """Compare with the index of earlier runs, and add this one to it."""
    if index is None:
        return
    run = state.result.run
    signer = run.get("signer") if run.get("origin") in {None, policy.SELF, "unchecked"} else run["origin"]
    who = seen.Identity(run["run"], run.get("chip", ""), signer or "")
    marks = seen.fingerprints(durations(state.result.cases))
    state.add(seen.check(index, who, marks))
    if state.result.verdict != "refused":
        seen.add(index, who, marks)


def _top(run: Path) -> Iterator[Finding]:
    names = set(os.listdir(run))
    for name in sorted(names - set(TOP)):
        yield error("top.extra", name, f"only {', '.join(TOP)}", "something else")
    for name in TOP:
        if name not in names:
            yield error("top.missing", name, "a sealed run", "no such name; an unsealed run is sealed by: python -m kit seal RUN")
            continue
        status = (run / name).lstat()
        plain = stat.S_ISDIR(status.st_mode) if name in FOLDERS else stat.S_ISREG(status.st_mode) and status.st_nlink == 1
        if not plain:
            yield error("top.type", name, "a folder" if name in FOLDERS else "a regular file with one link", stat.filemode(status.st_mode))


def _seal(state: _Replay) -> None:
    """Keys, envelope, policy, statement."""
    state.signer = state.attempt(lambda: envelope.load_key(state.evidence.read("signer.pub.pem"), "evidence/signer.pub.pem"))
    state.asked = state.attempt(lambda: challenge.read(state.evidence))
    sealed: envelope.Envelope | None = state.attempt(lambda: _envelope(state.run))
    if sealed is None:
        return
    own = [state.signer] if state.signer else []
    names = envelope.signers(sealed, [*own, *(named.key for named in state.trust.keys.values())])
    faults = list(_signatures(sealed, names, state.signer))
    state.add(faults)
    signed = [name for name in names if name]
    state.result.run |= {"signer": signed[0] if signed else None, "origin": _origin(state.trust, signed)}
    if faults:
        return
    state.add(_trusted(state, signed))
    state.stated = state.attempt(lambda: statements.parse(sealed, statement.KIND, statement.WHERE))


def _trusted(state: _Replay, signed: list[str]) -> Iterator[Finding]:
    if state.trust.name == policy.SELF:
        return
    if not state.trust.named(signed):
        yield warning("origin.unchecked", ENVELOPE, "a key that a policy names", "only the run's own key")
        return
    if state.asked is not None:
        yield from challenge.trusted(state.evidence.read(challenge.FILE), state.trust, state.when)
        yield from challenge.vendor(state.asked, {named.party for named in state.trust.counted(statement.KIND, signed, state.when)})
    unbound = list(challenge.unbound(state.trust, statement.KIND, state.asked))
    yield from unbound or state.trust.judge(statement.KIND, signed, state.when, challenge.parties(state.asked))


def _origin(trust: policy.Policy, signed: list[str]) -> str:
    return policy.SELF if trust.name == policy.SELF else next((named.party for named in trust.named(signed)), "unchecked")


def _envelope(run: Path) -> envelope.Envelope:
    return envelope.as_written(Evidence(run).read(ENVELOPE, envelope.MAX_BYTES), ENVELOPE)


def _signatures(sealed: envelope.Envelope, names: list[str | None], signer: envelope.PublicKey | None) -> Iterator[Finding]:
    for index, (name, signature) in enumerate(zip(names, sealed.signatures, strict=True)):
        where = f"{ENVELOPE}: signature {index}"
        if name is None:
            yield error("envelope.signature", where, "a signature by a known key", f"keyid {signature.keyid}")
        elif name != signature.keyid:
            yield error("envelope.keyid", where, name, signature.keyid)
        elif name in names[:index]:
            yield error("envelope.twin", where, "one signature a key", f"another by {name}")
    if signer is None or envelope.keyid(signer) not in names:
        yield error("envelope.signature", ENVELOPE, "a signature by evidence/signer.pub.pem", "none")


def _log(state: _Replay) -> None:
    folder = state.run / "runlog"
    cosigned = list(_cosigned(state))
    state.log = runlog.read(folder, cosign.sizes(cosigned))
    state.add(state.log.findings)
    state.evidence.stops = heartbeat.stops(state.log.prefixes)
    origin = runlog.ORIGIN + (state.said["run"] if state.said else state.run.name)
    if state.signer is not None:
        state.run_keys = state.attempt(lambda: runkey.read(state.evidence, state.signer)) or []
    spans = runkey.spans(state.log, state.run_keys)
    state.add(runlog.checkpoints(state.log, origin, lambda size: runkey.at(spans, size)))
    witnessed, faults = cosign.judge(cosigned, state.log, origin, state.trust.keys, cosign.quorum(state.trust))
    state.add(faults)
    state.result.run["unwitnessed"] = cosign.unwitnessed(witnessed, state.log)
    if state.said:
        state.add(runlog.bound(state.log, state.said["log"]))
        state.add(challenge.bound(state.asked, state.said, state.log))
        state.add(statement.against_log(state.said, state.log))
        state.add(statement.named(state.said, state.run.name))


def _cosigned(state: _Replay) -> Iterator[cosign.Cosigned]:
    """What witnesses saw: as the vendor kept it in the run log, and as they gave it to whoever verifies."""
    if (state.run / "runlog" / runlog.COSIGNATURES).exists():
        data = state.attempt(lambda: Evidence(state.run / "runlog").read(runlog.COSIGNATURES))
        yield from state.attempt(lambda: cosign.split(data)) or () if data else ()
    yield from state.witnessed


def _tree(state: _Replay, walk: tree.Walk) -> None:
    """What was read for scoring, and every other file, is what SHA256SUMS lists; called last, since each file is read once."""
    state.add(walk.findings)
    state.add(tree.hashed(walk, state.evidence))
    source = Evidence(state.run)
    sums = state.attempt(lambda: source.read(SUMS))
    if sums is None:
        return
    state.add(runlog.closing(state.log, sums))
    if state.stated:
        state.add(statement.subject(state.stated, source.seen[SUMS].sha256))
    state.listed = state.attempt(lambda: tree.parse_sums(sums)) or {}
    if state.listed:
        state.add(tree.compare(state.listed, walk, state.evidence))
        state.add(heartbeat.prefixes(state.evidence, state.log.prefixes, state.listed))
        state.add(runlog.files(state.log, state.listed, walk.sizes()))


def _complete(state: _Replay) -> None:
    plan = state.attempt(lambda: document(state.evidence, "plan.json", "resolved_plan"))
    states = state.attempt(lambda: document(state.evidence, "cases.json", "cases"))
    environment = state.environment = state.attempt(lambda: document(state.evidence, "environment.json", "environment"))
    if state.run_keys:
        state.add(runkey.faults(state.run_keys, state.said, environment, state.log))
    if environment:
        state.add(patches.stated(environment, state.said))
    if plan and environment:
        state.add(patches.permitted(plan, environment))
    if plan and state.said and environment:
        state.add(statement.against_environment(state.said, plan["name"], state.evidence.read("plan.json"), environment))
    if states:
        state.add(complete.attempts(states, state.log))
        if plan:
            state.add(complete.cases(plan, states))
        if state.said:
            state.add(complete.stated(states, state.said["cases"]))
    if plan and states and environment:
        state.add(inside.check(state.evidence, plan, states, environment))
    if plan and states:
        _numbers(state)


def _numbers(state: _Replay) -> None:
    state.result.cases = state.attempt(lambda: evaluate(state.evidence)) or []
    for case in state.result.cases:
        state.add(case.findings)
    state.add(crossed.check(state.result.cases, state.environment or {}))
    if state.said:
        state.add(statement.claimed(state.said, claims(state.result.cases)))
