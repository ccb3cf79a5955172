"""Tables, totals, baselines and profiles: what counts, what stays apart, and what a ruling changes."""

from __future__ import annotations

from array import array
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import synthetic
from verify import profile, table
from verify.data import violations
from verify.findings import Unchecked
from verify.metrics import Metric, Series, pretrain
from verify.result import Result
from verify.score import CaseResult
from verify.scoring import baseline, cases, engine
from verify.scoring.attach import score

OURS = profile.load(profile.DEFAULT)
PRINTED = profile.load("report-0.2.1-printed")
A100 = baseline.load("a100-report-0.2.1")
TABLES = {found.id: found for found in OURS.tables}


def scored(cases: list[CaseResult], chosen: profile.Profile = OURS, base: baseline.Baseline | None = None) -> engine.Scoring:
    return score(Result(cases=cases), chosen, base or A100)


def like_baseline(name: str, base: baseline.Baseline) -> list[CaseResult]:
    """Cases of one table whose metrics are the baseline's own values."""
    made = []
    for row in TABLES[name].rows:
        case = synthetic.case(TABLES[name], row)
        values = {
            metric: replace(value, value=cell.value)
            for metric, value in case.metrics.items()
            if (cell := base.row(name, row.id, metric)) and cell.value is not None
        }
        made.append(replace(case, metrics=values))
    return made


@pytest.mark.parametrize(("chosen", "expected"), [(OURS, "1"), (PRINTED, "1.004")], ids=["ruled", "printed"])
def test_printed_communication_rows_against_themselves(chosen: profile.Profile, expected: str) -> None:
    total = scored(like_baseline("communication", A100), chosen).tables["communication"].total
    assert (total.score, total.counted, total.rows) == (Fraction(expected), 10, 10)


@pytest.mark.parametrize(("chosen", "expected"), [(OURS, "1"), (PRINTED, "1.2")], ids=["ruled", "printed"])
def test_checkpoints_against_themselves(chosen: profile.Profile, expected: str) -> None:
    base = synthetic.pack(OURS)
    assert scored(like_baseline("checkpoint", base), chosen, base).tables["checkpoint"].total.score == Fraction(expected)


@pytest.mark.parametrize("name", [found.id for found in OURS.tables if any(part.kind in {"ratio", "inverse"} for part in found.parts)])
def test_every_ratio_of_a_baseline_against_itself_is_one(name: str) -> None:
    base = synthetic.pack(OURS, Fraction(1))
    cases = synthetic.cases(OURS)
    found = scored(cases, OURS, base).tables[name]
    ratios = {part.id for part in TABLES[name].parts if part.kind in {"ratio", "inverse"}}
    assert all(row.parts[part].score == 1 for row in found.rows for part in ratios if row.parts[part].state != "shown")
    assert found.total.score == 1


def test_stability_against_the_printed_baseline() -> None:
    unit = Metric(Fraction(0), "nat^2", "")
    cases = [replace(case, metrics=case.metrics | {"loss_variance": unit}) for case in like_baseline("stability", A100)]
    assert scored(cases).tables["stability"].total.score == 1


def stability_65b(loss: list[Fraction]) -> engine.rows.RowResult:
    row = TABLES["stability"].rows[1]
    case = replace(synthetic.case(TABLES["stability"], row), series={"loss": Series(tuple(loss), "nat/token")})
    return scored([case]).tables["stability"].rows[1]


def test_variance_of_a_loss_against_the_published_curve() -> None:
    """Ruling 8: steps 0 to 99; an offset costs nothing; a curve that is one step late gives 0.062 (spec, sensitivity notes)."""
    curve = list(A100.curve("stability", "internlm-65b-32", "loss"))
    assert (len(curve), curve[0]) == (101, Fraction("10.558171272277832"))
    assert stability_65b([value + 1 for value in curve]).values["loss_variance"].test == 0
    late = stability_65b(curve[1:])
    assert float(late.values["loss_variance"].test) == pytest.approx(0.062, abs=5e-4)
    assert late.parts["variance"].score == 1 - late.values["loss_variance"].test


