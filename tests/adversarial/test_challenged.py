"""A run that does not do what its challenge asks is refused by one rule, and the honest one by none."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kit.errors import KitError
from kit.lab.office import read_own
from tests.adversarial import audits
from tests.adversarial.audits import Played
from verify import challenged, policy, tolerance
from verify.sample import Member
from verify.statements import Statement


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Played:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHIPASSAY_STATE", str(tmp_path_factory.mktemp("state")))
        lab = audits.office(tmp_path_factory.mktemp("asked"))
        asked = lab.challenge()
        run = audits.vendor_run(lab.folder / "vendor", audits.asked_of(asked))
        lab.receipt(run)
        return Played(lab, asked, run, {})


def changed(made: Statement, change: Callable[[dict[str, Any]], Any]) -> Statement:
    predicate = copy.deepcopy(made.predicate)
    change(predicate)
    return Statement(made.kind, made.sha256, dict(made.subject), predicate)


def run_of(honest: Played) -> Statement:
    return read_own(honest.run / "run.dsse.json", "vendor-run/v1")


def table_of(honest: Played) -> tolerance.Table:
    return tolerance.parse((honest.audit / "tolerances.toml").read_bytes(), "x")


RUN: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
    "another chip": ("challenge.chip", lambda p: p.update(chip="other")),
    "begun before the challenge": ("challenge.window", lambda p: p.update(started="2026-01-01T00:00:00Z")),
    "ended after its time": ("challenge.window", lambda p: p.update(finished="2098-01-01T00:00:00Z")),
    "another challenge": ("challenge.run", lambda p: p.update(challenge={"sha256": "0" * 64})),
    "another plan": ("challenge.plan", lambda p: p["plan"].update(sha256="0" * 64)),
}


@pytest.mark.parametrize("name", RUN)
def test_a_run_that_does_something_else(name: str, honest: Played) -> None:
    rule, change = RUN[name]
    assert list(challenged.run_faults(honest.desk.challenge, run_of(honest))) == []
    assert [fault.rule for fault in challenged.run_faults(honest.desk.challenge, changed(run_of(honest), change))] == [rule]


def test_what_the_run_may_use(honest: Played) -> None:
    kit = run_of(honest).predicate["kit"]["tree"]["sha256"]
    for images, kits, rules in (
        ([], [kit], []),
        ([], ["0" * 64], ["challenge.allowed"]),
        (["sha256:" + "0" * 64], [], ["challenge.allowed"]),
    ):
        asked = changed(honest.desk.challenge, lambda p, images=images, kits=kits: p.update(allowed={"images": images, "kits": kits}))
        assert [fault.rule for fault in challenged.run_faults(asked, run_of(honest))] == rules


def test_more_attempts_than_allowed(honest: Played) -> None:
    asked = changed(honest.desk.challenge, lambda p: p.update(maxAttempts=0))
    found = [fault.rule for fault in challenged.evidence_faults(asked, run_of(honest), honest.run, table_of(honest))]
    assert set(found) == {"challenge.attempts"}
    assert list(challenged.evidence_faults(honest.desk.challenge, run_of(honest), honest.run, table_of(honest))) == []


def test_a_case_without_a_claim_that_can_be_compared(honest: Played) -> None:
    run = changed(
        run_of(honest), lambda p: p.update(claims=[c for c in p["claims"] if (c["case"], c["metric"]) != ("text-1", "throughput")])
    )
    found = list(challenged.evidence_faults(honest.desk.challenge, run, honest.run, table_of(honest)))
    assert [(fault.rule, fault.where) for fault in found] == [("challenge.claims", "case text-1")]


def test_strata_and_tolerances_cover_the_plan(honest: Played) -> None:
    members = [Member("a", "pretrain"), Member("b", "unheard_of")]
    rules = {fault.rule for fault in challenged.plan_faults(honest.desk.challenge, members, table_of(honest))}
    assert rules == {"challenge.strata", "challenge.tolerances"}


def test_a_receipt_has_its_time(honest: Played) -> None:
    taken = honest.desk.read("receipt")
    assert list(challenged.received_in_time(honest.desk.challenge, taken)) == []
    for time in ("2026-01-01T00:00:00Z", "2098-01-01T00:00:00Z"):
        late = changed(taken, lambda p, time=time: p.update(received=time))
        assert [fault.rule for fault in challenged.received_in_time(honest.desk.challenge, late)] == ["receipt.time"]


@pytest.mark.parametrize(
    ("asked", "good"),
    [
        ({"version": 2, "sha256": "2" * 64}, True),
        ({"version": 1, "sha256": "1" * 64}, True),
        ({"version": 2, "sha256": "1" * 64}, False),
        ({"version": 3, "sha256": "3" * 64}, False),
        (None, False),
    ],
)
def test_the_policy_of_the_challenge_is_this_one_or_an_earlier(asked: dict[str, Any] | None, good: bool, honest: Played) -> None:
    made = changed(honest.desk.challenge, lambda p: p.update(policy=asked))
    found = [fault.rule for fault in challenged.policy_faults(made, policy.Policy("tests 2", version=2, sha256="2" * 64))]
    assert found == ([] if good else ["challenge.policy"])
    assert list(challenged.policy_faults(made, policy.OWN)) == []


def test_a_vendor_who_changes_the_rules_is_refused_at_the_desk(tmp_path: Path) -> None:
    lab = audits.office(tmp_path)
    asked = lab.challenge()
    other = audits.office(tmp_path / "other").challenge()
    for number, given in enumerate((None, audits.asked_of(other))):
        with pytest.raises(KitError, match="answers no challenge|no such challenge"):
            lab.receipt(audits.vendor_run(tmp_path / f"v{number}", given))
    honest = audits.vendor_run(tmp_path / "v", audits.asked_of(asked))
    (next(honest.rglob("stdout.log"))).write_text("x")
    with pytest.raises(KitError, match=r"tree\.digest"):
        lab.receipt(honest)
