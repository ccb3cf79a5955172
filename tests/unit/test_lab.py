"""The lab's commands, in order and out of order: each step once, each refusal one line with what to do next.

The runner that re-runs cases is fake (tests/adversarial/audits.py); the real one is tests/integration/test_audit.py.
"""

from __future__ import annotations

import argparse
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kit import run
from kit.cli import main
from kit.errors import KitError
from kit.lab import cli as lab_cli
from kit.lab import issue, office, publish, rerun
from kit.lab.rerun import Task
from tests.adversarial import audits, trust
from tests.adversarial.audits import Office
from verify import audit, audit_cli, ledger, policy, sample
from verify.sample import Member


@pytest.fixture
def lab(tmp_path: Path) -> Office:
    return audits.office(tmp_path / "office")


def run_for(lab: Office) -> Path:
    return audits.vendor_run(lab.folder / "vendor", audits.asked_of(lab.challenge()))


def test_the_secret_is_the_labs_alone_and_fits_its_commitment(lab: Office) -> None:
    made = lab.challenge()
    path = made.folder / "secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sample.commitment(made.secret()) == made.challenge.predicate["revealCommit"]["sha256"]
    assert made.secret().hex() not in (made.audit / "challenge.dsse.json").read_text()
    path.chmod(0o644)
    with pytest.raises(KitError, match="open to others"):
        made.secret()


def test_two_challenges_share_nothing(lab: Office) -> None:
    first, second = lab.challenge(), lab.challenge()
    assert first.challenge.predicate["nonce"] != second.challenge.predicate["nonce"]
    assert first.secret() != second.secret()
    assert set(ledger.read(lab.lab / "ledger").states.values()) == {"open"}


def test_no_step_before_its_time_and_none_twice(lab: Office, tmp_path: Path) -> None:
    run = run_for(lab)
    with pytest.raises(KitError, match=r"challenge is open, not receipted.*give the receipt first"):
        lab.reveal(run)
    with pytest.raises(KitError, match=r"challenge is open, not revealed.*give the receipt first"):
        lab.audit(run)
    lab.receipt(run)
    with pytest.raises(KitError, match=r"challenge is receipted, not open"):
        lab.receipt(run)
    with pytest.raises(KitError, match=r"reveal first"):
        lab.audit(run)
    lab.reveal(run)
    with pytest.raises(KitError, match=r"not receipted"):
        lab.reveal(run)
    with pytest.raises(KitError, match=r"only an audit that passed"):
        lab.publish(run, tmp_path / "RESULT")
    lab.audit(run)
    with pytest.raises(KitError, match=r"it was audited; publish"):
        lab.audit(run)


def test_what_follows_a_failed_audit_is_what_the_page_says(lab: Office, tmp_path: Path) -> None:
    """docs/audit.md, "After a failed audit": declined everywhere, nothing written, on the list for good."""
    lab.factors = lambda _: dict.fromkeys(audits.CASES, 2.0)
    run = run_for(lab)
    lab.receipt(run)
    lab.reveal(run)
    desk, said = lab.audit(run)
    assert (said["verdict"], lab_cli.DONE["fail"]) == ("fail", 1)
    assert said["stages"]["full"] is not None
    assert list(ledger.read(lab.lab / "ledger").states.values()) == ["failed"]
    before = sorted(tmp_path.rglob("*"))
    declined: list[Callable[[], Any]] = [
        lambda: lab.audit(run),
        lambda: lab.publish(run, tmp_path / "RESULT"),
        lambda: publish.withdraw(lab.lab, str(run), "no", lab.keys),
    ]
    for act in declined:
        with pytest.raises(KitError, match=r"challenge is failed") as stop:
            act()
        assert stop.value.exit_code == 1
    assert sorted(tmp_path.rglob("*")) == before
    outcome = audit.audit(run, desk.audit, office.trusted(str(lab.policy)), office.now(), lab.policy)
    assert [fault.rule for fault in outcome.findings if fault.severity == "error"] == ["audit.fail"]
    status = tmp_path / "status.dsse.json"
    for version in (1, 2):
        publish.status(lab.lab, status, (*lab.keys, trust.key("pia")), str(lab.policy), 30)
        listed = publish.check_status(status, str(lab.policy), office.now())
        assert (listed["version"], listed["publications"]) == (version, [])
        assert [(one["vendor"], one["state"]) for one in listed["audits"]] == [("acme", "failed")]


