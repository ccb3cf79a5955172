"""Every deviation from the audit's rules is refused by the rule that is named for it: attacks 17 to 25 and 40 to 42.

An honest audit is played once; each test breaks a copy of it. Where a lab lies, it signs its lies with its true keys.
"""

from __future__ import annotations

import base64
import datetime
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from kit import statements
from kit.lab.ledger import Writer
from tests.adversarial import audits, builder, trust
from tests.adversarial.audits import Played
from verify import audit, audit_cli, chain, cli, ledger, policy
from verify.strict import canonical

LAB = ("lea", "leo")
AUDIT, REVEAL, RECEIPT, CHALLENGE = (f"{name}.dsse.json" for name in ("lab-audit", "reveal", "receipt", "challenge"))


@dataclass(frozen=True)
class Copy:
    """One audit to break."""

    run: Path
    audit: Path
    policy: Path

    def restate(self, name: str, change: Callable[[dict[str, Any]], Any], signers: tuple[str, ...] = LAB) -> None:
        """Change a statement and sign it again."""
        path = self.audit / name
        statement = payload(path)
        change(statement)
        path.write_bytes(statements.sign(canonical(statement), [trust.key(person) for person in signers]))

    def said(self, change: Callable[[dict[str, Any]], Any]) -> None:
        """Let the lab say something else in its audit."""
        self.restate(AUDIT, lambda statement: change(statement["predicate"]))

    def check(self, source: str | Path | None = "", at: datetime.datetime | None = None) -> audit.Outcome:
        named = self.policy if source == "" else source
        time = at or datetime.datetime.now(datetime.UTC)
        return audit.audit(self.run, self.audit, chain.load(named, time), time, named)


def payload(path: Path) -> dict[str, Any]:
    return dict(json.loads(base64.b64decode(json.loads(path.read_bytes())["payload"])))


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Played:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHIPASSAY_STATE", str(tmp_path_factory.mktemp("state")))
        return audits.play(tmp_path_factory.mktemp("honest"), choose=1)


@pytest.fixture
def made(honest: Played, tmp_path: Path) -> Copy:
    shutil.copytree(honest.run, tmp_path / "vendor" / honest.run.name)
    shutil.copytree(honest.audit, tmp_path / "audit")
    return Copy(tmp_path / "vendor" / honest.run.name, tmp_path / "audit", honest.office.policy)


def broken(outcome: audit.Outcome) -> set[str]:
    return {finding.rule for finding in outcome.findings if finding.severity == "error"}


def lab_run(made: Copy) -> Path:
    return next((made.audit / "runs").iterdir())


def test_an_honest_audit_holds(made: Copy) -> None:
    outcome = made.check()
    assert (outcome.verdict, outcome.findings) == ("verified", [])
    assert outcome.stated is not None
    assert outcome.stated["verdict"] == "pass"


def swap(made: Copy, name: str, key: str, value: Any) -> None:
    made.restate(name, lambda s: s["predicate"].update({key: value}))


def asked(made: Copy, *, other: bool = False) -> bytes:
    """The challenge of the audit, or another of the same lab."""
    if not other:
        return (made.audit / CHALLENGE).read_bytes()
    statement = payload(made.audit / CHALLENGE)
    statement["predicate"]["nonce"] = "f" * 32
    return statements.sign(canonical(statement), [trust.key("lea")])


def second_run(made: Copy, key: str = "lea", cases: tuple[str, ...] | None = None, *, other: bool = False) -> Path:
    """Another run of the lab put in the place of the first, and stated as if it were it."""
    old = lab_run(made)
    drawn = tuple(payload(made.audit / AUDIT)["predicate"]["sample"])
    chosen = tuple(payload(made.audit / AUDIT)["predicate"]["chosen"])
    shutil.rmtree(old)
    bench = audits.AuditBench(made.audit / "runs", cases or (*drawn, *chosen), {}, asked(made, other=other))
    bench.run = bench.run.with_name(old.name)
    bench.evidence = bench.run / "evidence"
    return audits.sealed(bench, trust.key(key))


def copied(made: Copy) -> None:
    """The vendor's events under the lab's seal."""
    old, names = lab_run(made), payload(made.audit / AUDIT)["predicate"]
    cases = (*names["sample"], *names["chosen"])
    shutil.rmtree(old)
    bench = audits.AuditBench(made.audit / "runs", cases, {}, asked(made))
    bench.run = bench.run.with_name(old.name)
    bench.evidence = bench.run / "evidence"
    for case in cases:
        for file in bench.events[case]:
            bench.raw[f"{case}/{file}"] = (made.run / f"evidence/cases/{case}/attempt-1/{file}").read_bytes()
    audits.sealed(bench, trust.key("lea"))


