"""Plausibility rules: each fires on what it was made for, and stays silent on honest noise of many kinds."""

from __future__ import annotations

import math
import random
import tomllib
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import ROOT
from verify import plausibility, runlog
from verify.findings import Finding, Unchecked
from verify.plausibility import Traits, Work, clocks, judge, limits, llama_flop, rates, seen, telemetry
from verify.telemetry import Card

KNOWN = limits()
NS_PER_S = 10**9
Named = dict[str, list[int]]


def noise(seed: int, count: int = 100, mean_ns: float = 5e7, cv: float = 0.01, tick_ns: float = 1, memory: float = 0.0) -> list[int]:
    """Durations of an honest machine: skewed, with memory, outliers now and then, read twice from a clock with a tick."""
    dice, tick = random.Random(seed), Fraction(tick_ns).limit_denominator(1000)
    values, state, now = [], 0.0, 10**15
    for _ in range(count):
        state = memory * state + math.sqrt(1 - memory**2) * dice.gauss(0, 1)
        lasted = mean_ns * math.exp(cv * state) * (1 + (dice.random() < 0.02) * dice.random())
        begin, end = now, now + int(lasted * 1000)
        values.append(max(1, read(end, tick) - read(begin, tick)))
        now = end + int(dice.random() * mean_ns * 100)
    return values


def read(now_ps: int, tick: Fraction) -> int:
    """Nanoseconds that a clock with this tick shows."""
    ticks = now_ps * tick.denominator // (1000 * tick.numerator)
    return ticks * tick.numerator // tick.denominator


def of_series(named: Named) -> list[Finding]:
    return list(judge._series(named, KNOWN))


def rules(found: list[Finding] | Iterator[Finding]) -> set[str]:
    return {finding.rule for finding in found}


# --- series ----------------------------------------------------------------------------------------------------------

