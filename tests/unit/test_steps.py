"""What verify asks of training steps, one by one: scales of losses, norms, losses that were not measured, memory, steps of one time."""

from __future__ import annotations

import random
from array import array
from itertools import pairwise
from typing import Any

import pytest

from tests.adversarial import builder
from tests.conftest import ROOT
from verify import flop, memory_held, one_time, scaling, step_losses, training
from verify.data import table
from verify.metrics import pretrain
from verify.step_events import Step

FLOAT16 = {"engine": "torch", "dtype": "float16"}
CASE: dict[str, Any] = {
    "suite": "pretrain", "id": "c", "cards": 1, "processes": 1, "engine": "torch", "zero_stage": 0, "offload": "none", "dtype": "bfloat16", "weights": "random",
    "packing": "none", "data": "shakespeare.txt", "optimizer": builder.OPTIMIZER, "warmup_steps": 1, "measured_steps": 3, "global_batch": 2,
    "model": builder.MODEL | {"sequence_length": 16}, "seed": 7,
}  # fmt: skip


def step(number: int, scale: float | None, *, skipped: bool = False, norm: float | None = 1.5) -> Step:
    return Step(
        t=10 * number + 9, step=number, phase="measured" if number else "warmup", begin_ns=10 * number, loss=4.0 - number / 8,
        loss_dp_mean=4.0 - number / 8, tokens=32, real_tokens=32, grad_norm=norm, loss_scale=scale, skipped=skipped,
    )  # fmt: skip


def scaled(case: dict[str, Any], told: list[tuple[float | None, bool]], cut: int = 10**9) -> list[int]:
    """Steps at which the scales are wrong, the rank's steps being read in blocks of `cut`."""
    steps = [step(number, scale, skipped=skipped, norm=None if skipped else 1.0) for number, (scale, skipped) in enumerate(told)]
    found, rank = [], scaling.Scaling()
    for begin in range(0, len(steps), cut):
        part = pretrain.condense(CASE | case | {"measured_steps": len(steps)}, 0, [*steps[begin : begin + cut]])
        assert not [fault for fault in part.findings if fault.rule != "pretrain.loss"]
        found += [number for number, _, _ in rank.add(CASE | case, part.scales)]
    return found


@pytest.mark.parametrize("cut", [1, 2, 3, 100])
def test_a_scale_halves_after_a_skipped_update_and_doubles_after_good_ones(cut: int) -> None:
    honest = [(4.0, True), (2.0, True), (1.0, False), (1.0, False), (2.0, False), (2.0, True), (1.0, False)]
    assert scaled(FLOAT16, honest, cut) == []
    assert scaled(FLOAT16, [(4.0, False), (2.0, False)], cut) == [1]
    assert scaled(FLOAT16, [(4.0, True), (4.0, False)], cut) == [1]
    assert scaled(FLOAT16, [(4.0, True), (4.0, True), (2.0, False)], cut) == [1]
    assert scaled(FLOAT16, [(4.0, False), (4.0, False), (16.0, False)], cut) == [2]
    assert scaled(FLOAT16, [(None, False), (None, False)], cut) == [0]


@pytest.mark.parametrize("cut", [1, 2, 100])
def test_deepspeed_tells_its_scale_behind_the_update_and_may_stand_an_overflow_out(cut: int) -> None:
    engine = {"engine": "deepspeed", "dtype": "float16"}
    assert scaled(engine, [(65536.0, True), (32768.0, True), (32768.0, False), (65536.0, False)], cut) == []
    assert scaled(engine, [(1.0, True), (1.0, True), (1.0, True)], cut) == []
    assert scaled(engine, [(4.0, False), (4.0, False), (2.0, False)], cut) == [2]
    assert scaled(engine, [(4.0, True), (1.0, False)], cut) == [1]