def test_a_verdict_is_told_with_what_comes_next(lab: Office, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for verdict, code in lab_cli.DONE.items():
        done = (argparse.Namespace(audit=lab.folder), {"verdict": verdict, "reasons": []})
        monkeypatch.setattr(rerun, "perform", lambda *_, done=done: done)
        args = argparse.Namespace(folder=lab.lab, run=lab.folder, key=None, policy="self", choose=[], isolation="auto")
        monkeypatch.setattr(lab_cli, "_keys", lambda _: [])
        assert lab_cli._do_audit(args) == code
        assert capsys.readouterr().out.splitlines()[-1] == f"verdict: {verdict}; {lab_cli.NEXT[verdict]}"


def test_a_challenge_takes_one_run(lab: Office) -> None:
    run = run_for(lab)
    lab.receipt(run)
    second = audits.vendor_run(lab.folder / "second", (run / "evidence/challenge.dsse.json").read_bytes())
    with pytest.raises(KitError, match="takes one run"):
        lab.receipt(second)
    with pytest.raises(KitError, match="receipt is on another run"):
        lab.reveal(second)


def test_vendor_and_lab_do_not_share_a_key(lab: Office) -> None:
    lab.keys = (trust.key("ann"), trust.key("leo"))
    with pytest.raises(KitError, match=r"key is not one of lab-a.*--key PEM"):
        lab.challenge()
    lab.policy = Path(policy.SELF)
    with pytest.raises(KitError, match="sign with one key"):
        lab.receipt(run_for(lab))


WRONG_CHALLENGES: dict[str, tuple[dict[str, Any], str]] = {
    "vendor and lab are one": ({"vendor": "lab-a"}, "vendor and lab are one party"),
    "a vendor that nobody knows": ({"vendor": "acne"}, r"--vendor is no vendor of policy tests 1 \(acne\); did you mean 'acme'"),
    "a vendor as the lab": ({"party": "rival"}, "--party is no lab of policy"),
    "another lab's party": ({"party": "lab-b"}, "key is not one of lab-b"),
    "a chip that nobody describes": ({"chip": "cpuu"}, "unknown chip 'cpuu'.*--chips DIR; did you mean 'cpu'"),
    "a suite named twice": ({"strata": ("pretrain=2", "pretrain=3")}, "'pretrain' has two sizes"),
    "a digest that is none": ({"images": ("x",)}, "does not match"),
}


@pytest.mark.parametrize("name", WRONG_CHALLENGES)
def test_a_challenge_that_nobody_could_answer_leaves_nothing(name: str, lab: Office) -> None:
    changes, said = WRONG_CHALLENGES[name]
    with pytest.raises(KitError, match=said):
        lab.challenge(**changes)
    assert list(lab.lab.rglob("*")) == []


def test_a_ledger_of_another_key_leaves_no_secret(lab: Office) -> None:
    lab.challenge()
    before = sorted(lab.lab.rglob("*"))
    lab.keys = (trust.key("leo"), trust.key("lea"))
    lab.policy = Path(policy.SELF)
    with pytest.raises(KitError, match=r"does not hold together.*own --key"):
        lab.challenge()
    assert sorted(lab.lab.rglob("*")) == before


class Stopped(Exception):
    """A crash, made for the test."""


def test_an_audit_that_was_stopped_goes_on_with_the_run_that_was_begun(lab: Office) -> None:
    run = run_for(lab)
    lab.receipt(run)
    lab.reveal(run)
    begun: list[Path] = []
    true = lab.execute

    def crash(task: Task, opened: Callable[[Path], None]) -> Path:
        path = task.out / "tiny-cpu-begun"
        path.mkdir()
        opened(path)
        begun.append(path)
        raise Stopped

    lab.execute = crash  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        lab.audit(run)

    def go_on(task: Task, opened: Callable[[Path], None]) -> Path:
        assert task.resume == begun[0]
        begun[0].rmdir()
        bench = audits.AuditBench(task.out, task.due.cases, {}, audits.asked_of(task.desk))
        bench.run = begun[0]
        bench.evidence = begun[0] / "evidence"
        opened(begun[0])
        return audits.sealed(bench, lab.keys[0])

    lab.execute = go_on  # type: ignore[method-assign]
    desk, said = lab.audit(run)
    lab.execute = true  # type: ignore[method-assign]
    assert [one["name"] for one in said["runs"]] == ["tiny-cpu-begun"]
    assert audit.audit(run, desk.audit, office.trusted(str(lab.policy)), office.now(), lab.policy).verdict == "verified"


def test_a_run_that_was_begun_cannot_be_lost(lab: Office) -> None:
    run = run_for(lab)
    lab.receipt(run)
    lab.reveal(run)

    def lose(task: Task, opened: Callable[[Path], None]) -> Path:
        opened(task.out / "tiny-cpu-lost")
        raise Stopped

    lab.execute = lose  # type: ignore[method-assign]
    for expected in (Stopped, KitError):
        with pytest.raises(expected):
            lab.audit(run)


def test_a_case_that_fails_at_the_lab_is_tried_again_as_often_as_the_vendor_might(lab: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = lab.challenge()
    task = Task(rerun.Due("sample", 0, ("a", "b")), asked, "cpu", lab.folder, None)
    args = argparse.Namespace(isolation="auto", key=None)
    for fails, expected in ((0, 1), (1, 2), (9, 3)):
        resumed: list[Path | None] = []

        def execute(options: run.Options, *_: object, fails: int = fails, resumed: list[Path | None] = resumed) -> Path:
            resumed.append(options.resume)
            (lab.folder / "evidence").mkdir(exist_ok=True)
            states = {"a": "done", "b": "failed" if len(resumed) <= fails else "done", "c": "not_run"}
            cases = [{"id": name, "state": state} for name, state in states.items()]
            (lab.folder / "evidence/cases.json").write_text(json.dumps({"cases": cases}))
            return lab.folder

        monkeypatch.setattr(run, "execute", execute)
        assert lab_cli._execute(task, lambda _: None, args, None) == lab.folder
        assert resumed == [None, *[lab.folder] * (expected - 1)]


def test_cases_by_choice_are_fixed_by_the_first_call(lab: Office) -> None:
    run = run_for(lab)
    lab.receipt(run)
    drawn = lab.reveal(run)
    others = [name for name in audits.CASES if name not in drawn]
    for bad in ((drawn[0],), ("nope",), (others[0], others[0])):
        with pytest.raises(KitError, match=r"cannot be chosen.*choose among"):
            lab.audit(run, bad)

    def crash(*_: object) -> Path:
        raise Stopped

    lab.execute = crash  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        lab.audit(run, (others[0],))
    with pytest.raises(KitError, match="fixed before"):
        lab.audit(run, (others[1],))
    with pytest.raises(Stopped):
        lab.audit(run)


def test_strata_on_the_command_line() -> None:
    members = [Member(f"a{number}", "a") for number in range(4)] + [Member("b0", "b")]
    assert issue.strata(["a:a[01]=2", "b=3"], members) == [
        {"suite": "a", "k": 2, "cases": ["a0", "a1"]},
        {"suite": "a", "k": issue.DEFAULT_K, "cases": None},
        {"suite": "b", "k": 3, "cases": None},
    ]
    for bad in ("a", "a=", "a=0", "a=x", "=1", "c=1", "a:zzz=1"):
        with pytest.raises(KitError):
            issue.strata([bad], members)


def test_a_vendor_who_leaves_after_the_receipt_has_failed(lab: Office) -> None:
    """Attack 42."""
    run = run_for(lab)
    with pytest.raises(KitError, match="only what was received"):
        publish.withdraw(lab.lab, str(run), "wrong upload", lab.keys)
    lab.receipt(run)
    assert publish.withdraw(lab.lab, str(run), "wrong upload", lab.keys) == "failed"
    assert [row["state"] for row in publish.rows(lab.lab)] == ["failed"]
    for step in (lab.receipt, lab.reveal, lab.audit):
        with pytest.raises(KitError, match="challenge is failed"):
            step(run)


def test_a_run_without_an_audit_in_time_has_failed(lab: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.receipt(run_for(lab))
    assert publish.overdue(lab.lab, audits.LAB, lab.keys[0]) == []
    monkeypatch.setattr(office, "now", lambda: policy.parse_time("2098-01-01T00:00:00Z"))
    assert len(publish.overdue(lab.lab, audits.LAB, lab.keys[0])) == 1
    assert [row["state"] for row in publish.rows(lab.lab)] == ["failed"]


def test_the_fake_runner_gives_what_the_real_one_must(lab: Office) -> None:
    """Names of the fields that `kit lab audit` hands to a runner."""
    assert list(rerun.Task.__dataclass_fields__) == ["due", "desk", "chip", "out", "resume"]


BAD: dict[tuple[str, ...], tuple[int, str]] = {
    ("challenge",): (2, "required: --vendor, --party"),
    ("challenge", "--vendor", "v", "--party", "l"): (2, "no trust policy"),
    ("challenge", "--vendor", "v", "--party", "l", "--policy", "self", "--plan", "smoek"): (2, "did you mean 'smoke'?"),
    ("challenge", "--vendor", "v", "--party", "l", "--policy", "self", "--tolerances", "none"): (2, "known: provisional"),
    ("challenge", "--vendor", "v", "--party", "l", "--policy", "self", "--k", "pretrain"): (2, "is not SUITE=K"),
    ("challenge", "--vendor", "v", "--party", "l", "--policy", "self", "--run-days", "0"): (2, "is not a number from 1"),
    ("challenge", "--vendor", "V V", "--party", "l", "--policy", "self"): (2, "predicate.vendor"),
    ("receipt", "docs", "--policy", "self"): (2, "run is not sealed"),
    ("reveal", "nowhere"): (2, "answers no challenge"),
    ("audit", "nowhere", "--policy", "self"): (2, "answers no challenge"),
    ("publish", "nowhere", "--out", "x", "--policy", "self"): (2, "answers no challenge"),
    ("withdraw", "abc", "--reason", "x"): (2, "no single challenge 'abc'"),
    ("status", "--check", "nothing.json", "--policy", "self"): (2, "status list cannot be read"),
    ("status", "--at", "noon", "--check", "x"): (2, "--at is not a time"),
    ("sign", "nothing.json"): (2, "signed statement cannot be read"),
}


@pytest.mark.parametrize("args", BAD, ids=" ".join)
def test_bad_input_is_one_line_and_a_code(args: tuple[str, ...], home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = BAD[args]
    assert main(["lab", *args, "--folder", str(home / "lab")]) == code
    out = capsys.readouterr()
    assert said in out.err
    assert len(out.err.strip().splitlines()) == 1


def test_what_a_person_reads_names_every_value(tmp_path: Path) -> None:
    played = audits.play(tmp_path, factors=lambda _: {"pretrain-1": 1.3})
    outcome = audit.audit(played.run, played.audit, office.trusted(str(played.office.policy)), office.now(), played.office.policy)
    text = "\n".join(audit_cli.lines(outcome))
    assert "case: pretrain-1 was not reproduced in the full re-run" in text
    assert text.count("pretrain-1 tgs: vendor 16000, lab ") == 2