def another_plan(made: Copy) -> None:
    run = second_run(made)
    with patch.object(builder, "KEY", trust.key("lea")):
        builder.reseal(run, lambda s: s["predicate"]["plan"].update(sha256="0" * 64))


def another_chip(made: Copy) -> None:
    run = second_run(made)
    with patch.object(builder, "KEY", trust.key("lea")):
        builder.reseal(run, lambda s: s["predicate"].update(chip="another"))


def book(made: Copy, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    """Rewrite the ledger and sign it anew, as a lab could that forgets its earlier checkpoints."""
    path = made.audit / "ledger"
    entries = [json.loads(line) for line in (path / ledger.ENTRIES).read_bytes().splitlines()]
    change(entries)
    for number, entry in enumerate(entries):
        entry["n"] = number
    (path / ledger.ENTRIES).write_bytes(b"".join(canonical(entry) + b"\n" for entry in entries))
    (path / ledger.CHECKPOINTS).write_bytes(b"")
    writer = object.__new__(Writer)
    writer.folder, writer._origin, writer._key = path, ledger.ORIGIN + "lab-a", trust.key("lea")
    writer._path = path / ledger.ENTRIES
    writer._finish_checkpoints()


def first(entries: list[dict[str, Any]], kind: str) -> int:
    return next(index for index, entry in enumerate(entries) if entry["type"] == kind)


def foreign_run(made: Copy) -> None:
    """A run of the rival in the place of the vendor's."""
    shutil.rmtree(made.run)
    bench = audits.AuditBench(made.run.parent, audits.CASES, {}, asked(made))
    bench.run = made.run
    bench.evidence = made.run / "evidence"
    audits.sealed(bench, trust.key("rob"))


def other_run(made: Copy, given: bytes | None = b"same") -> None:
    """Another run of the same vendor in the place of the audited one."""
    shutil.rmtree(made.run)
    bench = audits.AuditBench(made.run.parent, audits.CASES, {}, asked(made) if given == b"same" else given)
    bench.run = made.run
    bench.evidence = made.run / "evidence"
    audits.sealed(bench, trust.key("ann"))


def stage(said: dict[str, Any]) -> dict[str, Any]:
    return dict(said["stages"]["sample"])


D = {"sha256": "0" * 64}
ATTACKS: list[tuple[int, str, str, Callable[[Copy], Any]]] = [
    (17, "an old run for a new challenge", "challenge.run", lambda m: other_run(m, asked(m, other=True))),
    (17, "a run for no challenge", "challenge.run", lambda m: other_run(m, None)),
    (19, "another vendor's run", "challenge.vendor", foreign_run),
    (21, "the lab picks the sample", "audit.sample", lambda m: m.said(lambda s: s.update(sample=sorted(s["sample"], reverse=True)))),
    (21, "the lab opens another r", "reveal.commit", lambda m: swap(m, REVEAL, "r", "0" * 64)),
    (21, "the audit tells another r", "audit.secret", lambda m: m.said(lambda s: s.update(r="0" * 64))),
    (21, "the audit tells another seed", "audit.seed", lambda m: m.said(lambda s: s.update(seed="0" * 64))),
    (21, "a sampled case is called chosen", "audit.chosen", lambda m: m.said(lambda s: s.update(chosen=[s["sample"][0]]))),
    (21, "a case is chosen twice", "audit.chosen", lambda m: m.said(lambda s: s.update(chosen=s["chosen"] * 2))),
    (22, "a reveal that names no receipt", "reveal.receipt", lambda m: swap(m, REVEAL, "receipt", D)),
    (22, "an audit without that receipt", "audit.receipt", lambda m: m.said(lambda s: s.update(receipt=D))),
    (22, "reveal before receipt in the ledger", "ledger.state",
     lambda m: book(m, lambda e: e.insert(first(e, "receipt"), e.pop(first(e, "reveal"))))),
    (22, "a receipt from before the challenge", "receipt.time", lambda m: swap(m, RECEIPT, "received", "2026-01-02T00:00:00Z")),
    (23, "audit of run A attached to run B", "audit.run", other_run),
    (23, "receipt of run A for run B", "receipt.run", other_run),
    (23, "receipt of another challenge", "receipt.challenge", lambda m: swap(m, RECEIPT, "challenge", D)),
    (23, "reveal of another challenge", "reveal.challenge", lambda m: m.restate(REVEAL, lambda s: s["subject"][0].update(digest=D))),
    (23, "audit of another challenge", "audit.challenge", lambda m: m.said(lambda s: s.update(challenge=D))),
    (23, "audit after another reveal", "audit.reveal", lambda m: m.said(lambda s: s.update(reveal=D))),
    (13, "the vendor signs the audit", "policy.role", lambda m: m.restate(AUDIT, lambda _: None, ("ann",))),
    (11, "one person signs the audit", "policy.threshold", lambda m: m.restate(AUDIT, lambda _: None, ("lea",))),
    (11, "another lab signs the audit", "policy.threshold", lambda m: m.restate(AUDIT, lambda _: None, ("liz",))),
    (13, "another lab signs the challenge", "challenge.lab", lambda m: m.restate(CHALLENGE, lambda _: None, ("liz",))),
    (21, "values that the lab's runs do not give", "audit.values",
     lambda m: m.said(lambda s: s["stages"]["sample"]["cases"][0].update(lab=["99999"]))),
    (21, "a limit that the table does not give", "audit.values", lambda m: m.said(lambda s: stage(s)["mean"].update(limit="1"))),
    (24, "a verdict that does not follow", "audit.decision", lambda m: m.said(lambda s: s.update(verdict="partial"))),
    (21, "a tolerance table exchanged", "audit.tolerances",
     lambda m: (m.audit / "tolerances.toml").write_bytes((m.audit / "tolerances.toml").read_bytes() + b"\n")),
    (18, "another run of the lab shown than the one made", "audit.runs", second_run),
    (18, "a run of the lab kept back", "ledger.runs",
     lambda m: book(m, lambda e: e.insert(first(e, "run-end"), e[first(e, "run-start")] | {"name_sha256": "0" * 64}))),
    (18, "a run of the lab that was never begun", "ledger.runs", lambda m: book(m, lambda e: e.pop(first(e, "run-start")))),
    (18, "a run that was not due", "audit.turn", lambda m: m.said(lambda s: s["runs"][0].update(purpose="full"))),
    (18, "a case of the sample left out", "audit.turn",
     lambda m: second_run(m, cases=tuple(payload(m.audit / AUDIT)["predicate"]["sample"][1:]))),
    (19, "the vendor's events as the lab's", "audit.copied", copied),
    (13, "a run of the lab that the vendor sealed", "audit.run_signer", lambda m: second_run(m, key="ann")),
    (17, "a run of the lab under another challenge", "audit.run_challenge", lambda m: second_run(m, other=True)),
    (17, "a run of the lab with another plan", "audit.run_plan", another_plan),
    (33, "a run of the lab on another chip", "audit.run_chip", another_chip),
    (1, "a log of the lab's run edited", "tree.digest", lambda m: next(lab_run(m).rglob("stdout.log")).write_text("x")),
    (23, "file list of another run of the lab", "audit.run_subject", lambda m: m.restate(AUDIT, lambda s: s["subject"][1].update(digest=D))),
    (6, "claims recomputed that are not these", "audit.replay", lambda m: m.said(lambda s: s["replay"].update(claims=D))),
    (26, "another ledger", "ledger.root", lambda m: m.said(lambda s: s["ledger"].update(root=base64.b64encode(bytes(32)).decode()))),
    (18, "a nonce used twice", "ledger.nonce",
     lambda m: book(m, lambda e: e.append(e[0] | {"challenge": "0" * 64, "wall_ns": e[-1]["wall_ns"]}))),
    (18, "a second receipt in the ledger", "ledger.told",
     lambda m: book(m, lambda e: e.insert(first(e, "receipt"), e[first(e, "receipt")] | {"run_sha256": "0" * 64}))),
    (26, "a ledger that others signed", "ledger.checkpoint", lambda m: (m.audit / "ledger/checkpoints.txt").write_bytes(b"")),
    (42, "the way back", "ledger.state", lambda m: book(m, lambda e: e.append(e[first(e, "receipt")] | {"wall_ns": e[-1]["wall_ns"]}))),
    (5, "a file beside the audit", "audit.folder", lambda m: (m.audit / "notes.txt").write_text("x")),
    (1, "a log of the vendor edited", "tree.digest", lambda m: next(m.run.rglob("stdout.log")).write_text("x")),
]  # fmt: skip


@pytest.mark.parametrize(("row", "name", "rule", "act"), ATTACKS, ids=[f"{row}: {name}" for row, name, _, _ in ATTACKS])
def test_attack_is_refused_by_its_rule(row: int, name: str, rule: str, act: Callable[[Copy], Any], made: Copy) -> None:
    act(made)
    outcome = made.check()
    assert outcome.verdict == "refused"
    assert rule in broken(outcome), outcome.findings
    assert "verdict: refused" in audit_cli.lines(outcome)


@pytest.mark.parametrize("name", audit.TOP)
def test_with_any_part_missing_nothing_is_verified(name: str, made: Copy) -> None:
    """Attack 41."""
    path = made.audit / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert made.check().verdict != "verified"


def test_without_a_policy_an_audit_is_unchecked_and_with_self_it_is_whole(made: Copy) -> None:
    assert (made.check(None).verdict, made.check("self").verdict) == ("unchecked", "verified")


def test_under_its_own_keys_a_change_is_refused_all_the_same(made: Copy) -> None:
    made.said(lambda s: s.update(seed="0" * 64))
    assert broken(made.check("self")) == {"audit.seed"}


def test_a_key_revoked_after_the_receipt_takes_nothing_back(made: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attack 40: the vendor's signature is judged at the time of the lab's receipt."""
    received = policy.parse_time(payload(made.audit / RECEIPT)["predicate"]["received"])
    for seconds, verdict in ((60, "verified"), (-60, "refused")):
        since = policy.format_time(received + datetime.timedelta(seconds=seconds))
        old = json.loads(base64.b64decode(json.loads((made.policy.parent / "1.dsse.json").read_bytes())["payload"]))
        new = trust.after(old)
        new["keys"][trust.name("ann")]["revoked"] = {"since": since, "reason": "compromise"}
        path = trust.write(made.audit.parent / f"trust{seconds}", trust.seal(old), trust.seal(new))
        monkeypatch.setenv("CHIPASSAY_STATE", str(made.audit.parent / f"state{seconds}"))
        outcome = made.check(path, received + datetime.timedelta(days=2))
        assert outcome.verdict == verdict, outcome.findings


def test_the_command_line_says_it_by_exit_code(made: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["audit", str(made.run), str(made.audit)]
    assert cli.main([*arguments, "--policy", str(made.policy)]) == 0
    assert "verdict: verified" in capsys.readouterr().out
    assert cli.main([*arguments, "--policy", str(made.policy), "--json", "-"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["verdict"], said["audit"]["verdict"], said["findings"]) == ("verified", "pass", [])
    assert cli.main(arguments) == 2
    made.said(lambda s: s.update(seed="0" * 64))
    assert cli.main([*arguments, "--policy", str(made.policy)]) == 1
    assert cli.main(["audit", str(made.run), str(made.audit / "nothing"), "--policy", "self"]) == 2
    assert cli.main(["audit", str(made.audit), str(made.audit), "--policy", "self"]) in {1, 2}


FORGED = {
    "24: one case in ten forged by 30 %": ({}, lambda task: {"pretrain-1": 1.3}),
    "25: every claim 10 % too high": ({}, lambda _: dict.fromkeys(audits.CASES, 1.1)),
}


@pytest.mark.parametrize("name", FORGED)
def test_claims_that_the_lab_cannot_reproduce_fail(name: str, tmp_path: Path) -> None:
    """Attacks 24 and 25, played to the end: the lab's machine is slower than the vendor says."""
    vendor, factors = FORGED[name]
    played = audits.play(tmp_path, vendor=vendor, factors=factors)
    copy = Copy(played.run, played.audit, played.office.policy)
    outcome = copy.check()
    assert played.said["verdict"] == "fail"
    assert broken(outcome) == {"audit.fail"}
    assert [task.due.purpose for task in played.office.made].count("full") >= 1
    copy.said(lambda s: s.update(verdict="pass", reasons=[]))
    assert "audit.decision" in broken(copy.check())


def test_a_case_that_the_lab_cannot_do_leaves_the_audit_partial(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    played = audits.play(tmp_path, failing=("pretrain-1",))
    assert played.said["verdict"] == "partial"
    outcome = Copy(played.run, played.audit, played.office.policy).check()
    assert (outcome.verdict, [finding.rule for finding in outcome.findings]) == ("unchecked", ["audit.partial"])
    assert cli.main(["audit", str(played.run), str(played.audit), "--policy", str(played.office.policy)]) == 2
    assert "missing: pretrain-1" in capsys.readouterr().out


def test_a_case_that_the_vendor_has_not_done_is_never_drawn(tmp_path: Path) -> None:
    played = audits.play(tmp_path, vendor_failing=("pretrain-1", "text-1"))
    assert played.said["verdict"] == "pass"
    assert not {"pretrain-1", "text-1"} & set(played.said["sample"])
    assert Copy(played.run, played.audit, played.office.policy).check().verdict == "verified"


def test_another_verify_that_scored_is_worth_knowing(made: Copy) -> None:
    made.said(lambda s: s["replay"].update(scorer=D))
    outcome = made.check()
    assert (outcome.verdict, [finding.rule for finding in outcome.findings]) == ("verified", ["audit.scorer"])
