"""Lies sealed with the true key, seen by the plausibility rules in a whole replay; and a built honest run, seen by none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.adversarial import builder
from tests.adversarial.builder import NS_PER_S, PRETRAIN, TEXT, Bench
from tests.adversarial.specifications import SPECS, with_case
from tests.unit.test_plausibility import PEAK, noise
from verify import cli, plausibility
from verify.plausibility import judge
from verify.replay import replay

STEPS = 80


def steps_of(bench: Bench, rank: int = 0) -> list[dict[str, Any]]:
    name = "events-00000.jsonl" if rank == 0 else f"events-rank{rank:04}-00000.jsonl"
    return [event for event in bench.events[PRETRAIN][name] if event["e"] == "step"]


def lasting(bench: Bench, durations: list[int], rank: int = 0) -> None:
    """Give a rank's steps these durations; ranks begin each together, a little after the slowest of them ended the one before."""
    for event, duration in zip(steps_of(bench, rank), durations, strict=False):
        event["t"] = event["begin_ns"] + duration
    begin = 1_000_000
    for number, events in enumerate(zip(steps_of(bench, 0), steps_of(bench, 1), strict=True)):
        lasted = [event["t"] - event["begin_ns"] for event in events]
        for event, duration in zip(events, lasted, strict=True):
            event.update(begin_ns=begin, t=begin + duration, loss=4.0 - number / 1000, loss_dp_mean=4.0 - number / 1000)
        begin += max(lasted) + 50_000
    for each in (0, 1):
        ending(bench, each, begin)


def ending(bench: Bench, rank: int, t: int) -> None:
    """Let a rank tell its memory and end at this time."""
    name = "events-00000.jsonl" if rank == 0 else f"events-rank{rank:04}-00000.jsonl"
    for event in bench.events[PRETRAIN][name][-2:]:
        event["t"] = t


def honest(bench: Bench, seed: int = 1) -> None:
    """Steps of about 8 ms with one per cent of noise on both ranks."""
    for rank in (0, 1):
        lasting(bench, noise(seed + rank, STEPS + 1, 8e6), rank)


def built(folder: Path, lie: Callable[[Bench], object] = lambda _: None, *, seed: int = 1) -> Path:
    folder.mkdir(exist_ok=True)
    return builder.build(folder, lambda bench: (honest(bench, seed), lie(bench)), steps=STEPS)


def found(run: Path, **given: Any) -> tuple[str, set[tuple[str, str]]]:
    outcome = replay(run, "self", **given)
    return outcome.verdict, {(finding.rule, finding.severity) for finding in outcome.findings}


def test_an_honest_run_is_silent(tmp_path: Path) -> None:
    assert found(built(tmp_path)) == ("verified", set())


def copied_rank(bench: Bench) -> None:
    lasting(bench, noise(1, STEPS + 1, 8e6), rank=1)


def drawn(bench: Bench) -> None:
    """Both ranks from a generator without noise."""
    for rank in (0, 1):
        lasting(bench, [8_000_000] * (STEPS + 1), rank)