def test_a_curve_that_is_too_short_or_thinned_gives_no_variance() -> None:
    curve = list(A100.curve("stability", "internlm-65b-32", "loss"))
    assert stability_65b(curve[:99]).values["loss_variance"].test is None
    row = TABLES["stability"].rows[0]
    case = replace(synthetic.case(TABLES["stability"], row), metrics={"crashes": Metric(Fraction(0), "crashes", "")})
    found = scored([case], base=replace(A100, curves={})).tables["stability"].rows[0]
    assert (found.parts["variance"].state, found.parts["variance"].reason) == ("0", "metric_missing")


@pytest.mark.parametrize("steps", [150, 1000, 100_000])
def test_every_step_of_a_long_run_makes_the_variance(steps: int) -> None:
    """Points of a chart are means of several steps; a loss that swings by 1/8 from step to step has its whole variance, 1/64."""
    curve = [float(value) for value in A100.curve("stability", "internlm-65b-32", "loss")][:100]
    swings = [value + (-1) ** step / 8 for step, value in enumerate(curve)] + [2.0] * (steps - 100)
    measured = pretrain.Measured(pretrain.Steps(slowest_ns=array("q", [1] * steps), loss_dp_mean=array("d", swings)), {0: pretrain.Rank()})
    found = pretrain.series({"warmup_steps": 10}, measured)["loss"]
    assert len(found.values) <= 400
    assert (found.head == ()) == (steps == 150)
    row = TABLES["stability"].rows[1]
    case = replace(synthetic.case(TABLES["stability"], row), series={"loss": found})
    value = scored([case]).tables["stability"].rows[1].values["loss_variance"].test
    assert value is not None
    assert float(value) == pytest.approx(1 / 64)


def finetuned(default: bool, off: bool, base: tuple[str, ...]) -> engine.Scoring:
    """A fine-tuning row by 150 in the default column and 60 with int8 off, against baselines of 100 and 50."""
    table_ = TABLES["finetuning_compute"]
    row = table_.rows[0]
    unit = "tokens/(s*card)"
    cells = {
        f"finetuning_compute/{row.id}/{name}": baseline.Cell(
            "", Fraction({"tgs": 100, "tgs_int8_off": 50}[name]), unit, "measured", "", None
        )
        for name in base
    }
    cases = []
    for name, made, there, value in (
        ("tgs", synthetic.case(table_, row), default, 150),
        ("off", synthetic.column(table_, row, table_.parts[1]), off, 60),
    ):
        if there:
            cases.append(replace(made, id=name, metrics={"tgs": Metric(Fraction(value), unit, "")}))
    return scored(cases, base=replace(A100, cells=cells))


@pytest.mark.parametrize(
    ("default", "off", "base", "score_", "case"),
    [
        (True, True, ("tgs", "tgs_int8_off"), Fraction(3, 2), "tgs"),
        (True, True, ("tgs",), Fraction(3, 2), "tgs"),
        (True, True, ("tgs_int8_off",), Fraction(6, 5), "off"),
        (False, True, ("tgs", "tgs_int8_off"), Fraction(6, 5), "off"),
        (False, True, ("tgs",), Fraction(0), None),
        (True, False, ("tgs_int8_off",), Fraction(0), None),
        (True, True, (), None, "tgs"),
    ],
)
def test_finetuning_is_compared_within_one_column(
    default: bool, off: bool, base: tuple[str, ...], score_: Fraction | None, case: str | None
) -> None:
    """Ruling 23: never a column against the other's baseline; the default one first."""
    found = finetuned(default, off, base)
    row = found.tables["finetuning_compute"].rows[0]
    assert (row.result.score, row.case) == (score_, case)
    assert row.values["tgs"].test == (150 if default else None)
    assert row.values["tgs_int8_off"].test == (60 if off else None)
    assert ("by_tgs_int8_off" in row.notes) == (case == "off")
    assert sum(part.state == "shown" for part in row.parts.values()) == 1
    if case == "off":
        assert found.cases["off"].score == Fraction(6, 5)
    elif off:
        assert found.cases["off"].score is None


