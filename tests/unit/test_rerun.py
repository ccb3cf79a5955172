"""Which run of the lab is due when, and what its values come to; every value here is made up."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from tests.conftest import ROOT
from verify import rerun, tolerance
from verify.rerun import Due, Facts, LabRun
from verify.sample import Member, Stratum
from verify.tolerance import Row

ROWS = (Row("a", "rate", "*", "higher", Decimal("0.01"), in_mean=True), Row("a", "wait", "*", "lower", Decimal("0.01"), in_mean=False))
TABLE = replace(tolerance.parse((ROOT / "baselines/tolerances/provisional.toml").read_bytes(), "x"), rows=ROWS)
DONE = tuple(Member(f"c{number}", "a") for number in range(10))
CLAIMS = {(member.id, metric): "100" for member in DONE for metric in ("rate", "wait")}
FACTS = Facts(bytes(32), "1" * 64, "2" * 64, (Stratum("a", 4),), TABLE, DONE, CLAIMS, ())
DRAWN = FACTS.drawn


def run(purpose: str, repeat: int, cases: tuple[str, ...], slow: dict[str, str] | None = None, lost: tuple[str, ...] = ()) -> LabRun:
    """A run of the lab over `cases`: rate 100 but for those that are slow, none for those that are lost."""
    values = {(case, metric): "100" for case in cases if case not in lost for metric in ("rate", "wait")}
    values |= {(case, "rate"): rate for case, rate in (slow or {}).items() if case in cases}
    return LabRun(f"{purpose}-{repeat}", purpose, repeat, "3" * 64, "4" * 64, "5" * 64, frozenset(cases), values)


def play(facts: Facts, slow: dict[str, str], lost: tuple[str, ...] = ()) -> Facts:
    """Let the lab make every run that is due."""
    while (wanted := rerun.due(facts)) is not None:
        facts = replace(facts, runs=(*facts.runs, run(wanted.purpose, wanted.repeat, wanted.cases, slow, lost)))
    return facts


def test_an_honest_vendor_needs_one_run() -> None:
    facts = play(FACTS, {})
    assert [(one.purpose, one.repeat, one.tried) for one in facts.runs] == [("sample", 0, frozenset(DRAWN))]
    said = rerun.document(facts)
    assert (said["verdict"], said["reasons"], said["stages"]["full"]) == ("pass", [], None)
    assert said["sample"] == DRAWN
    assert said["stages"]["sample"]["mean"]["cases"] == 4


def test_a_case_that_is_not_reproduced_is_run_four_times_more_then_everything_is() -> None:
    bad = DRAWN[1]
    facts = play(FACTS, {bad: "80"})
    assert [(one.purpose, one.repeat, len(one.tried)) for one in facts.runs] == [
        ("sample", 0, 4), *(("sample", number, 1) for number in range(1, 5)), ("full", 0, 10), *(("full", number, 1) for number in range(1, 5)),
    ]  # fmt: skip
    said = rerun.document(facts)
    assert said["verdict"] == "fail"
    assert any(f"case: {bad} was not reproduced in the full re-run" in reason for reason in said["reasons"])


def test_a_forged_case_outside_the_sample_comes_out_in_the_full_re_run() -> None:
    hidden = next(member.id for member in DONE if member.id not in DRAWN)
    facts = play(FACTS, {DRAWN[0]: "80", hidden: "80"})
    assert {reason.split()[1] for reason in rerun.document(facts)["reasons"] if reason.startswith("case:")} == {DRAWN[0], hidden}
    assert rerun.document(play(FACTS, {hidden: "80"}))["verdict"] == "pass"


def test_an_outlier_of_the_lab_is_outvoted_by_its_repeats() -> None:
    first = run("sample", 0, tuple(DRAWN), {DRAWN[0]: "94"})
    facts = play(replace(FACTS, runs=(first,)), {})
    assert [one.purpose for one in facts.runs] == ["sample"] * 5
    assert rerun.document(facts)["verdict"] == "pass"


def test_claims_that_are_all_too_high_are_run_again_as_a_whole() -> None:
    facts = play(FACTS, {member.id: "97" for member in DONE})
    assert [one.purpose for one in facts.runs] == ["sample", "full"]
    assert rerun.document(facts)["verdict"] == "fail"


def test_a_case_that_the_lab_cannot_do_leaves_the_audit_partial() -> None:
    facts = play(FACTS, {}, lost=(DRAWN[2],))
    assert len(facts.runs) == 1
    said = rerun.document(facts)
    assert said["verdict"] == "partial"
    assert said["reasons"][0].startswith(f"missing: {DRAWN[2]}")


def test_cases_by_choice_are_run_and_listed_apart() -> None:
    chosen = next(member.id for member in DONE if member.id not in DRAWN)
    facts = play(replace(FACTS, chosen=(chosen,)), {})
    said = rerun.document(facts)
    assert facts.runs[0].tried == {*DRAWN, chosen}
    assert (said["chosen"], chosen in said["sample"], said["stages"]["sample"]["mean"]["cases"]) == ([chosen], False, 4)
    assert any(one["id"] == chosen for one in said["stages"]["sample"]["cases"])


def test_only_cases_that_the_vendor_has_done_are_drawn() -> None:
    few = replace(FACTS, done=DONE[:3])
    assert sorted(few.drawn) == ["c0", "c1", "c2"]


OUT_OF_TURN = {
    "a second sample run without need": lambda f: (*f.runs, run("sample", 1, tuple(DRAWN))),
    "a sample of the lab's choice": lambda f: (run("sample", 0, tuple(m.id for m in DONE[:4] if m.id not in DRAWN)),),
    "a case left out": lambda f: (run("sample", 0, tuple(DRAWN[:3])),),
    "a full run at once": lambda f: (run("full", 0, tuple(m.id for m in DONE)),),
    "a wrong number": lambda f: (run("sample", 1, tuple(DRAWN)),),
}


@pytest.mark.parametrize("name", OUT_OF_TURN)
def test_a_run_out_of_turn_is_told(name: str) -> None:
    facts = play(FACTS, {})
    assert rerun.out_of_turn(facts) == []
    assert rerun.out_of_turn(replace(facts, runs=OUT_OF_TURN[name](facts))) != []


def test_the_first_due_run_is_the_sample() -> None:
    assert rerun.due(FACTS) == Due("sample", 0, tuple(DRAWN))