def test_nothing_is_scaled_but_float16_and_torch_skips_nothing_else() -> None:
    assert scaled({"dtype": "bfloat16"}, [(None, False)] * 3) == []
    assert scaled({"dtype": "bfloat16"}, [(None, False), (1.0, False)]) == [1]
    assert scaled({"dtype": "bfloat16"}, [(None, False), (None, True)]) == [1]
    assert scaled({"dtype": "bfloat16", "engine": "deepspeed"}, [(None, False), (None, True), (None, False)]) == []


def test_where_a_block_is_cut_changes_no_digest_of_scales() -> None:
    told = [(4.0, False), (4.0, True), (2.0, False), (2.0, False)]
    digests = set()
    for cut in (1, 2, 3, 4):
        rank = scaling.Scaling()
        for begin in range(0, 4, cut):
            steps = [step(number, *told[number][:1], skipped=told[number][1]) for number in range(begin, min(4, begin + cut))]
            assert not list(rank.add(FLOAT16, pretrain.condense(CASE | FLOAT16, 0, [*steps]).scales))
        digests.add(rank.digest.hexdigest())
    assert len(digests) == 1


def test_a_norm_is_none_where_an_update_was_skipped() -> None:
    assert scaling.wrong_norm(FLOAT16, [step(0, 1.0, skipped=True, norm=None), step(1, 1.0)]) is None
    assert scaling.wrong_norm(FLOAT16, [step(0, 1.0, norm=None)]) is not None
    assert scaling.wrong_norm(FLOAT16, [step(0, 1.0, skipped=True)]) is not None
    assert scaling.wrong_norm({"engine": "torch", "dtype": "bfloat16"}, [step(0, None, norm=None)]) is None
    deepspeed = {"engine": "deepspeed", "dtype": "float16"}
    assert scaling.wrong_norm(deepspeed, [step(0, 1.0, norm=-1.0), step(1, 1.0, norm=None)]) is None
    assert scaling.wrong_norm(deepspeed, [step(0, 1.0, norm=-2.0)]) is not None
    nan = float("nan")
    assert [scaling.apart(*pair) for pair in ((nan, nan), (nan, 1.0), (1.0, 1.005), (1.0, 1.02), (0.0, 0.0))] == [
        False,
        True,
        False,
        True,
        False,
    ]


def losses(count: int, seed: int = 1) -> list[float]:
    """Of float32, from 5.5 down."""
    dice = random.Random(seed)
    return list(array("f", [5.5 - number / 100 + dice.gauss(0, 0.01) for number in range(count)]))


def wrong(found: list[float], **case: Any) -> list[int]:
    return [number for number, _, _ in step_losses.wrong(CASE | case, found)]


def test_losses_that_were_not_measured() -> None:
    honest = losses(100)
    assert wrong(honest) == []
    assert wrong(honest[:50] + honest[:50]) == [50]
    assert wrong(honest[:50] + honest[20:28] + honest[50:]) == [50]
    assert wrong([4.1] * 20) == [1]
    assert wrong([4.1] * 19) == wrong([0.0] * 20, weights="some") == []
    assert wrong([value / 4 for value in honest]) == [0]


def test_honest_losses_that_look_odd() -> None:
    """A rate that has come down to 0 over few data, a chip that rounds, weights of a file, packs without a target."""
    ends = {"schedule": "linear", "warmup_steps": 0, "total_steps": 50, "final_learning_rate": 0}
    repeated = losses(50) + losses(8, 2) * 5
    assert wrong(repeated) == [58]
    assert wrong(repeated, optimizer=builder.OPTIMIZER | ends) == []
    coarse = [round(value * 8) / 8 for value in losses(100)]
    assert wrong(coarse + coarse) == []
    low = [value / 4 for value in losses(10)]
    assert wrong(low, weights="some") == wrong(low, packing="mask") == wrong(low, data="internevo-dummy") == []


def test_the_mean_over_one_rank_is_its_own_loss() -> None:
    def told(mean: float) -> list[str]:
        measured = pretrain.measure(CASE, [(0, pretrain.condense(CASE, 0, [step(number, None) for number in range(4)]))])
        measured.steps.loss_dp_mean[2] = mean
        return [fault.rule for fault in pretrain.rules(CASE, measured) if fault.rule == "pretrain.loss"]

    assert told(3.75) == []
    assert told(3.7499) == ["pretrain.loss"]