def test_hand_computed_checkpoint_row() -> None:
    """docs/formulas.md, F8: 20 s against 25 s and 10 s against 8 s give 0.935; the other two rows are not submitted."""
    table_ = TABLES["checkpoint"]
    cells = {}
    for row in table_.rows:
        for metric, value in (("save_total_s", 20), ("load_total_s", 10)):
            key = f"checkpoint/{row.id}/{metric}"
            cells[key] = baseline.Cell(key, Fraction(value), "s", "measured", "test", None)
    base = replace(A100, cells=cells)
    case = replace(
        synthetic.case(table_, table_.rows[0]),
        metrics={"save_total_s": Metric(Fraction(25), "s", ""), "load_total_s": Metric(Fraction(8), "s", "")},
    )
    found = scored([case], OURS, base).tables["checkpoint"]
    assert [row.result.state for row in found.rows] == ["scored", "NA", "NA"]
    assert found.rows[0].result.score == Fraction(187, 200)
    assert found.total.score == Fraction(187, 600)
    assert scored([case], PRINTED, base).tables["checkpoint"].rows[0].result.score == Fraction(237, 200)


def test_weights_follow_models_not_rows() -> None:
    """F4 then F5: three InternLM rows share one weight of 0.40."""
    base = synthetic.pack(OURS, Fraction(1))
    cases = [replace(case, state="not_run", metrics={}) if "internlm" in case.id else case for case in synthetic.cases(OURS)]
    assert scored(cases, OURS, base).tables["training_compute"].total.score == Fraction("0.6")


def test_a_row_without_baseline_takes_no_part_and_the_share_says_so() -> None:
    base = synthetic.pack(OURS, Fraction(1))
    cells = {key: cell for key, cell in base.cells.items() if not key.startswith("training_compute/gpt3")}
    total = scored(synthetic.cases(OURS), OURS, replace(base, cells=cells)).tables["training_compute"].total
    assert (total.score, total.counted, total.rows) == (1, 6, 7)


def test_not_submitted_failed_and_refused_stay_apart() -> None:
    table_ = TABLES["communication"]
    one, two, three, *_ = (synthetic.case(table_, row) for row in table_.rows)
    cases = [
        replace(one, state="not_run", metrics={}),
        replace(two, state="failed", metrics={}),
        replace(three, metrics={}),
    ]
    found = scored(cases).tables["communication"].rows
    assert [(row.result.state, row.result.score, row.result.reason) for row in found[:4]] == [
        ("NA", 0, "not_submitted"),
        ("0", 0, "failed"),
        ("0", 0, "refused"),
        ("NA", 0, "awaits_suite" if table_.awaits else "not_submitted"),
    ]


def test_targets_are_strict_and_the_later_rule_is_not() -> None:
    cases = [case for case in synthetic.cases(OURS) if case.id.startswith("finetuning_function")]
    ours = scored(cases).tables["finetuning_function"]
    later = scored(cases, profile.load("lab-2025")).tables["finetuning_function"]
    assert [(row.result.state, row.result.reason) for row in ours.rows] == [("scored", None), ("0", "below_the_bar")]
    assert (ours.total.score, later.total.score) == (Fraction(1, 2), 1)


def test_function_rows_need_true_weights() -> None:
    cases = [replace(case, facts={"weights": "random"}) for case in synthetic.cases(OURS) if case.id.startswith("finetuning_function")]
    found = scored(cases).tables["finetuning_function"]
    assert {(row.result.state, row.result.reason) for row in found.rows} == {("NA", "needs_weights_file")}


def test_finetuning_reuses_the_scores_of_training() -> None:
    found = scored(like_baseline("communication", A100))
    assert found.part("finetuning", "communication") == ("finetuning_communication", found.tables["communication"].total)


def text_cases(**changes: object) -> list[CaseResult]:
    return [case for case in synthetic.cases(OURS) if case.id.startswith("text_generation-")]


