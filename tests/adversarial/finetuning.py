"""A case of fine-tuning in a built run, with an evaluation and a target, and an attack on each of its rules."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from tests.adversarial import builder
from tests.adversarial.attacks import add
from tests.adversarial.builder import Bench, Event

TUNE = "finetune-x"
STEPS = 3
LORA = {"rank": 4, "alpha": 8, "dropout": 0.0}
ADAPTER = 4 * 1 * (2 * 64 + 64 + 64)  # rank * layers * (in and out of query and value)
FILES = ("events-00000.jsonl", "events-rank0001-00000.jsonl")


def case() -> dict[str, Any]:
    """The pre-training case of the built run, with adapters."""
    [made] = [entry for entry in builder.source(STEPS)["case"] if entry["suite"] == "pretrain"]
    return copy.deepcopy(made) | {
        "id": TUNE, "suite": "finetuning", "section": "finetuning", "nodes": 1, "method": "lora", "lora": LORA, "base_weights": "float32",
        "engine": "torch", "zero_stage": 0, "evaluation": {"every": 2, "batches": 1}, "targets": {"loss": "3.7", "source": "tests"},
        "purpose": "function",
    }  # fmt: skip


def events(rank: int) -> list[Event]:
    """One rank's events: those of pre-training, what is trained, and two evaluations."""
    made = builder.pretrain(rank, STEPS)[:-1]
    made[0] |= {"case": TUNE, "suite": "finetuning"}
    made.insert(2, {"t": 20, "e": "adapter", "trained": ADAPTER, "frozen": builder.PARAMETERS, "base_weights": "float32"})
    for steps in (2, 4):
        place = next(index for index, event in enumerate(made) if event.get("step") == steps - 1)
        begin = made[place]["t"] + 1000
        if steps == 4:
            made[-1]["t"] = begin + 1000  # memory is told when all is done
        made.insert(
            place + 1,
            {"t": begin + 500, "e": "evaluation", "steps": steps, "begin_ns": begin, "loss": 3.5, "loss_dp_mean": 3.5, "tokens": 32},
        )
    return builder.end(made)


def with_case(bench: Bench) -> list[Event]:
    """Add the case to a run about to be sealed; rank 0's events may still be changed."""
    bench.plan.document["cases"].append(case())
    bench.handed[TUNE] = {"case": case(), "attempt": 1}
    bench.events[TUNE] = {name: events(rank) for rank, name in enumerate(FILES)}
    bench.states[TUNE] = ("done", None)
    return bench.events[TUNE][FILES[0]]


def of(kind: str, events: list[Event]) -> list[Event]:
    return [event for event in events if event["e"] == kind]


def against(rule: str, name: str, change: Callable[[list[Event]], Any], *also: str) -> None:
    """An attack by a vendor who seals changed events of this case."""
    add(f"finetuning.{rule}", "sealed", name, lambda bench: change(with_case(bench)), *(f"finetuning.{other}" for other in also))


def changed_case(rule: str, name: str, *also: str, **fields: Any) -> None:
    """An attack by a plan that says something else than was done."""

    def act(bench: Bench) -> None:
        with_case(bench)
        for place in (bench.plan.document["cases"][-1], bench.handed[TUNE]["case"]):
            place.update(copy.deepcopy(fields))

    add(f"finetuning.{rule}", "sealed", name, act, *(f"finetuning.{other}" for other in also))


changed_case("cards", "fine-tuning: two ranks on one card", cards=1)
against("model", "fine-tuning: a smaller model than the plan's", lambda e: of("model", e)[0].update(parameters=1000), "adapter", "facts")
changed_case("layout", "fine-tuning: adapters on layers that a team splits", "tokens", "evaluation", tensor_parallel=2)
changed_case("adapter", "another precision of the base weights", base_weights="int8")
against("facts", "fine-tuning: other data on one rank", lambda e: of("data", e)[0].update(sha256="1" * 64))
against("steps", "fine-tuning: warm-up after the start", lambda e: of("step", e)[1].update(phase="warmup"))
against("time", "fine-tuning: steps that overlap", lambda e: of("step", e)[1].update(begin_ns=of("step", e)[0]["begin_ns"]))
against("tokens", "fine-tuning: more tokens than the batch", lambda e: of("step", e)[1].update(tokens=64))
against("loss", "fine-tuning: a mean that is none", lambda e: of("step", e)[1].update(loss_dp_mean=1.0))
against("evaluation", "an evaluation left out", lambda e: e.remove(of("evaluation", e)[0]))
against("evaluation", "a mean of held-out losses that is none", lambda e: of("evaluation", e)[1].update(loss_dp_mean=1.0))
against("adapter", "more weights trained than the adapter has", lambda e: of("adapter", e)[0].update(trained=ADAPTER + 1))


def evaluated(bench: Bench) -> None:
    """Held-out losses in a case of pre-training that asks for none."""
    own = bench.events[builder.PRETRAIN][FILES[0]]
    begin = own[-2]["t"]
    for event in own[-2:]:
        event["t"] += 2000
    own.insert(-2, {"t": begin + 1000, "e": "evaluation", "steps": 4, "begin_ns": begin, "loss": 1.0, "loss_dp_mean": 1.0, "tokens": 32})


add("pretrain.evaluation", "sealed", "an evaluation that nobody asked for", evaluated)
