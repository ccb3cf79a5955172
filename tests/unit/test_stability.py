"""Stability: crashes, hours and goodput by hand; sessions across a reboot; what is scored."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from kit import plan, storage
from kit.errors import KitError
from tests.adversarial import stabilities as built
from tests.adversarial.builder import WALL_NS, Event
from tests.adversarial.stabilities import BOOT_NS, S
from verify import profile, replay, stability_events
from verify.files import Evidence
from verify.metrics import stability
from verify.scoring import formulas
from verify.stability_losses import copied


def replayed(folder: Path, made: list[Event] | None = None, **fields: Any) -> Any:
    return replay.replay(built.build(folder, made, **fields), "self")


def values(outcome: Any) -> dict[str, Fraction]:
    return {name: metric.value for name, metric in outcome.cases[-1].metrics.items()}


def test_numbers_by_hand(tmp_path: Path) -> None:
    outcome = replayed(tmp_path)
    assert (outcome.verdict, outcome.findings) == ("verified", [])
    # life 0 steps from 2 s to 12.002 s; life 1 from 15.002 to 18.002; life 2 from 23.002 to 41.006; saves take 1 ms behind 4 steps
    last = Fraction(41_006_000_000)
    assert values(outcome) == {
        "crashes": 2, "crashes_process_end": 1, "crashes_hang": 1, "steps": 26, "duration_h": last / (3600 * S),
        "longest_fault_free_h": (last - 24_002_000_000) / (3600 * S),  # from the first step after the second crash to the end
        "goodput": (26 * S - 13 * 10**6) / last,  # steps 8 to 10 were done two and three times, and count once
        "recovery_mean_s": Fraction(4 + 6, 2),  # 12.002 to 16.002, 18.002 to 24.002
    }  # fmt: skip


def test_score_by_hand(tmp_path: Path) -> None:
    # F12 with 2 crashes 1/9, F13 with h hours, F11 with no variance: 0.6/9 + 0.2 h/72 + 0.2
    h = values(replayed(tmp_path))["longest_fault_free_h"]
    parts = [(Fraction(6, 10), formulas.crash_score(Fraction(2))), (Fraction(2, 10), formulas.longest_score(h, Fraction(72)))]
    parts.append((Fraction(2, 10), formulas.variance_score(Fraction(0))))
    assert formulas.weighted(parts) == Fraction(6, 90) + Fraction(2, 10) * h / 72 + Fraction(2, 10)


def test_a_run_without_a_crash_is_fault_free_from_begin_to_end(tmp_path: Path) -> None:
    made: list[Event] = [built.session(1, 1, BOOT_NS, 0)]
    at = built.life(made, 0, 0, BOOT_NS, 38)
    made.append({"e": "end", "at_ns": at})
    found = values(replayed(tmp_path, built.told(made)))
    assert found["crashes"] == 0
    assert found["longest_fault_free_h"] == found["duration_h"] == Fraction(at - BOOT_NS, 3600 * S)
    assert "recovery_mean_s" not in found


def rebooted(boot: str, attempt: int = 2) -> list[Event]:
    """Ten steps, then the machine is off, or only the supervisor gone; another attempt goes on from step 8."""
    made: list[Event] = [built.session(1, 1, BOOT_NS, 0, wall=WALL_NS - 15 * S)]
    at = built.life(made, 0, 0, BOOT_NS, 10)
    begin = BOOT_NS + 15 * S if boot == "b0" else 7 * S
    made.append(built.crash("supervisor" if boot == "b0" else "reboot", 0, begin))
    made.append(built.session(2, attempt, begin, 15 * S, boot, wall=WALL_NS))
    at = built.life(made, 0, 8, begin, 24)
    made.append({"e": "end", "at_ns": at})
    return built.told(made)


def measured(made: list[Event], attempt: int) -> stability.Measured:
    """What verify makes of the events of that attempt."""
    from verify import events

    kind = events.union(stability.EVENTS)
    made[0]["attempt"] = attempt
    return stability.measure(built.CASE, [(0, [events.parse(json.dumps(event).encode(), kind, "test") for event in made])])


RETOLD: dict[str, tuple[Callable[[list[Event]], Any], set[str]]] = {
    "as it was": (lambda _: None, set()),
    "the end of it was lost with the power": (lambda e: e.pop(-1), set()),
    "the journal lost its end": (
        lambda e: e.append({**e[-1], "step": 10, "begin_ns": e[-1]["end_ns"], "end_ns": e[-1]["end_ns"] + S}),
        set(),
    ),
    "a torn line behind the last": (lambda e: e.append({"e": "torn"}), set()),
    "a loss that became better": (lambda e: built.of("step", e)[3].update(loss=9.0), {"stability.retold"}),
    "a crash that is told no more": (lambda e: e.append({"t": 90} | built.crash("hang", 0, BOOT_NS + 13 * S)), {"stability.retold"}),
    "nothing was recorded of ten steps": (lambda e: e.clear(), {"stability.retold"}),
    "a session that began at another time": (lambda e: e[0].update(wall_ns=WALL_NS - 9 * S), {"stability.clock"}),
}


@pytest.mark.parametrize("name", RETOLD)
def test_what_an_earlier_attempt_recorded_is_told_again(name: str, tmp_path: Path) -> None:
    """The journal lies on the vendor's disk between two attempts; what the first recorded of it was bound then."""
    change, rules = RETOLD[name]
    made = rebooted("b1")
    found = measured(made, 2)
    first = [copy.deepcopy(event) for event in made[: made.index(built.of("crash", made)[0])]]
    first[0] |= {"wall_ns": WALL_NS - 15 * S, "attempt": 1}
    change(first)
    folder = tmp_path / "cases" / built.STABILITY / "attempt-1"
    folder.mkdir(parents=True)
    lines = [json.dumps(event) + "\n" for event in first]
    text = "".join(lines)
    (folder / "events-00000.jsonl").write_text(text[:-5] if "torn" in text else text, encoding="utf-8")
    evidence = Evidence(tmp_path)
    case = built.CASE | {"hang_s": 1, "start_s": 1}
    assert {finding.rule for finding in stability.kept(case, found, evidence, f"cases/{built.STABILITY}/attempt-2")} == rules


