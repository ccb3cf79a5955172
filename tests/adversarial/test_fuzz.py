"""The short form of `nox -s fuzz`: damage that must be refused, noise that no parser may crash on."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.adversarial import builder
from tests.fuzz import damage, parsers, runs, trees
from verify import replay
from verify.strict import canonical

SAMPLE = b'{"a":[1,2],"b":"' + b"A" * 40 + b'","c":"' + b"0f" * 32 + b'"}\n{"t":5}\n'


def test_damaged_runs_are_never_accepted_and_never_crash(tmp_path: Path) -> None:
    tally = runs.fuzz(builder.build(tmp_path), 150, seed=20261124)
    assert tally.faults == []
    assert tally.count == sum(tally.outcomes.values()) == 150


def test_the_harness_sees_a_verifier_that_accepts_and_one_that_crashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = builder.build(tmp_path)
    for answer, outcome in ((lambda _: 0, "accepted"), (lambda _: 1 // 0, "traceback")):
        with monkeypatch.context() as patch:
            patch.setattr(runs, "_expect_whole", lambda _: None)
            patch.setattr("verify.cli.main", answer)
            tally = runs.fuzz(run, 10, seed=1)
        assert (tally.outcomes, len(tally.faults)) == ({outcome: 10}, 10)


def test_what_is_computed_once_changes_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, ask = builder.build(tmp_path), runs.ask
    answers: list[list[tuple[str, str]]] = [[], []]
    for kept, said in zip((runs.whole_parts_kept, nullcontext), answers, strict=True):

        def noted(path: Path, said: list[tuple[str, str]] = said) -> tuple[str, str]:
            outcome, text = ask(path)
            said.append((outcome, text.replace(str(path.parent), "")))
            return outcome, text

        with monkeypatch.context() as patch:
            patch.setattr(runs, "ask", noted)
            patch.setattr(runs, "whole_parts_kept", kept)
            runs.fuzz(run, 25, seed=3)
    assert answers[0] == answers[1]
    assert len({text for _, text in answers[0]}) > 5


@pytest.mark.parametrize("value", [5, "x", [], None])
def test_no_part_of_the_environment_makes_a_traceback(tmp_path: Path, value: object) -> None:
    """Found by damage: utilisation asked a number for the chip's peaks."""
    run = builder.build(tmp_path)
    path = run / "evidence/environment.json"
    whole = json.loads(path.read_bytes())
    for key in (key for key in whole if whole[key] != value):
        path.write_bytes(canonical(whole | {key: value}) + b"\n")
        assert replay.replay(run, "self").verdict == "refused", key


@pytest.mark.parametrize("kind", damage.KINDS)
def test_damage_changes_bytes(kind: str) -> None:
    rng = Random(kind)
    made = [damage.KINDS[kind](rng, SAMPLE) for _ in range(20)]
    assert any(data not in {None, SAMPLE} for data in made)


@pytest.mark.parametrize("kind", trees.KINDS)
def test_damage_changes_the_tree_and_is_refused(kind: str, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    patient = runs.Patient(builder.build(tmp_path), tmp_path / "copy")
    rng = Random(kind)
    while trees.snapshot(patient.run) == patient.before:
        trees.KINDS[kind](rng, patient.run)
    outcome, text = runs.ask(patient.run)
    assert outcome == "refused", text
    patient.heal()
    assert trees.snapshot(patient.run) == patient.before


def test_no_parser_crashes() -> None:
    tallies = parsers.fuzz(4.0, seed=20261124)
    assert [fault for tally in tallies for fault in tally.faults] == []
    assert all(tally.count for tally in tallies)


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> list[parsers.Target]:
    return parsers.targets(tmp_path_factory.mktemp("targets"))


@settings(max_examples=30, deadline=None)
@given(data=st.binary(max_size=300) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_noise_is_answered(targets: list[parsers.Target], data: bytes) -> None:
    for target in targets:
        kind, text = parsers._answer(target.feed, data)
        assert kind != "crash", f"{target.name}: {text}"
