"""Plain lies of a vendor about steps of training: each sealed with the true key, each against something else in the record."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from tests.adversarial.attacks import add
from tests.adversarial.builder import PRETRAIN, Bench, Event
from tests.adversarial.finetuning import FILES, TUNE, of, with_case

Change = Callable[[list[list[Event]]], Any]


def against(rule: str, name: str, change: Change, *also: str) -> None:
    """An attack by changed events of all ranks, in pre-training and in fine-tuning; each gets its own copy of the same lie."""

    def pretrain(bench: Bench) -> None:
        change(list(bench.events[PRETRAIN].values()))

    def tuned(bench: Bench) -> None:
        with_case(bench)
        change(list(bench.events[TUNE].values()))

    add(f"pretrain.{rule}", "sealed", name, pretrain, *(f"pretrain.{other}" for other in also))
    add(f"finetuning.{rule}", "sealed", f"fine-tuning: {name}", tuned, *(f"finetuning.{other}" for other in also))


def steps(ranks: Iterable[list[Event]]) -> Iterable[Event]:
    return (event for events in ranks for event in of("step", events))


def each(ranks: Iterable[list[Event]], **fields: Any) -> None:
    """Change every step of every rank."""
    for event in steps(ranks):
        event.update(fields)


def another_time(ranks: list[list[Event]]) -> None:
    """The slow rank's steps lie where the other one had ended its own."""
    for event in ranks[1]:
        if event["e"] in {"step", "evaluation"}:
            event["begin_ns"] += 2_200_000
        if event["e"] in {"step", "evaluation", "memory", "case_end"}:
            event["t"] += 2_200_000


def built_late(ranks: list[list[Event]]) -> None:
    """The first step is told before there was a model, which shortens the time to it."""
    for events in ranks:
        model, first = of("model", events)[0], of("step", events)[0]
        events.remove(model)
        events.insert(events.index(first) + 1, model | {"t": first["t"]})


def trained_before(ranks: list[list[Event]]) -> None:
    """Weights of a file, where the plan asks for random ones."""
    for events in ranks:
        of("model", events)[0].update(weights="file", weights_sha256="5" * 64)


def light(ranks: list[list[Event]]) -> None:
    """The rank that held most says nothing of its memory."""
    ranks[1].remove(of("memory", ranks[1])[0])


def early(ranks: list[list[Event]]) -> None:
    """Memory told before the steps that need it."""
    for events in ranks:
        [memory] = of("memory", events)
        events.remove(memory)
        events.insert(events.index(of("step", events)[0]), memory | {"t": 40})


def scaled(ranks: list[list[Event]]) -> None:
    """Every loss a quarter of what it was."""
    for event in steps(ranks):
        event.update(loss=event["loss"] / 4, loss_dp_mean=event["loss_dp_mean"] / 4)


def contrary(ranks: list[list[Event]]) -> None:
    """Means that make up for each other."""
    for events, by in zip(ranks, (0.5, -0.5), strict=True):
        for event in of("step", events):
            event["loss_dp_mean"] += by


def uneven(ranks: list[list[Event]]) -> None:
    """The fast rank does less than its share."""
    for events, tokens in zip(ranks, (31, 33), strict=True):
        for event in of("step", events):
            event["tokens"] = tokens


against("together", "a slow rank at another time", another_time)
against("facts", "a model built behind the first step", built_late)
against("facts", "weights of a file for random ones", trained_before)
against("memory", "the rank that held most says nothing of it", light)
against("memory", "memory told before the first step", early)
against("loss", "losses scaled", scaled)
against("loss", "means of ranks that make up for each other", contrary)
against("tokens", "ranks with uneven shares", uneven)
against("scaling", "a scale of losses in float32", lambda ranks: each(ranks, loss_scale=65536.0))
against("scaling", "an update that one rank skipped", lambda ranks: of("step", ranks[0])[2].update(skipped=True))
against("gradients", "a norm below nothing", lambda ranks: each(ranks, grad_norm=-1.5))
against("gradients", "a norm of one rank's own", lambda ranks: of("step", ranks[1])[2].update(grad_norm=1.6))


# --- what fine-tuning has beside that -----------------------------------------------------------------------------------


def tuned(rule: str, name: str, change: Change, *also: str) -> None:
    def act(bench: Bench) -> None:
        with_case(bench)
        change([bench.events[TUNE][name] for name in FILES])

    add(f"finetuning.{rule}", "sealed", name, act, *(f"finetuning.{other}" for other in also))


def told_twice(ranks: list[list[Event]]) -> None:
    """A held-out loss of one rank twice, of the other not at all: the number of them is right."""
    ranks[1].remove(of("evaluation", ranks[1])[0])
    first = of("evaluation", ranks[0])[0]
    ranks[0].insert(ranks[0].index(first), dict(first))


tuned(
    "evaluation",
    "an evaluation that takes all the time between steps",
    lambda ranks: [of("evaluation", e)[0].update(begin_ns=0) for e in ranks],
)
tuned("evaluation", "held-out batches left out", lambda ranks: [event.update(tokens=16) for e in ranks for event in of("evaluation", e)])
tuned("evaluation", "a held-out loss told twice by one rank", told_twice)
tuned("adapter", "a rank that trains nothing", lambda ranks: ranks[1].remove(of("adapter", ranks[1])[0]))


def borrowed(bench: Bench) -> None:
    """Fine-tuning tells the losses of pre-training, which had another seed."""
    with_case(bench)
    for place in (bench.plan.document["cases"][-1], bench.handed[TUNE]["case"]):
        place.update(seed=8)
        place.pop("targets")
    for case in (PRETRAIN, TUNE):
        for document in (*bench.plan.document["cases"], bench.handed[case]["case"]):
            if document["id"] == case:
                document["measured_steps"] = 15
                document.pop("evaluation", None)
    for events in bench.events[TUNE].values():
        of("model", events)[0]["seed"] = 8
        events[:] = [event for event in events if event["e"] != "evaluation"]
    for case in (PRETRAIN, TUNE):
        for rank, events in enumerate(bench.events[case].values()):
            lengthened(events, rank)


def lengthened(events: list[Event], rank: int) -> None:
    """Sixteen steps with losses of many digits."""
    first, place = of("step", events)[0], events.index(of("step", events)[0])
    kept = [event for event in events if event["e"] != "step"]
    made = []
    for number in range(16):
        begin, loss = 1_000_000 + number * 3_000_000, 4.1 - number / 30
        t, phase = begin + 1_000_000 * (rank + 1), "measured" if number else "warmup"
        made.append(first | {"t": t, "step": number, "phase": phase, "begin_ns": begin, "loss": loss, "loss_dp_mean": loss})
    for behind, event in enumerate(kept[-2:], start=1):
        event["t"] = made[-1]["t"] + behind
    events[:] = [*kept[:place], *made, *kept[place:]]


add("cases.copied", "sealed", "losses of a training with another seed", borrowed)