@pytest.mark.parametrize("boot", ["b0", "b1"])
def test_a_gap_between_sessions_counts(boot: str) -> None:
    found = measured(rebooted(boot), 2)
    assert list(stability.rules(built.CASE, found)) == []
    metrics = stability.metrics(built.CASE, found)
    assert metrics["crashes"].value == 1
    assert metrics["crashes_supervisor" if boot == "b0" else "crashes_reboot"].value == 1
    assert metrics["duration_h"].value == Fraction(15 * S + 2 * S + 24 * S + 6 * 10**6, 3600 * S)
    assert metrics["recovery_mean_s"].value == Fraction(15 + 2 + 1) - Fraction(12_002, 1000)


def test_an_attempt_of_which_the_journal_does_not_tell_is_a_crash() -> None:
    assert stability.crashes(measured(rebooted("b0", 3), 3)) == 2


def test_fewer_sessions_than_the_attempt_says_are_refused() -> None:
    found = list(stability.rules(built.CASE, measured(rebooted("b0", 2), 3)))
    assert [finding.rule for finding in found] == ["stability.sessions"]


WARNED: dict[str, tuple[str, Callable[[list[Event]], Any], dict[str, Any]]] = {
    "a clock that was set": (
        "stability.clock",
        lambda e: e.insert(-1, {"t": e[-2]["t"], "e": "clock_step", "at_ns": 0, "step_ns": 5 * S}),
        {},
    ),
    "a rehearsal": ("stability.rehearsal", lambda e: built.put_in(e, 0, 1), built.ONE),
}


@pytest.mark.parametrize("name", WARNED)
def test_finding_without_refusal(name: str, tmp_path: Path) -> None:
    rule, change, fields = WARNED[name]
    made = built.events()
    change(made)
    outcome = replayed(tmp_path, made, **fields)
    assert outcome.verdict == "verified"
    assert {(finding.rule, finding.severity) for finding in outcome.findings} == {(rule, "warning")}


