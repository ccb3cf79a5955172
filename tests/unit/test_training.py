"""Numbers of training cases, worked by hand: held-out loss and perplexity, targets, variance against a curve, utilisation."""

from __future__ import annotations

import math
from array import array
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from tests.adversarial import builder, contents, finetuning
from verify import flop, replay, training, utilisation
from verify.metrics import Metric
from verify.plausibility import Traits
from verify.score import CaseResult
from verify.steps import Measured, Rank, Steps

LLAMA = {"architecture": "llama", "hidden_size": 4096, "num_layers": 8, "num_heads": 32, "num_kv_heads": 32, "ffn_size": 11008, "vocab_size": 32000,
         "sequence_length": 2048}  # fmt: skip


def test_a_fine_tuning_case_is_verified(tmp_path: Path) -> None:
    outcome = replay.replay(builder.build(tmp_path, finetuning.with_case), "self")
    assert (outcome.verdict, outcome.findings) == ("verified", [])
    found = outcome.cases[-1]
    values = {name: float(metric.value) for name, metric in found.metrics.items()}
    assert values["loss_validation"] == 3.5
    assert values["perplexity"] == pytest.approx(math.exp(3.5), rel=1e-12)
    assert (values["targets_met"], values["loss_last"]) == (1, 3.625)
    assert values["time_to_first_step_s"] == 0.003
    assert found.facts == {"weights": "random", "function": "judged by its targets"}


def test_tokens_of_a_team_count_once_and_all_its_cards_divide(tmp_path: Path) -> None:
    """Two ranks, 3 measured steps of 2 ms over 64 tokens: the same as where each had half of them."""
    found = []
    for name, edit in (("data", lambda _: None), ("tensor", contents.in_teams), ("pipeline", contents.in_stages)):
        (tmp_path / name).mkdir()
        outcome = replay.replay(builder.build(tmp_path / name, edit), "self")
        assert (outcome.verdict, outcome.findings) == ("verified", [])
        found.append(outcome.cases[0].metrics)
    assert found[0] == found[1]
    assert {name: found[2][name] for name in ("tgs", "loss_last")} == {name: found[0][name] for name in ("tgs", "loss_last")}
    assert found[1]["tgs"].value == Fraction(64 * 1000, 2 * 2)


@pytest.mark.parametrize(
    ("targets", "met"), [({"loss": "3.625"}, 0), ({"loss": "3.626"}, 1), ({"loss": "4", "perplexity": "33"}, 0), ({"perplexity": "34"}, 1)]
)
def test_every_target_is_met_strictly(tmp_path: Path, targets: dict[str, str], met: int) -> None:
    def act(bench: builder.Bench) -> None:
        finetuning.with_case(bench)
        for place in (bench.plan.document["cases"][-1], bench.handed[finetuning.TUNE]["case"]):
            place["targets"] = targets | {"source": "t"}

    assert replay.replay(builder.build(tmp_path, act), "self").cases[-1].metrics["targets_met"].value == met


def test_a_case_without_a_target_is_unproven() -> None:
    assert training.facts({"purpose": "function"}, Measured())["function"] == "unproven: no target is public"


def measured(losses: list[float]) -> Measured:
    steps = Steps(slowest_ns=array("q", [10**9] * len(losses)), loss=array("d", losses), loss_dp_mean=array("d", losses))
    steps.changes = {0: (100, 90), len(losses): (-100, -90)}
    return Measured(steps=steps, ranks={0: Rank()})


def test_variance_is_over_a_hundred_steps_and_without_the_spike() -> None:
    """Ours is the curve, 1 higher throughout, but for two steps 5 higher: f = 2 / 100, variance = 16 * f * (1 - f)."""
    values = [str(5 - step / 64) for step in range(101)]  # exact in binary
    losses = [float(value) + 1 for value in values]
    losses[47] += 4
    losses[48] += 4
    case = {"warmup_steps": 10, "cards": 1, "model": LLAMA, "curve": {"values": values, "spike": [47, 48]}}
    found = training.metrics(case, measured(losses))
    assert found["loss_variance"].value == Fraction(16 * 2 * 98, 100 * 100)
    assert found["loss_variance_without_spike"].value == 0
    assert "loss_variance" not in training.metrics(case, measured(losses[:99]))


def test_operations_are_those_of_the_formula() -> None:
    weights = 8 * (4 * 4096**2 + 3 * 4096 * 11008) + 4096 * 32000
    assert flop.matrix_weights(LLAMA) == weights
    assert flop.training(LLAMA, 10) == 60 * weights
    assert flop.training(LLAMA, 10, frozen=True) == 40 * weights
    assert flop.attention(LLAMA, 1) == 6 * 8 * 4096 * 2048
    assert flop.attention(LLAMA | {"architecture": "bert"}, 1) == 12 * 8 * 4096 * 2048


def result(name: str, metrics: dict[str, Metric], **fields: Any) -> CaseResult:
    return CaseResult(name, "pretrain", "done", metrics=metrics, fields=fields, traits=Traits(devices=frozenset({"Made Up 80"})))


def test_utilisation_is_over_the_sheets_peak_and_the_runs_own_product() -> None:
    peaks = [{"name": "Made Up", "kind": "bfloat16", "value": 200, "unit": "TFLOPS", "source": "its data sheet"}]
    product = result("s", {"matmul_bfloat16_tflops": Metric(Fraction(160), "TFLOPS", "x")})
    case = result("t", {"model_tflops": Metric(Fraction(100), "TFLOPS", "x")}, dtype="bfloat16")
    [_, found] = utilisation.add([product, case], {"chip": {"peaks": peaks}})
    assert (found.metrics["mfu"].value, found.metrics["matmul_utilisation"].value) == (Fraction(1, 2), Fraction(5, 8))
    assert found.facts["peak"] == "200 TFLOPS: its data sheet"
    [alone] = utilisation.add([case], {"chip": {}})
    assert alone.metrics.keys() == {"model_tflops"}
