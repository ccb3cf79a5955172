"""Text generation: exact numbers from made-up events, what is only warned of, arrivals, and what a sample allows to be said."""

from __future__ import annotations

import math
import tomllib
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.adversarial import builder, crossed, text_generation
from tests.adversarial.builder import TEXT, Bench
from tests.conftest import ROOT
from verify import replay
from verify.data import violations
from verify.generation import judged, requests, spread
from verify.result import Result


def ran(folder: Path, edit: builder.Edit | None = None) -> Result:
    return replay.replay(builder.build(folder, edit), "self")


def numbers(outcome: Result) -> dict[str, float]:
    return {name: float(metric.value) for name, metric in outcome.cases[-1].metrics.items()}


def both(bench: Bench) -> tuple[dict[str, object], dict[str, object]]:
    """The case in the plan and the one that was handed out."""
    return bench.plan.document["cases"][1], bench.handed[TEXT]["case"]


def test_numbers_of_a_case(tmp_path: Path) -> None:
    """Two measured rounds of 2 requests of 3 tokens in 7 ms, 3 ms apart: the pause between them counts for nothing."""
    found = numbers(ran(tmp_path))
    assert found == {
        "throughput": pytest.approx(12 / 0.014),
        "requests": 4,
        "tokens_per_chunk": 1,
        "memory_gb": 1,
        "first_token_latency_mean_ms": 5,
        "first_token_latency_max_ms": 5,
        "first_token_latency_mean_low_ms": 5,
        "first_token_latency_mean_high_ms": 5,
        "time_per_token_mean_ms": 1,
        "throughput_legacy": pytest.approx(2 * 8 / 0.008),
        "load_time_cold_s": pytest.approx(0.0009999),
        "load_time_s": 0.001,
        "continuation_perplexity": pytest.approx(1.8682460),
        "greedy_gap_max": 0.001,
        "first_difference_mean": 1,
        "identical_share": 0,
    }


def test_memory_that_others_hold_is_no_number(tmp_path: Path) -> None:
    """Ranks of an engine held all of it: 0 GB would be read as a fact about the case."""

    def elsewhere(bench: Bench) -> None:
        bench.kind("memory")[0]["peak_bytes"] = 0

    found = ran(tmp_path, elsewhere)
    assert found.verdict == "verified"
    assert "memory_gb" not in numbers(found)


def test_tokens_are_counted_from_ids_whatever_the_chunks(tmp_path: Path) -> None:
    """Both later tokens in one chunk: the same rates, and a decode-only figure of the same tokens."""

    def merged(bench: Bench) -> None:
        for request in range(6):
            mine = [event for event in bench.kind("tokens") if event["request"] == request]
            mine[2]["ids"] = [1, 2]
            bench.events[TEXT]["events-00000.jsonl"].remove(mine[1])

    found = numbers(ran(tmp_path, merged))
    assert (found["throughput"], found["throughput_legacy"]) == (pytest.approx(12 / 0.014), pytest.approx(2000))
    assert (found["tokens_per_chunk"], found["time_per_token_mean_ms"]) == (1.5, 1)