LIES: dict[str, Callable[[], Named]] = {
    "copied": lambda: {"a": noise(1), "b": noise(1)},
    "copied in part": lambda: {"a": noise(1), "b": noise(2)[:60] + noise(1)[20:60]},
    "shifted": lambda: {"a": noise(1), "b": noise(1)[7:] + noise(2)[:7]},
    "repeated in itself": lambda: {"a": noise(1)[:50] * 2},
    "scaled": lambda: {"a": noise(1), "b": [round(value * 0.77) for value in noise(1)]},
    "scaled and shifted": lambda: {"a": noise(1), "b": [round(value * 1.3) for value in noise(1)[11:]]},
    "constant": lambda: {"a": [50_000_000] * 50},
    "smoothed": lambda: {"a": [50_000_000 + n % 7 for n in range(50)]},
    "x1.3 off a clock of 40 ns": lambda: {"a": noise(1, tick_ns=40), "b": [round(value * 1.3) for value in noise(2, tick_ns=40)]},
    "x1.3 off a clock of 1 ns": lambda: {"a": noise(1, 300), "b": [round(value * 1.3) for value in noise(2, 300)]},
    "drawn in microseconds": lambda: {"a": noise(1), "b": [value // 1000 * 1000 for value in noise(2)]},
}
RULE = {
    "copied": "plausible.repeated", "copied in part": "plausible.repeated", "shifted": "plausible.repeated",
    "repeated in itself": "plausible.repeated", "scaled": "plausible.scaled", "scaled and shifted": "plausible.scaled",
    "constant": "plausible.smooth", "smoothed": "plausible.smooth", "x1.3 off a clock of 40 ns": "plausible.lattice",
    "x1.3 off a clock of 1 ns": "plausible.lattice", "drawn in microseconds": "plausible.lattice",
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_shown_by_its_rule(lie: str) -> None:
    assert RULE[lie] in rules(of_series(LIES[lie]()))


def test_slower_by_a_whole_factor_below_one_leaves_no_trace_in_a_clock_of_1_ns() -> None:
    """What the lattice cannot show, and docs/rules.md says: x0.77 of nanoseconds fills every residue."""
    assert of_series({"a": noise(1, 300), "b": [round(value * 0.77) for value in noise(2, 300)]}) == []


HONEST: dict[str, dict[str, Any]] = {
    "steady": {"cv": 0.002},
    "rough": {"cv": 0.2},
    "with memory": {"cv": 0.01, "memory": 0.95},
    "short": {"count": 12},
    "long": {"count": 2000},
    "fast": {"mean_ns": 2e5, "cv": 0.05},
    "slow": {"mean_ns": 8e9, "cv": 0.001},
    "clock of 40 ns": {"tick_ns": 40},
    "clock of 1000/24 ns": {"tick_ns": 1000 / 24},
    "clock of 1 us": {"tick_ns": 1000},
    "clock of 1 ms": {"tick_ns": 1e6},
    "clock of 1 ms, steady": {"tick_ns": 1e6, "cv": 0.002},
    "clock of 10 ms": {"tick_ns": 1e7, "cv": 0.05},
}


@pytest.mark.parametrize("kind", HONEST)
def test_honest_noise_is_silent(kind: str) -> None:
    for seed in range(0, 60, 3):
        assert of_series({name: noise(seed + number, **HONEST[kind]) for number, name in enumerate("abc")}) == []


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 2**32), st.integers(10, 400), st.floats(5, 10), st.floats(-3.5, -0.5), st.floats(0, 0.99),
    st.sampled_from([1, 1, 10, 40, 1000 / 24, 100, 1000, 1e6]),
)  # fmt: skip
def test_honest_noise_of_any_kind_is_silent(seed: int, count: int, size: float, spread: float, memory: float, tick_ns: float) -> None:
    """Step times of 0.1 ms to 10 s, variation of 0.03 to 30 %, memory up to 0.99, clocks of 1 ns to 1 ms, but finer than the variation."""
    named = {
        name: noise(seed + number, count, 10**size * (1 + number), 10**spread, min(tick_ns, 10 ** (size + spread)), memory)
        for number, name in enumerate("abc")
    }
    assert of_series(named) == []


def test_requests_that_arrive_together_are_no_repetition() -> None:
    """Four requests of a round get the same first token at the same instant."""
    waits = [value for value in noise(3, 60) for _ in range(4)]
    assert of_series({"first": waits, "whole": [value for value in noise(4, 60, 2e8) for _ in range(4)]}) == []


def test_a_pattern_that_a_coarse_clock_repeats_is_no_copy() -> None:
    """Every fifth step evaluates: 50, 50, 50, 50, 60 ms in two cases."""
    pattern = [50_000_000] * 4 + [60_000_000]
    assert of_series({"a": pattern * 20, "b": pattern * 20}) == []


# --- ranks -----------------------------------------------------------------------------------------------------------


def test_two_ranks_with_one_record() -> None:
    traits = Traits({"step": noise(1)}, {0: "x", 1: "y", 2: "x"})
    assert [(f.rule, f.where) for f in judge._twins("c", traits, KNOWN)] == [("plausible.ranks", "c: rank 2")]


def test_ranks_of_their_own_and_ranks_too_short_to_tell() -> None:
    assert list(judge._twins("c", Traits({"step": noise(1)}, {0: "x", 1: "y"}), KNOWN)) == []
    assert list(judge._twins("c", Traits({"step": noise(1)[:10]}, {0: "x", 1: "x"}), KNOWN)) == []
    assert list(judge._twins("c", Traits({"step": [7] * 50}, {0: "x", 1: "x"}), KNOWN)) == []


# --- rates -----------------------------------------------------------------------------------------------------------

PEAK = {"product": "A 80GB", "name": "A100.*80GB", "kind": "bfloat16", "value": 312, "unit": "TFLOPS", "source": "a data sheet"}
DEVICE = "Maker A100-SXM4-80GB"


def sheet(*stated: dict[str, Any], device: str = DEVICE) -> rates.Ceilings:
    return rates.ceilings(stated, {device})


def measured(value: float) -> list[rates.Rate]:
    return [rates.Rate("specs", "matmul_bfloat16_tflops", Fraction(str(value)), "TFLOPS")]


def test_a_product_faster_than_the_data_sheet() -> None:
    assert rules(rates.peaks(measured(328), sheet(PEAK), 1.05)) == {"plausible.peak"}
    assert rules(rates.peaks(measured(327), sheet(PEAK), 1.05)) == set()
    assert rules(rates.peaks(measured(500), sheet(), 1.05)) == set()
    assert rules(rates.peaks(measured(500), sheet(PEAK, device="Maker H100 80GB"), 1.05)) == set()
    assert rules(rates.peaks(measured(500), sheet(PEAK | {"unit": "TOPS"}), 1.05)) == set()
    assert rules(rates.peaks(measured(500), sheet(PEAK, PEAK | {"value": 600}), 1.05)) == set()


def test_memory_faster_than_the_data_sheet() -> None:
    peak = PEAK | {"kind": "memory_bandwidth", "value": 2039, "unit": "GB/s"}
    fast = [rates.Rate("specs", "memory_bandwidth_gb_per_s", Fraction(2200), "GB/s")]
    assert rules(rates.peaks(fast, sheet(peak), 1.05)) == {"plausible.peak"}
    assert rules(rates.peaks(fast, sheet(peak | {"value": 2100}), 1.05)) == set()


@pytest.mark.parametrize(("pattern", "device", "fit"), [
    ("A100.*80GB", DEVICE, True), ("A100.*80GB", "80GB A100", False), ("A100", DEVICE, True), ("H100", DEVICE, False),
    ("(a+)+$", "a" * 50, False), ("", "anything", True), ("^A910$", "A910", True), ("^A910$", "A910B", False), ("^A910$", "XA910", False),
    ("^A.*B$", "A-B", True), ("^AB.*B$", "AB", False),
])  # fmt: skip
def test_names_of_products_are_no_regular_expressions(pattern: str, device: str, fit: bool) -> None:
    assert rates.fits(pattern, device) is fit


def test_every_name_in_a_chip_folder_is_of_pieces_in_order() -> None:
    """What verify takes a pattern for is what the kit takes it for."""
    for path in (ROOT / "images").glob("*/chip.toml"):
        for peak in tomllib.loads(path.read_text(encoding="utf-8")).get("peaks", []):
            assert not set(peak["name"].removeprefix("^").removesuffix("$").replace(".*", "")) & set("\\^$.|?*+()[]{}"), (
                path,
                peak["name"],
            )


def work(flop: int, cards: int = 1, mode: str = "bfloat16") -> dict[str, Work]:
    return {"train": Work(flop, mode, NS_PER_S, cards)}


def test_a_model_that_needs_more_than_the_chip_has() -> None:
    limit = KNOWN["ceiling"]
    assert rules(rates.work(work(330 * 10**12), sheet(PEAK), [], limit)) == {"plausible.peak"}
    assert rules(rates.work(work(330 * 10**12, cards=2), sheet(PEAK), [], limit)) == set()
    assert rules(rates.work(work(380 * 10**12), {}, measured(300), limit)) == {"plausible.own_rate"}
    assert rules(rates.work(work(370 * 10**12), {}, measured(300), limit)) == set()
    assert rules(rates.work(work(10**15), {}, [], limit)) == set()


def test_another_mode_may_stand_in() -> None:
    """Single precision may run on units for a shorter one: the faster of the two is the ceiling."""
    own = [rates.Rate("s", "matmul_float32_tflops", Fraction(19), "TFLOPS"), rates.Rate("s", "matmul_tf32_tflops", Fraction(150), "TFLOPS")]
    assert rules(rates.work(work(100 * 10**12, mode="float32"), {}, own, KNOWN["ceiling"])) == set()
    assert rules(rates.work(work(100 * 10**12, mode="float32"), {}, own[:1], KNOWN["ceiling"])) == {"plausible.own_rate"}


def test_operations_of_a_model_worked_out_by_hand() -> None:
    """One layer: 4*4*2 + 2*4*2*2... by hand: attention 2*16 + 2*8 = 48, feed-forward 3*4*8 = 96, words 4*10 = 40."""
    model = {"hidden_size": 4, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "ffn_size": 8, "vocab_size": 10}
    assert llama_flop(model, 5, 0, training=True) == 6 * (48 + 96 + 40) * 5
    assert llama_flop(model, 5, 3, training=False) == 2 * ((48 + 96) * 8 + 40 * 5)


# --- time ------------------------------------------------------------------------------------------------------------


def span(seconds: float = 100, **given: Any) -> clocks.Span:
    begin = (10**18, 10**12)
    return clocks.Span("c", 1, begin, (begin[0] + int(seconds * NS_PER_S), begin[1] + int(seconds * NS_PER_S)), **given)


def ends(after_s: float = 1, lasted_s: float = 98) -> dict[int, clocks.Ends]:
    after = int(after_s * NS_PER_S)
    return {0: clocks.Ends(10**18 + after, 10**12 + after, int(lasted_s * NS_PER_S))}


def test_events_outside_of_their_attempt() -> None:
    assert rules(clocks.inside(span(), ends(), KNOWN)) == set()
    assert rules(clocks.inside(span(), ends(lasted_s=130), KNOWN)) == {"plausible.clock"}
    assert rules(clocks.inside(span(), ends(after_s=-3600), KNOWN)) == {"plausible.clock"}
    assert rules(clocks.inside(span(), ends(after_s=50), KNOWN)) == {"plausible.clock"}
    assert rules(clocks.inside(span(restarted=True), ends(lasted_s=130), KNOWN)) == set()
    assert rules(clocks.inside(span(stepped=True), ends(after_s=-3600), KNOWN)) == set()


def test_an_attempt_without_events_for_most_of_its_time() -> None:
    """Durations told too short leave time that nothing fills."""
    assert rules(clocks.accounted(span(10_000), ends(lasted_s=9_000), Traits(), KNOWN)) == set()
    assert rules(clocks.accounted(span(10_000), ends(lasted_s=5_000), Traits(), KNOWN)) == {"plausible.unaccounted"}
    assert rules(clocks.accounted(span(300), ends(lasted_s=10), Traits(), KNOWN)) == set()


def test_steps_with_idle_time_between_them() -> None:
    assert rules(clocks.accounted(span(), ends(), Traits(busy_ns=49, span_ns=100), KNOWN)) == {"plausible.idle"}
    assert rules(clocks.accounted(span(), ends(), Traits(busy_ns=97, span_ns=100), KNOWN)) == set()
    assert rules(clocks.accounted(span(), ends(), Traits(), KNOWN)) == set()


def entries(gap_s: int, *, resumed: bool = False) -> list[Any]:
    """Two attempts with a gap between them."""
    end, begin = 10**9, 10**9 + gap_s * NS_PER_S
    found: list[Any] = [runlog.CaseStart(0, 0, 0, "a", 1), runlog.CaseEnd(1, end, end, "a", 1, "done", None)]
    if resumed:
        found.append(runlog.Resume(2, begin, begin, "0" * 64))
    return [*found, runlog.CaseStart(3, begin, begin, "b", 1)]


def test_a_pause_between_attempts() -> None:
    assert rules(clocks.between(clocks.timeline(entries(601)), KNOWN)) == {"plausible.between"}
    assert rules(clocks.between(clocks.timeline(entries(599)), KNOWN)) == set()
    assert rules(clocks.between(clocks.timeline(entries(90_000, resumed=True)), KNOWN)) == set()


# --- telemetry -------------------------------------------------------------------------------------------------------


def samples(seed: int, *, jump_c: int = 0, lazy: bool = False) -> tuple[list[Card], list[tuple[int, int]]]:
    """Ten minutes of a card that rests, works and rests, read each second: 60 W and 400 W, whole degrees."""
    dice, heat, made = random.Random(seed), 35.0, []
    for second in range(600):
        working = 200 <= second < 400 and not lazy
        power = dice.gauss(400_000 if working else 60_000, 3000) - 15_000 * (second == 10)
        heat += (75 - heat) / 20 * working + (35 - heat) / 40 * (not working)
        made.append(Card(second * NS_PER_S, 0, 1000, power_mw=int(power), temperature_c=int(heat) + (jump_c if second == 300 else 0)))
    return made, [(200 * NS_PER_S, 400 * NS_PER_S)]


def told(found: tuple[list[Card], list[tuple[int, int]]]) -> list[str]:
    return [finding.expected for finding in telemetry.check("0", *found, KNOWN["telemetry"])]


def test_telemetry_of_a_working_accelerator_is_silent() -> None:
    for seed in range(20):
        assert told(samples(seed)) == []


def test_telemetry_that_jumps() -> None:
    assert "K/s" in told(samples(1, jump_c=30))[0]


def test_telemetry_read_ten_times_a_second_as_work_begins() -> None:
    """What an H100 showed as it took up a product: 11 K from one reading to the next, 18 K within a second."""
    rise = [0, 0, 11, 12, 13, 14, 15, 15, 16, 17, 17, 18, 18, 18, 19, 19, *[19] * 20]
    made = [Card(number * NS_PER_S // 10, 0, 1000, power_mw=70_000, temperature_c=42 + more) for number, more in enumerate(rise)]
    assert told((made, [])) == []
    high = [Card(one.t, 0, 1000, power_mw=70_000, temperature_c=one.temperature_c + 11 * (number > 7)) for number, one in enumerate(made)]
    assert "K/s" in told((high, []))[0]


def test_telemetry_of_one_that_gets_no_work() -> None:
    """It draws less than it ever did elsewhere."""
    made, busy = samples(1, lazy=True)
    idle = [Card(one.t, 0, 1000, power_mw=(one.power_mw or 0) - 40_000 * (200 <= one.t // NS_PER_S <= 400)) for one in made]
    assert "outside of measured spans" in told((idle, busy))[0]


def test_telemetry_that_a_chip_does_not_give() -> None:
    assert told(([Card(second * NS_PER_S, 0, 1000) for second in range(100)], [(0, NS_PER_S)])) == []
    assert told((samples(1)[0][:5], [])) == []


# --- seen before -----------------------------------------------------------------------------------------------------

US = seen.Identity("run-1", "chip-a", "acme")


def index(folder: Path) -> Path:
    path = folder / "seen.jsonl"
    path.touch()
    return path


def test_the_same_run_again_is_a_notice(tmp_path: Path) -> None:
    marks = seen.fingerprints({"a": noise(1)})
    assert list(seen.check(index(tmp_path), US, marks)) == []
    seen.add(index(tmp_path), US, marks)
    assert [(f.rule, f.severity) for f in seen.check(index(tmp_path), US, marks)] == [("seen.before", "notice")]
    before = index(tmp_path).read_bytes()
    seen.add(index(tmp_path), US, marks)
    assert index(tmp_path).read_bytes() == before


@pytest.mark.parametrize(
    "other", [seen.Identity("run-2", "chip-a", "acme"), seen.Identity("run-1", "chip-b", "acme"), seen.Identity("run-1", "chip-a", "else")]
)
@pytest.mark.parametrize("part", [slice(None), slice(30, 90)], ids=["whole", "part"])
def test_the_same_durations_under_another_name_are_an_error(other: seen.Identity, part: slice, tmp_path: Path) -> None:
    seen.add(index(tmp_path), US, seen.fingerprints({"a": noise(1, 60)}))
    copied = noise(1, 60) if part == slice(None) else [*noise(2, 30), *noise(1, 60), *noise(3, 20)]
    found = list(seen.check(index(tmp_path), other, seen.fingerprints({"b": copied})))
    assert [(f.rule, f.severity) for f in found] == [("seen.duplicate", "error")]


def test_other_runs_of_the_same_system_are_silent(tmp_path: Path) -> None:
    for number in range(20):
        who = seen.Identity(f"run-{number}", "chip-a", "acme")
        marks = seen.fingerprints({"a": noise(100 + number), "b": noise(200 + number, tick_ns=1e6, cv=0.05), "c": [5] * 100})
        assert list(seen.check(index(tmp_path), who, marks)) == []
        seen.add(index(tmp_path), who, marks)


def test_an_index_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(Unchecked, match="cannot be read"):
        list(seen.check(tmp_path / "none", US, {}))
    (tmp_path / "bad").write_text('{"run":1}\n')
    with pytest.raises(Unchecked, match="bad:1"):
        list(seen.check(tmp_path / "bad", US, {}))


# --- data and pages --------------------------------------------------------------------------------------------------


def test_thresholds_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / plausibility.THRESHOLDS).read_text().replace("over_peak = 1.05", 'over_peak = "much"')
    (tmp_path / plausibility.THRESHOLDS).parent.mkdir(parents=True)
    (tmp_path / plausibility.THRESHOLDS).write_text(text)
    monkeypatch.setattr(plausibility, "root", lambda: tmp_path)
    limits.cache_clear()
    with pytest.raises(Unchecked, match="thresholds cannot be used"):
        limits()
    limits.cache_clear()


def test_every_threshold_has_a_source() -> None:
    assert all(table["source"] for table in KNOWN.values())


@pytest.mark.parametrize("page", ["docs/rules.md", "docs/rules_zh.md"])
def test_every_rule_has_its_line(page: str) -> None:
    lines = [line for line in (ROOT / page).read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    named = [line.split("`")[1] for line in lines]
    assert sorted(named) == sorted(set(named))
    assert plausibility.RULES.keys() | runlog.RULES.keys() == set(named)
    if page == "docs/rules.md":
        assert {line.split("|")[3].strip() for line in lines} == {*plausibility.RULES.values(), *runlog.RULES.values()}