def test_a_group_that_lacks_an_output_length_does_not_count() -> None:
    base = synthetic.pack(OURS, Fraction(1))
    whole = scored(text_cases(), OURS, base).tables["text_generation_tiers"]
    without = [case for case in text_cases() if case.id != "text_generation-31"]  # 7B, 64 sessions, 256 in, 1024 out: the fastest group
    found = scored(without, OURS, base).tables["text_generation_tiers"]
    assert found.rows[3].values["max_throughput"].test < whole.rows[3].values["max_throughput"].test
    assert "incomplete_groups" in found.rows[3].notes
    assert found.total.score < whole.total.score == 1


def test_tiers_of_the_synthetic_grid_by_hand() -> None:
    """256 tokens in: latency is 40 ms a session: tiers end at 12.5, 25 and 75 sessions; throughput is 30 c - c*c/10 + mean(out)/100."""
    found = scored(text_cases(), OURS, synthetic.pack(OURS)).tables["text_generation_tiers"].rows
    mean_out = Fraction(128 + 512 + 1024, 300)

    def rate(sessions: int) -> Fraction:
        return 30 * sessions - Fraction(sessions**2, 10) + mean_out

    assert [row.values["max_throughput"].test for row in found[:4]] == [rate(8), rate(16), rate(64), rate(64)]
    assert [row.values["max_throughput_bins"].test for row in found[:4]] == [rate(8), rate(16), rate(64), None]
    assert [row.values["max_throughput"].test for row in found[4:8]] == [rate(8), rate(16), rate(64), rate(96)]


def test_throughput_is_scaled_to_the_cards_of_the_baseline() -> None:
    case = next(case for case in text_cases() if case.id == "text_generation-36")
    case = replace(case, fields=case.fields | {"cards": 16})
    cell = scored([case]).tables["text_generation"].rows[35].values["throughput"]
    assert cell.test == cell.actual / 2


def test_the_first_case_of_the_plan_fills_a_row() -> None:
    first = next(case for case in text_cases() if case.id == "text_generation-1")
    second = replace(first, id="int8", metrics={})
    assert scored([first, second]).tables["text_generation"].rows[0].case == first.id
    assert scored([second, first]).tables["text_generation"].rows[0].case == "int8"


@settings(max_examples=10, deadline=None)
@given(st.integers(min_value=0, max_value=9), st.fractions(min_value=Fraction(1, 100), max_value=100))
def test_a_faster_row_never_lowers_a_total(index: int, factor: Fraction) -> None:
    cases = like_baseline("communication", A100)
    value = cases[index].metrics["throughput_gbps"]
    faster = replace(cases[index], metrics=cases[index].metrics | {"throughput_gbps": replace(value, value=value.value * factor)})
    changed = scored([*cases[:index], faster, *cases[index + 1 :]]).tables["communication"].total.score
    assert (changed > 1, changed < 1) == (factor > 1, factor < 1)


@settings(max_examples=8, deadline=None)
@given(st.sets(st.sampled_from([f"text_generation-{number}" for number in range(1, 36)])))
def test_leaving_out_cases_never_helps(left_out: set[str]) -> None:
    base = synthetic.pack(OURS, Fraction(1))
    kept = [case for case in text_cases() if case.id not in left_out]
    load_same = [replace(case, metrics=case.metrics | {"load_time_s": Metric(Fraction(10), "s", "")}) for case in kept]
    whole = [replace(case, metrics=case.metrics | {"load_time_s": Metric(Fraction(10), "s", "")}) for case in text_cases()]
    after, before = (scored(cases, OURS, base).tables["text_generation_tiers"].total.score for cases in (load_same, whole))
    assert after <= before


def test_selectors() -> None:
    fields = {"suite": "a", "model": {"size": 1}, "flag": True}
    assert cases.matches({"suite": "a", "model.size": 1}, fields)
    assert cases.matches({"suite": ["b", "a"]}, fields)
    assert not cases.matches({"model.size": 2}, fields)
    assert not cases.matches({"model.size.x": 1}, fields)
    assert not cases.matches({"flag": 1}, fields)
    assert not cases.matches({}, fields)