def clients(bench: Bench, send_ns: int, lag_ns: list[int]) -> None:
    """Every request sent by a client, `send_ns` after its submit; each round with its lags."""
    lines = bench.events[TEXT]["events-00000.jsonl"]
    for submit in bench.kind("submit"):
        place = next(number for number, event in enumerate(lines) if event["t"] >= submit["t"] + send_ns and event is not submit)
        lines.insert(max(place, lines.index(submit) + 1), {"t": submit["t"] + send_ns, "e": "send", "request": submit["request"]})
    for start in bench.kind("round_start"):
        last = [number for number, event in enumerate(lines) if event["e"] == "finish" and event["request"] // 2 == start["round"]][-1]
        lines.insert(last + 1, {"t": lines[last]["t"], "e": "client", "round": start["round"], "processes": 1, "lag_ns": lag_ns})


@pytest.mark.parametrize(
    ("send_ns", "lag_ns", "late"),
    [(0, [0, 0], False), (150_000, [150_000] * 2, False), (151_000, [0], True), (0, [0, 302_000], True), (0, [], False)],
)
def test_a_client_that_was_the_limit_is_named(tmp_path: Path, send_ns: int, lag_ns: list[int], late: bool) -> None:
    """First tokens come after 5 ms, of which a client may be late by three in a hundred itself."""
    outcome = ran(tmp_path, lambda bench: clients(bench, send_ns, lag_ns))
    expected = [("text_generation.late", "warning")] if late else []
    assert [(finding.rule, finding.severity) for finding in outcome.findings] == expected
    found = numbers(outcome)
    assert found["send_error_mean_ms"] == pytest.approx(send_ns / 1e6)
    assert found.get("client_lag_max_ms", 0) == max(lag_ns, default=0) / 1e6


def test_a_client_that_lets_requests_go_late_is_named(tmp_path: Path) -> None:
    """The second of two is submitted 0.4 ms after the first: 0.2 ms on average, of waits of about 5 ms."""

    def late(bench: Bench) -> None:
        for submit in bench.kind("submit")[1::2]:
            submit["t"] += 400_000
        clients(bench, 0, [0])

    assert [(finding.rule, finding.severity) for finding in ran(tmp_path, late).findings] == [("text_generation.late", "warning")]


def test_rounds_that_differ_by_a_nanosecond_a_token_are_no_copies(tmp_path: Path) -> None:
    assert ran(tmp_path, lambda bench: text_generation.long(bench, 3, 4, 5)).findings == []


@pytest.mark.parametrize("durations_ns", [(123_457,) * 3, (123_457,) * 3 + (123_458,), (123_000,) * 4])
def test_loads_that_may_be_alike(tmp_path: Path, durations_ns: tuple[int, ...]) -> None:
    """Few of them, one that differs, or a clock of whole microseconds."""
    assert ran(tmp_path, lambda bench: text_generation.loaded_alike(bench, *durations_ns)).findings == []


def test_rounds_of_a_coarse_clock_are_no_copies(tmp_path: Path) -> None:
    """Whole microseconds may be all that a clock has."""
    assert ran(tmp_path, lambda bench: text_generation.long(bench, *[-3] * 3)).findings == []


def test_two_cases_of_one_seed_may_have_the_same_tokens(tmp_path: Path) -> None:
    """The same model said it, whatever the engine: no copy."""

    def twice(bench: Bench) -> None:
        crossed.two_seeds(bench)
        other = bench.events[crossed.OTHER]["events-00000.jsonl"]
        for case in (bench.plan.document["cases"][-1], bench.handed[crossed.OTHER]["case"]):
            case["seed"] = 7
        for event in other:
            if event["e"] == "model":
                event["seed"] = 7
            if event["e"] == "submit":
                event["prompt_sha256"] = builder.prompt(event["request"])

    outcome = ran(tmp_path, twice)
    assert (outcome.verdict, outcome.findings) == ("verified", [])


def test_a_server_without_ids_is_counted_by_its_word_and_warned_of(tmp_path: Path) -> None:
    def worded(bench: Bench) -> None:
        for event in bench.kind("tokens"):
            event.pop("ids")
            event.update(e="text", size_bytes=4)
        for event in bench.kind("finish"):
            event["usage_tokens"] = 3

    outcome = ran(tmp_path, worded)
    assert [(finding.rule, finding.severity) for finding in outcome.findings] == [("text_generation.usage", "warning")]
    assert numbers(outcome)["throughput"] == pytest.approx(12 / 0.014)
    assert "throughput_legacy" not in numbers(outcome)


def test_a_server_that_counts_other_than_asked_is_refused(tmp_path: Path) -> None:
    def short(bench: Bench) -> None:
        for event in bench.kind("tokens"):
            event.pop("ids")
            event.update(e="text", size_bytes=4)
        for event in bench.kind("finish"):
            event["usage_tokens"] = 2

    assert {finding.rule for finding in ran(tmp_path, short).findings if finding.severity == "error"} == {"text_generation.output"}


def test_a_cache_that_is_too_small_is_said(tmp_path: Path) -> None:
    outcome = ran(tmp_path, lambda bench: bench.kind("engine")[0].update(kv_tokens=16, queues=True))
    assert [(finding.rule, finding.severity) for finding in outcome.findings] == [("text_generation.queued", "warning")]
    assert "16 tokens" in outcome.findings[0].found


def test_tokens_that_nobody_judged_are_said_to_be_unproven(tmp_path: Path) -> None:
    def alone(bench: Bench) -> None:
        for case in both(bench):
            case["judge"] = {"prompts": 1, "tokens": 2, "reference": "none"}
        bench.kind("judged")[0].update(nll=[], gap=[])

    outcome = ran(tmp_path, alone)
    assert [(finding.rule, finding.severity) for finding in outcome.findings] == [("text_generation.unproven", "warning")]
    assert outcome.cases[-1].facts["tokens"] == "unproven"


def test_an_int8_case_tells_its_perplexity_and_is_judged_by_the_profile(tmp_path: Path) -> None:
    """2091 nats in 2040 tokens with quantisation, 2040 without: e to the 0.025; honest, so the run stands, and the gate makes it 0."""
    outcome = ran(tmp_path, lambda bench: text_generation.quantised(bench, 2091.0))
    assert (outcome.verdict, outcome.findings) == ("verified", [])
    assert numbers(outcome)["int8_perplexity_ratio"] == pytest.approx(1.0253151)


def test_a_stored_reference_judges_weights_that_are_known(tmp_path: Path) -> None:
    outcome = ran(tmp_path, lambda bench: text_generation.taught(bench, text_generation.stored()[:8]))
    assert (outcome.verdict, outcome.findings) == ("verified", [])
    assert (numbers(outcome)["first_difference_mean"], numbers(outcome)["identical_share"]) == (8, 1)
    assert outcome.cases[-1].facts["tokens"] == "judged"


def test_a_tie_that_fell_the_other_way_is_no_fault(tmp_path: Path) -> None:
    """The bound of float16 is wider than the margin of the fourteenth token (0.034), that of float32 is not."""
    other = [*text_generation.stored()[:13], 0, *text_generation.stored()[14:16]]

    def half(bench: Bench) -> None:
        text_generation.taught(bench, other)
        for case in both(bench):
            case["dtype"] = "float16"
        bench.kind("model")[0]["dtype"] = "float16"

    outcome = ran(tmp_path, half)
    assert (outcome.verdict, numbers(outcome)["first_difference_mean"]) == ("verified", 13)
    refused = ran(tmp_path / "float32", lambda bench: text_generation.taught(bench, other))
    assert {finding.rule for finding in refused.findings} == {"text_generation.reference"}


def test_arrivals_at_a_rate_tell_goodput(tmp_path: Path) -> None:
    """First tokens 5 ms after the round's begin: a request that came later waited less than the limit of 5 ms."""
    outcome = ran(tmp_path, text_generation.arriving)
    assert (outcome.verdict, outcome.findings) == ("verified", [])
    found = numbers(outcome)
    assert found["goodput_share"] == 1
    case = outcome.cases[-1].fields
    wall_s = sum(0.007 - requests.offsets(case, number)[0] / 1e9 for number in (1, 2))
    assert found["goodput"] == pytest.approx(4 / wall_s)


def test_arrivals_are_poisson_and_hang_on_the_seed() -> None:
    case = {"seed": 7, "arrival": {"requests": 4000, "rate_per_s": 50}}
    found = requests.offsets(case, 0)
    gaps = [after - before for before, after in zip([0, *found], found, strict=False)]
    mean_ns = sum(gaps) / len(gaps)
    assert mean_ns == pytest.approx(20e6, rel=0.05)
    deviation = (sum((gap - mean_ns) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert deviation == pytest.approx(mean_ns, rel=0.1)
    assert requests.offsets(case | {"seed": 8}, 0) != found != requests.offsets(case, 1)


@pytest.mark.parametrize(
    ("count", "allowed"), [(10, set()), (19, set()), (20, {50}), (100, {50, 90}), (640, {50, 90}), (1000, {50, 90, 99})]
)
def test_percentiles_only_where_ten_values_lie_beyond(count: int, allowed: set[int]) -> None:
    assert spread.percentiles(list(range(count))).keys() == allowed


def test_percentile_is_the_nearest_rank() -> None:
    assert spread.percentiles(list(range(1, 1001))) == {50: 500, 90: 900, 99: 990}


@given(st.lists(st.integers(0, 10**9), min_size=2, max_size=12))
def test_interval_holds_the_mean_and_stays_within_the_values(values: list[int]) -> None:
    low, high = spread.interval([[value] for value in values])
    assert min(values) <= low <= high <= max(values)


def test_interval_of_a_known_sample() -> None:
    """Ten values of deviation 1: the interval of the mean is about 1.96 / sqrt(10) either way (normal theory), a little less by resampling."""
    values = [-1000, 1000] * 5
    low, high = spread.interval([[value] for value in values])
    assert (float(low), float(high)) == (pytest.approx(-600, abs=100), pytest.approx(600, abs=100))


def test_first_difference() -> None:
    assert judged.first_difference([1, 2, 3], [1, 2, 3]) is None
    assert judged.first_difference([1, 2, 3], [1, 5, 3]) == 1


def test_data_fits_its_schema() -> None:
    document = tomllib.loads((ROOT / judged.DATA).read_text(encoding="utf-8"))
    assert list(violations(document, "text_generation", "test", judged.DATA)) == []


@pytest.mark.parametrize(("gaps", "refused"), [([], True), ([[]], True), ([[0.0, 0.01]], False)])
def test_an_int8_case_of_a_server_has_its_continuations_judged(gaps: list[list[float]], refused: bool) -> None:
    found = [judged.Judged(t=1, prompt=0, prompt_sha256="0" * 64, ids=[1] * len(gap), nll=gap, gap=gap) for gap in gaps]
    measured = SimpleNamespace(all=lambda kind: found if kind is judged.Judged else [])
    case = {"id": "x", "quantization": "w8a16", "server": {}}
    assert [finding.rule for finding in judged._int8(case, measured)] == ["text_generation.int8"] * refused  # type: ignore[arg-type]


def test_the_ratio_of_a_server_is_that_of_its_tokens_to_the_likeliest_in_their_places() -> None:
    gaps = [Fraction(0), Fraction(0), Fraction(3, 100), Fraction(1, 100)]
    assert float(judged.continuation_ratio(gaps)) == pytest.approx(math.exp(0.01))