def test_the_least_that_a_card_holds() -> None:
    count = builder.PARAMETERS
    assert memory_held.least(CASE) == 14 * count
    assert memory_held.least(CASE | {"dtype": "float32"}) == 12 * count
    assert memory_held.least(CASE | {"processes": 4, "tensor_parallel": 2}) == 7 * count
    zero = CASE | {"engine": "deepspeed", "processes": 4}
    assert [memory_held.least(zero | {"zero_stage": stage}) for stage in (1, 3)] == [2 * count + 3 * count, count // 2 + 3 * count]
    assert memory_held.least(zero | {"offload": "all"}) == 0
    assert memory_held.least(CASE | {"method": "lora", "base_weights": "int8"}) == count


def test_less_memory_than_weights_take_is_told() -> None:
    def told(peaks: list[int], kind: str) -> list[tuple[str, str]]:
        return [(fault.rule, fault.severity) for fault in memory_held.short(CASE, peaks, {kind})]

    held = memory_held.least(CASE)
    assert told([held - 1], "cuda") == [("pretrain.memory", "warning")]
    assert told([held - 1, held], "cuda") == told([held - 1], "cpu") == told([0], "cuda") == []


def test_steps_of_one_host_are_taken_at_one_time() -> None:
    slack = one_time.SLACK_NS
    case = CASE | {"processes": 4, "nodes": 2}

    def told(later: int, rank: int, **changes: Any) -> list[str]:
        hosts = one_time.Hosts()
        for number in range(4):
            origin = later if number == rank else 0
            for first in (0, 2):
                hosts.add(case | changes, number, origin, first, iter([(100 * (first + place), 50) for place in range(2)]))
        return [fault.rule for fault in one_time.differing(case | changes, hosts)]

    assert told(0, 0) == told(50 + slack, 1) == []
    assert told(51 + slack, 1) == told(51 + slack, 2) == ["pretrain.together"]
    assert told(10**12, 0, nodes=4) == []


def test_parameters_follow_from_the_shape() -> None:
    for path in sorted((ROOT / "manifests/models").glob("*.toml")):
        shape = table(f"manifests/models/{path.name}")["shape"]
        assert flop.parameters(shape) == shape["parameters"], path.name
    assert flop.parameters(builder.MODEL) == builder.PARAMETERS


def test_evaluation_hides_no_idle_time() -> None:
    """Warm-up of 100, then three steps of 10 each 20 apart, an evaluation of 5 between two, and a long one at the end."""
    begins, lasts = [0, 200, 220, 240], [100, 10, 10, 10]
    told = [step(number, None) for number in range(4)]
    events: list[Any] = []
    for made, begin, lasted in zip(told, begins, lasts, strict=True):
        events.append(Step(**{name: getattr(made, name) for name in Step.__struct_fields__} | {"begin_ns": begin, "t": begin + lasted}))
    from verify.step_events import Evaluation

    for place, (steps, begin, t) in enumerate([(2, 211, 216), (4, 251, 900)]):
        events.insert(steps + place, Evaluation(t=t, steps=steps, begin_ns=begin, loss=3.5, loss_dp_mean=3.5, tokens=32))
    case = CASE | {"evaluation": {"every": 2, "batches": 1}}
    for cuts in ([0, 6], [0, 2, 6], [0, 1, 2, 3, 4, 5, 6]):
        measured = pretrain.measure(case, [(0, pretrain.condense(case, 0, events[begin:end])) for begin, end in pairwise(cuts)])
        assert not [fault for fault in pretrain.rules(case, measured) if fault.rule in {"pretrain.evaluation", "pretrain.time"}]
        found = training.traits(case, measured)
        assert (found.busy_ns, found.span_ns) == (35, 50)