def repeated(bench: Bench) -> None:
    """Half of the steps measured, the other half copied from them."""
    for rank in (0, 1):
        lasting(bench, [8_000_000, *noise(1 + rank, STEPS // 2, 8e6) * 2], rank)


def shrunk(bench: Bench) -> None:
    """Each step told as a third of what it took: the rest of the time is nobody's."""
    for rank in (0, 1):
        for event in steps_of(bench, rank):
            event["t"] = event["begin_ns"] + (event["t"] - event["begin_ns"]) // 3


def longer_than_the_attempt(bench: Bench) -> None:
    """Events of a slower clock: the run log saw a fifth of their time."""
    end, beat = bench.events[PRETRAIN]["events-00000.jsonl"][-1], bench._beat
    end["t"] += 5 * NS_PER_S
    bench._beat = lambda log, folder, _: beat(log, folder, 0)  # type: ignore[method-assign]


def another_day(bench: Bench) -> None:
    """Events of yesterday's run in today's log (attack 17)."""
    for files in bench.events.values():
        for events in files.values():
            events[0].update(wall_ns=builder.WALL_NS - 86_400 * NS_PER_S)


def beyond_the_peak(bench: Bench) -> None:
    """A chip that multiplies less than its model needs."""
    bench.environment["chip"] = {"id": "cpu", "peaks": [PEAK | {"name": "fake", "kind": "float32", "value": 1e-6}]}


def slept(bench: Bench) -> None:
    """Half an hour between two attempts of one process."""
    write = bench._case

    def paused(log: Any, case: str, files: Any) -> None:
        if case == TEXT:
            bench.clock.since_boot_ns += 1800 * NS_PER_S
        write(log, case, files)

    bench._case = paused  # type: ignore[method-assign]


def another_card(bench: Bench) -> None:
    """A second rank on a faster product (attack 33)."""
    bench.events[PRETRAIN]["events-rank0001-00000.jsonl"][1]["device_name"] = "a newer one"


LIES: dict[Callable[[Bench], None], tuple[str, str]] = {
    drawn: ("plausible.smooth", "warning"),
    copied_rank: ("plausible.ranks", "warning"),
    repeated: ("plausible.repeated", "warning"),
    shrunk: ("plausible.idle", "warning"),
    longer_than_the_attempt: ("plausible.clock", "warning"),
    another_day: ("plausible.clock", "warning"),
    beyond_the_peak: ("plausible.peak", "warning"),
    another_card: ("plausible.devices", "warning"),
    slept: ("plausible.between", "notice"),
}


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__)
def test_a_lie_that_is_sealed_is_shown(lie: Callable[[Bench], None], tmp_path: Path) -> None:
    verdict, rules = found(built(tmp_path, lie))
    assert verdict == "verified"
    assert LIES[lie] in rules
    assert {rule for rule, _ in rules} <= {LIES[lie][0], "log.clock_step", "plausible.future", "log.clock_set"}


def test_events_from_after_the_heartbeat_that_holds_them(tmp_path: Path) -> None:
    """A timeline made up beforehand and written at once: the heartbeat half-way holds all of it."""

    def early(bench: Bench) -> None:
        for rank in (0, 1):
            for number, event in enumerate(steps_of(bench, rank)):
                length = event["t"] - event["begin_ns"]
                event["begin_ns"] = (number + 1) * NS_PER_S
                event["t"] = event["begin_ns"] + min(length * 100, 900_000_000)
            ending(bench, rank, (STEPS + 3) * NS_PER_S)

    verdict, rules = found(built(tmp_path, early))
    assert verdict == "verified", rules
    assert ("plausible.future", "warning") in rules


def test_the_index_of_seen_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = tmp_path / "seen.jsonl"
    index.touch()
    run = built(tmp_path / "one")
    assert found(run, index=index) == ("verified", set())
    assert found(run, index=index) == ("verified", {("seen.before", "notice")})
    assert found(built(tmp_path / "two", seed=50), index=index) == ("verified", set())
    foreign = built(tmp_path / "three", lambda bench: bench.environment.update(chip={"id": "other"}))
    assert found(foreign, index=index) == ("refused", {("seen.duplicate", "error")})
    size = index.stat().st_size
    assert cli.main([str(run), "--policy", "self", "--seen", str(index)]) == 0
    assert index.stat().st_size == size
    assert cli.main([str(run), "--policy", "self", "--seen", str(tmp_path / "none")]) == 2
    assert "make an empty one" in capsys.readouterr().err


def specified(bench: Bench, tflops: float) -> None:
    """A run that measured its own products at so many TFLOPS."""
    with_case(bench)
    for event in bench.events[SPECS]["events-00000.jsonl"]:
        if event["e"] == "matmul" and event["mode"] == "float32":
            operations = 2 * event["shape"][0] * event["shape"][1] * event["shape"][2] * event["calls"]
            event["duration_ns"] = min(event["t"] - event["begin_ns"], max(1, round(operations / tflops / 1000)))


def test_a_case_faster_than_the_run_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The products of the run's own specifications are slower than the model's alone would have to be."""

    def slow(bench: Bench) -> None:
        specified(bench, 1e-9)

    run = built(tmp_path, slow)
    assert "plausible.own_rate" not in {rule for rule, _ in found(run)[1]}  # its products are too small to tell
    known = plausibility.limits()
    monkeypatch.setattr(judge, "limits", lambda: {**known, "ceiling": {**known["ceiling"], "least_dimension": 1}})
    verdict, rules = found(run)
    assert verdict == "verified", rules
    assert ("plausible.own_rate", "warning") in rules


def multiplied(factor: float, rule: str) -> Callable[[Bench], None]:
    """A second case made of the first one's durations, or of another run's, times a factor."""

    def second(bench: Bench) -> None:
        longer = noise(1 if rule == "plausible.scaled" else 9, 2 * STEPS, 8e6, tick_ns=1 if rule == "plausible.scaled" else 40)
        for rank in (0, 1):
            lasting(bench, longer if rank == 0 else [value // 2 for value in longer], rank)
        requests = 40
        for case in (bench.plan.document["cases"][1], bench.handed[TEXT]["case"]):
            case.update(concurrency=1, warmup_rounds=0, measured_rounds=requests)
        source = longer[1:] if rule == "plausible.scaled" else noise(10, requests, 8e6, tick_ns=40)
        bench.events[TEXT]["events-00000.jsonl"] = answers([round(value * factor) for value in source[:requests]])

    return second


@pytest.mark.parametrize(("factor", "rule"), [(0.77, "plausible.scaled"), (1.3, "plausible.lattice")])
def test_series_of_another_case(factor: float, rule: str, tmp_path: Path) -> None:
    verdict, rules = found(built(tmp_path, multiplied(factor, rule)))
    assert verdict == "verified", rules
    assert (rule, "warning") in rules


def answers(waits: list[int]) -> list[dict[str, Any]]:
    """One request a round, whose first token comes after so many nanoseconds."""
    events, ending = builder.text()[:6], builder.text()[-3:-1]
    events[5]["needed_tokens"] = 11
    begin = 10_000_000
    for number, wait in enumerate(waits):
        events.append({"t": begin, "e": "round_start", "round": number, "phase": "measured"})
        events.append({"t": begin, "e": "submit", "request": number, "round": number, "prompt_tokens": 8,
                       "prompt_sha256": builder.prompt(number)})  # fmt: skip
        events += [{"t": begin + wait + 40 * step, "e": "tokens", "request": number, "ids": [step]} for step in range(3)]
        events.append({"t": begin + wait + 80, "e": "finish", "request": number, "reason": "length", "usage_tokens": None, "detail": None})
        begin += wait + 1000
    return builder.end(events + [event | {"t": begin} for event in ending])


def test_an_attempt_with_little_in_it(tmp_path: Path) -> None:
    """Twenty minutes by the run log, less than a second of events."""

    def padded(bench: Bench) -> None:
        beat = bench._beat
        bench._beat = lambda log, folder, _: beat(log, folder, 1200 * NS_PER_S)  # type: ignore[method-assign]

    assert found(built(tmp_path, padded)) == ("verified", {("plausible.unaccounted", "warning")})


def spliced(bench: Bench, numbers: tuple[int, ...]) -> None:
    """Temperatures of two machines on the cards of these numbers; the case's own are 0 and 1."""
    start = 1000 * NS_PER_S
    cards = [
        {"t": start + number * 10**8, "e": "card", "card": card, "read_ns": 10, "power_mw": 90_000, "temperature_c": 40 + 30 * (number > 9)}
        for number in range(20)
        for card in numbers
    ]
    opened = {"t": start, "e": "opened", "interval_ms": 100, "cards": 2, "missing": None}
    closed = {"t": start + 3 * NS_PER_S, "e": "closed", "samples": 40}
    bench.events[PRETRAIN]["telemetry-00000.jsonl"] = [opened, *cards, closed]


def test_telemetry_of_an_accelerator_at_rest(tmp_path: Path) -> None:
    verdict, rules = found(built(tmp_path, lambda bench: spliced(bench, (0, 1))))
    assert verdict == "verified"
    assert ("plausible.telemetry", "warning") in rules


def test_telemetry_of_cards_that_the_case_does_not_use_is_not_judged(tmp_path: Path) -> None:
    verdict, rules = found(built(tmp_path, lambda bench: spliced(bench, (2, 3))))
    assert verdict == "verified"
    assert "plausible.telemetry" not in {rule for rule, _ in rules}
