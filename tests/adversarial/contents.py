"""Attacks on what the worker recorded: the vendor seals false events of a case with the true key."""

from __future__ import annotations

from typing import Any

from tests.adversarial.attacks import PLAN, add, plan_bytes
from tests.adversarial.builder import PRETRAIN, Bench
from verify import flop

# --- events ----------------------------------------------------------------------------------------------------------


def events(bench: Bench, case: str = PRETRAIN, name: str = "events-00000.jsonl") -> list[dict[str, Any]]:
    return bench.events[case][name]


add("events.start", "sealed", "another case's events", lambda b: events(b)[0].update(case="other"))
add("events.start", "sealed", "another world size", lambda b: events(b)[0].update(world_size=4))
add("events.end", "sealed", "no end", lambda b: events(b).pop())
add("events.end", "sealed", "a failure counted", lambda b: events(b)[-1].update(state="failed", reason="x"))
add("events.time", "sealed", "time goes back", lambda b: events(b)[-1].update(t=1))
add("events.schema", "sealed", "an unknown kind", lambda b: b.step(1).update(e="leap"))
add("events.schema", "sealed", "a float for a time", lambda b: b.step(1).update(begin_ns=1.5))
add("events.schema", "sealed", "losses scaled by nothing", lambda b: b.step(1).update(loss_scale=0.0))
add("events.schema", "sealed", "an unknown field", lambda b: b.step(1).update(bonus=1))
add("events.ranks", "sealed", "a rank's events missing", lambda b: b.events[PRETRAIN].pop("events-rank0001-00000.jsonl"))
add("events.segments", "sealed", "a segment missing", lambda b: b.events[PRETRAIN].update({"events-00002.jsonl": events(b)[-1:]}))

# --- pre-training ----------------------------------------------------------------------------------------------------
add(
    "pretrain.cards",
    "sealed",
    "two ranks on one card",
    lambda b: (b.plan.document["cases"][0].update(cards=1), b.handed[PRETRAIN]["case"].update(cards=1)),
)
add("pretrain.facts", "sealed", "other data on one rank", lambda b: b.kind("data", PRETRAIN)[0].update(sha256="1" * 64))
add("pretrain.facts", "sealed", "another precision", lambda b: b.kind("model", PRETRAIN)[0].update(dtype="float16"))
add("pretrain.steps", "sealed", "a slow step left out", lambda b: events(b).remove(b.step(2)), "pretrain.tokens")
add("pretrain.steps", "sealed", "warm-up after the start", lambda b: b.step(1).update(phase="warmup"))
add("pretrain.time", "sealed", "steps that overlap", lambda b: b.step(2).update(begin_ns=b.step(1)["begin_ns"]))
add("pretrain.tokens", "sealed", "more tokens than the batch", lambda b: b.step(1).update(tokens=64))
add("pretrain.tokens", "sealed", "more real tokens than slots", lambda b: b.step(1).update(real_tokens=33))
add("pretrain.loss", "sealed", "a mean that is none", lambda b: b.step(1).update(loss_dp_mean=1.0))
add("pretrain.loss", "sealed", "a negative loss", lambda b: (b.step(1).update(loss=-1.0, loss_dp_mean=1.0),))
add("pretrain.model", "sealed", "a smaller model than the plan's",
    lambda b: [file[2].update(parameters=1000) for file in b.events[PRETRAIN].values()])  # fmt: skip


def in_teams(bench: Bench) -> None:
    """The two ranks are one team: each has the whole batch, which counts once."""
    for place in (bench.plan.document["cases"][0], bench.handed[PRETRAIN]["case"]):
        place.update(engine="torch", zero_stage=0, tensor_parallel=2)
    for number in range(4):
        for rank in (0, 1):
            bench.step(number, rank).update(tokens=64, real_tokens=60)


def in_stages(bench: Bench) -> None:
    """The two ranks are the stages of one model."""
    in_teams(bench)
    for place in (bench.plan.document["cases"][0], bench.handed[PRETRAIN]["case"]):
        place.update(tensor_parallel=1, pipeline_parallel=2)
        place["model"] = place["model"] | {"num_layers": 2}
    for file in bench.events[PRETRAIN].values():
        file[2]["parameters"] = flop.parameters(bench.handed[PRETRAIN]["case"]["model"])


def apart(bench: Bench) -> None:
    """As two data ranks would lose: the mean over ranks is right."""
    in_teams(bench)
    for rank, loss in enumerate((3.5, 4.0)):
        bench.step(2, rank).update(loss=loss, loss_dp_mean=3.75)


def as_data_ranks(bench: Bench) -> None:
    """Each rank of the team says that half of the batch was its own."""
    in_teams(bench)
    for number in range(4):
        for rank in (0, 1):
            bench.step(number, rank).update(tokens=32, real_tokens=30)


add("pretrain.layout", "sealed", "ranks of one team that lose differently", apart)
add("pretrain.layout", "sealed", "more real tokens on one rank of a team", lambda b: (in_teams(b), b.step(2, 1).update(real_tokens=64)))
add("pretrain.tokens", "sealed", "ranks of one team with tokens of data ranks", as_data_ranks)
add(
    "pretrain.layout",
    "sealed",
    "a team over an engine that splits no layer",
    lambda b: (in_teams(b), [place.update(engine="deepspeed") for place in (b.plan.document["cases"][0], b.handed[PRETRAIN]["case"])]),
)

# --- documents ---------------------------------------------------------------------------------------------------------
add(
    "resolved_plan.schema",
    "tampered",
    "a count written with a fraction of nothing",
    plan_bytes(lambda data: data.replace(b'"processes":2,', b'"processes":2.0,', 1)),
    *PLAN,
)
add("environment.schema", "sealed", "a field too many", lambda b: b.environment.update(extra=1))
add("resolved_plan.schema", "tampered", "no version", plan_bytes(lambda d: d.replace(b'"schemaVersion":1,', b"", 1)), *PLAN)
add("plan.case", "sealed", "a case that breaks its schema", lambda b: b.plan.document["cases"][0].update(measured_steps=0))
add(
    "plan.case",
    "sealed",
    "a count with a fraction behind a reference",
    lambda b: b.plan.document["cases"][1].update(model=b.plan.document["cases"][1]["model"] | {"vocab_size": 256.0}),
)
add("plan.case", "sealed", "a case in another section", lambda b: b.plan.document["cases"][0].update(section="inference"))
add("plan.suite", "sealed", "a suite that nobody knows", lambda b: b.plan.document["cases"][0].update(suite="unknown"))
add(
    "case.handed",
    "sealed",
    "the worker was given an easier case",
    lambda b: b.handed.update({PRETRAIN: {"case": b.plan.cases[0] | {"seed": 8}, "attempt": 1}}),
)