def test_grid_of_the_report() -> None:
    grid = TABLES["text_generation"].rows
    assert len(grid) == 84
    assert (grid[0].label, grid[0].cards) == ({"model": "LLaMA-7B", "concurrency": 1, "input_tokens": 256, "output_tokens": 128}, 1)
    assert grid[63].label == {"model": "LLaMA-65B/70B", "concurrency": 64, "input_tokens": 256, "output_tokens": 128}
    assert grid[83].label == {"model": "LLaMA-65B/70B", "concurrency": 96, "input_tokens": 1024, "output_tokens": 1024}
    assert sum(row.weight for row in TABLES["communication"].rows) == 1
    assert [len(TABLES[name].rows) for name in ("base_specs", "text_generation_tiers", "text_to_image")] == [15, 16, 12]


def test_pack_of_the_report_has_every_cell_and_only_printed_values() -> None:
    cells = A100.cells.values()
    assert {cell.status for cell in cells} == {"printed", "empty"}
    assert sum(cell.value is not None for cell in cells) == 15 + 20 + 6 + 4
    for table_ in OURS.tables:
        for row in table_.rows:
            for part in table_.parts:
                assert part.optional or f"{table_.id}/{row.id}/{part.metric}" in A100.cells
    assert A100.row("communication", "pt2pt-32", "duration_ms").value == Fraction("762.939")


def test_result_fits_its_schema_and_traces_every_number() -> None:
    document = synthetic.result(against=["report-0.2.1-printed"]).document()
    assert violations(document, "result", "r", "r") == []
    for found in document["scoring"]["tables"]:
        for row in found["rows"]:
            for value in row["values"].values():
                assert (value["test"] is None) == (value["cases"] == []) or found["id"] == "text_generation_tiers"
                assert (value["base"] is None) == (value["baseline"] is None)
    training = document["sections"]["training"]
    assert training["communication"]["share"] == {"rows": 10, "counted": 10, "submitted": 10}
    assert training["compute"]["score"] is None
    assert training["compute"]["state"] == "done"


def test_what_a_ruling_changes_is_shown() -> None:
    document = synthetic.result(full_baseline=True, against=["report-0.2.1-printed", "a100-report-0.2.1"]).document()
    text = table.render(document, ["communication", "checkpoint"])
    assert "report-0.2.1 / synthetic against report-0.2.1-printed / synthetic" in text
    assert "6.30 % as printed" in text
    assert "3.2.2(3) checkpoint" in text
    with pytest.raises(Unchecked, match="unknown table"):
        table.check(profile.load(profile.DEFAULT), ["all", "nonsense"])


def test_off_grid_cases_score_against_the_same_workload() -> None:
    case = replace(
        synthetic.case(TABLES["training_compute"], TABLES["training_compute"].rows[0]),
        fields={"id": "tiny", "suite": "pretrain", "cards": 2},
    )
    key = f"case/{baseline.workload(case.fields)}/tgs"
    base = replace(A100, cells={key: baseline.Cell(key, case.metrics["tgs"].value * 2, "tokens/(s*card)", "measured", "test", None)})
    result = Result(cases=[case])
    result.scorings = [score(result, OURS, base)]
    document = result.document()
    assert document["cases"][0]["score"] == 0.5
    part = document["sections"]["training"]["compute"]
    assert (part["score"], part["basis"]) == (0.5, "cases")
    assert baseline.workload(case.fields) == baseline.workload(case.fields | {"id": "other", "micro_batch": 8})
    assert baseline.workload(case.fields) != baseline.workload(case.fields | {"global_batch": 8})


@settings(max_examples=8, deadline=None)
@given(st.fractions(min_value=Fraction(1, 20), max_value=1))
def test_shorter_waits_never_lower_the_total(factor: Fraction) -> None:
    base = synthetic.pack(OURS, Fraction(1))
    name = "first_token_latency_mean_ms"
    faster = [replace(case, metrics=case.metrics | {name: Metric(case.metrics[name].value * factor, "ms", "")}) for case in text_cases()]
    before, after = (scored(cases, OURS, base).tables["text_generation_tiers"].total.score for cases in (text_cases(), faster))
    assert after >= before