def test_metrics_are_those_that_the_profile_scores(tmp_path: Path) -> None:
    table = next(table for table in profile.load("report-0.2.1").tables if table.id == "stability")
    case = replayed(tmp_path).cases[-1]
    assert {part.metric for part in table.parts if not part.series} <= case.metrics.keys()
    assert {part.series for part in table.parts if part.series} <= case.series.keys()


def test_a_checkpoint_of_which_the_killed_could_not_tell() -> None:
    made = built.events()
    at = made.index(built.of("crash", made)[0])
    del made[at - 2 : at]  # steps 8 and 9
    saved = built.of("saved", made)[1]
    made.remove(saved)  # the start from step 8 stays: that checkpoint was due behind step 7
    assert [finding.rule for finding in stability.rules(built.CASE, measured(made, 1))] == []
    built.of("start", made)[1].update(step=7)
    assert "stability.steps" in {finding.rule for finding in stability.rules(built.CASE, measured(made, 1))}


def test_losses_that_stand_still_are_not_taken_for_copies() -> None:
    """A training that is at its end may have the same few losses again and again."""
    assert list(copied("x", [0.0] * 100 + [0.5, 0.25] * 50)) == []
    assert [finding.where for finding in copied("x", [1 / (1 + number % 9) for number in range(30)])] == ["x: from step 9"]


def test_losses_are_those_of_the_first_time() -> None:
    made = built.events()
    built.of("step", made)[10]["loss"] = 9.0  # step 8, done again after the first crash
    assert stability.series(built.CASE, measured(made, 1))["loss"].values[8] == Fraction(4) - Fraction(8, 64)


def test_every_fault_has_its_class_but_the_clock() -> None:
    from tests.conftest import ROOT

    schema = json.loads((ROOT / "manifests/schemas/cases/stability.schema.json").read_text(encoding="utf-8"))
    kinds = set(schema["properties"]["faults"]["items"]["properties"]["kind"]["enum"])
    assert kinds - stability.SEEN_AS.keys() == {"clock_step"}
    assert set(stability.SEEN_AS.values()) <= set(stability_events.CLASSES)


def test_checkpoints_of_a_cut_attempt_are_kept_for_the_next() -> None:
    assert storage.continues(built.CASE)
    assert not storage.continues(built.CHECKPOINT_CASE)


def test_ranks_are_the_cards_of_a_supervised_training() -> None:
    source = {"schemaVersion": 1, "name": "x", "title": {"en": "x", "zh": "x"}, "source": "x", "isolation": "preferred", "official": False,
              "allowed_patches": [], "case": [{key: value for key, value in built.CASE.items() if key != "section"}]}  # fmt: skip
    plan.resolve(source, "test")
    source["case"][0] |= {"cards": 3}  # type: ignore[index]
    with pytest.raises(KitError, match="not a multiple"):
        plan.resolve(source, "test")
    source["case"][0] |= {"cards": 4, "global_batch": 4, "micro_batch": 1, "nodes": 2}  # type: ignore[index]
    plan.resolve(source, "test")
    source["case"][0] |= {"nodes": 3}  # type: ignore[index]
    with pytest.raises(KitError, match="4 cards do not spread evenly over nodes = 3"):
        plan.resolve(source, "test")


def test_a_node_is_killed_where_there_are_several() -> None:
    source = {"schemaVersion": 1, "name": "x", "title": {"en": "x", "zh": "x"}, "source": "x", "isolation": "preferred", "official": False,
              "allowed_patches": [], "case": [{key: value for key, value in built.CASE.items() if key != "section"}]}  # fmt: skip
    source["case"][0] |= {"cards": 2, "global_batch": 2, "micro_batch": 1, "nodes": 2, "faults": [{"kind": "kill_node", "step": 3}]}  # type: ignore[index]
    plan.resolve(source, "test")
    source["case"][0] |= {"nodes": 1}  # type: ignore[index]
    with pytest.raises(KitError, match="the case has one"):
        plan.resolve(source, "test")
