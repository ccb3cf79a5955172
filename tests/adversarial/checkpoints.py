"""A case of checkpoints in a built run, and an attack on each of its rules."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.adversarial import builder
from tests.adversarial.attacks import add
from tests.adversarial.builder import MODEL, OPTIMIZER, Bench, Event

CHECKPOINT = "checkpoint-x"
RAW = 2**24
CASE = {
    "id": CHECKPOINT, "suite": "checkpoint", "section": "training", "cards": 2, "processes": 2, "engine": "deepspeed", "zero_stage": 1,
    "global_batch": 4, "micro_batch": 2, "checkpoint_activations": False, "offload": "none", "loss_chunks": 1, "weights": "random",
    "optimizer": OPTIMIZER, "dtype": "float32", "compile": False, "deterministic": True, "attention": ["MATH"], "seed": 7,
    "data": "shakespeare.txt", "tokenizer": "bytes", "packing": "none", "checkpoint_format": "safetensors", "rounds": 2, "raw_bytes": RAW,
    "time_limit_s": 60, "model": MODEL | {"sequence_length": 16},
}  # fmt: skip
MS = 10**6
PARAMETERS = 1000
MODEL_SHARE, OPTIMIZER_SHARE = PARAMETERS * 4 // 2, PARAMETERS * 12 // 2


def events(rank: int) -> list[Event]:
    """Two rounds: a save of 100 ms (rank 1: 120), a cold load of 50 ms, a warm one of 10 ms; the disk writes 16 MiB in 20 ms."""
    made = builder.start(CHECKPOINT, "checkpoint", rank, 2)
    made.append({"t": 30, "e": "data", "source": "shakespeare.txt", "sha256": "0" * 64, "tokens": 4096})
    made.append({"t": 40, "e": "storage", "file_system": "ext4", "device": "nvme0n1", "device_model": "made up", "rotational": False,
                 "size_bytes": 10**12, "free_bytes": 10**11, "needed_bytes": 32_000 + RAW})  # fmt: skip
    for number in range(2):
        made += _round(rank, number, (1 + 450 * number) * MS)
    return builder.end(made)


def _round(rank: int, number: int, at: int) -> list[Event]:
    step = 2 + 2 * number
    saved = {"t": at + 120 * MS, "e": "save", "round": number, "step": step, "begin_ns": at + 20 * MS, "written_ns": at + 110 * MS,
             "model_ns": 30 * MS, "optimizer_ns": 50 * MS, "model_bytes": MODEL_SHARE, "optimizer_bytes": OPTIMIZER_SHARE}  # fmt: skip
    if rank == 1:
        saved["t"] += 20 * MS
    made = [_content(rank, number, "saved", at), *_raw(rank, number, "write", at), saved, *_steps(number, "saved", at + 150 * MS)]
    made += _raw(rank, number, "read", at + 160 * MS)
    for stage, took in (("cold", 50), ("warm", 10)):
        begin = at + (200 if stage == "cold" else 300) * MS
        if rank == 0:
            made.append({"t": begin, "e": "cache", "round": number, "stage": stage, "way": "fadvise" if stage == "cold" else "read",
                         "resident_bytes": 0 if stage == "cold" else 16_000, "size_bytes": 16_000})  # fmt: skip
        made.append(
            {"t": begin + took * MS, "e": "load", "round": number, "stage": stage, "begin_ns": begin, "read_ns": begin + took * MS - 10}
        )
        made += [_content(rank, number, stage, begin + 60 * MS), *_steps(number, stage, begin + 70 * MS)]
    return made


def _content(rank: int, number: int, stage: str, at: int) -> Event:
    tensors = {"model.w": f"{number}" * 64, "optimizer.0.master": f"{rank}" * 64}
    return {"t": at, "e": "content", "round": number, "stage": stage, "size_bytes": 8000, "tensors": tensors}


def _raw(rank: int, number: int, kind: str, at: int) -> list[Event]:
    if rank:
        return []
    return [
        {"t": at + 20 * MS, "e": "ceiling", "round": number, "kind": kind, "begin_ns": at, "size_bytes": RAW, "streams": 8, "direct": True}
    ]


def _steps(number: int, stage: str, at: int) -> list[Event]:
    first = 2 + 2 * number
    return [
        {"t": at, "e": "next_step", "round": number, "stage": stage, "step": first + i, "loss": 4.0 - 0.5 * (first + i)} for i in range(2)
    ]


def with_case(bench: Bench) -> list[Event]:
    """Add the case to a run about to be sealed; rank 0's events, which may still be changed."""
    bench.plan.document["cases"].append(copy.deepcopy(CASE))
    bench.handed[CHECKPOINT] = {"case": copy.deepcopy(CASE), "attempt": 1}
    bench.events[CHECKPOINT] = {"events-00000.jsonl": events(0), "events-rank0001-00000.jsonl": events(1)}
    bench.states[CHECKPOINT] = ("done", None)
    return bench.events[CHECKPOINT]["events-00000.jsonl"]


def build(folder: Path, change: Callable[[list[Event]], Any] = lambda _: None) -> Path:
    """A sealed run that holds the case; what `change` did to rank 0's events is sealed with it."""
    return builder.build(folder, lambda bench: change(with_case(bench)))


def of(kind: str, events: list[Event]) -> list[Event]:
    return [event for event in events if event["e"] == kind]


def against(rule: str, name: str, change: Callable[[list[Event]], Any], *also: str) -> None:
    """An attack by a vendor who seals changed events of this case."""
    add(f"checkpoint.{rule}", "sealed", name, lambda bench: change(with_case(bench)), *(f"checkpoint.{other}" for other in also))


def fewer_cards(bench: Bench) -> None:
    """A row of two cards, saved by two ranks on one."""
    with_case(bench)
    for case in (bench.plan.document["cases"][-1], bench.handed[CHECKPOINT]["case"]):
        case["cards"] = 1


def less_written(bench: Bench) -> None:
    """No moments in the files of either rank."""
    with_case(bench)
    for events in bench.events[CHECKPOINT].values():
        for event in of("save", events):
            event["optimizer_bytes"] = 2000


def smaller_model(bench: Bench) -> None:
    """A thousand parameters in a case whose file names seven billion."""
    with_case(bench)
    for case in (bench.plan.document["cases"][-1], bench.handed[CHECKPOINT]["case"]):
        case["model"]["parameters"] = 7_321_948_160


def not_trained(bench: Bench) -> None:
    """The state of the first round saved again."""
    with_case(bench)
    for events in bench.events[CHECKPOINT].values():
        for number in range(3):
            of("content", events)[3 + number]["tensors"] = of("content", events)[number]["tensors"]


def more_written(events: list[Event]) -> None:
    """Bytes that no file holds make a better pace."""
    for event in of("save", events):
        event["optimizer_bytes"] += 10**6


def looked_at_afterwards(events: list[Event]) -> None:
    """The page cache as it was behind the load."""
    cache, load = of("cache", events)[0], of("load", events)[0]
    events.remove(cache)
    events.insert(events.index(load) + 1, cache | {"t": load["t"]})


add("checkpoint.model", "sealed", "a millionth of the model", smaller_model)
add("checkpoint.content", "sealed", "one state saved in every round", not_trained)
add("checkpoint.cards", "sealed", "two ranks on one card", fewer_cards)
add("checkpoint.size", "sealed", "the optimizer's moments left out", less_written)
against("size", "files smaller than the state", lambda e: of("cache", e)[0].update(size_bytes=100, resident_bytes=0))
against("size", "bytes that no file holds", more_written)
against("raw", "the cold load's pages read before", lambda e: of("cache", e)[0].update(way="read"))
against("time", "a page cache looked at after the load", looked_at_afterwards)
against("time", "a load from before the steps", lambda e: of("load", e)[0].update(begin_ns=of("next_step", e)[1]["t"] - 1))
against("next_step", "one checkpoint told as that of another step", lambda e: of("save", e)[1].update(step=3))
against("facts", "no word of the storage", lambda e: e.remove(of("storage", e)[0]))
against("facts", "another model than the other rank's", lambda e: of("model", e)[0].update(parameters=10))
against("facts", "another text", lambda e: of("data", e)[0].update(source="other.txt"))
against("rounds", "a slow save left out", lambda e: e.remove(of("save", e)[1]))
against("rounds", "only the warm load", lambda e: e.remove(of("load", e)[0]))
against("rounds", "content not looked at after a load", lambda e: e.remove(of("content", e)[1]))
against("rounds", "one round more than planned", lambda e: [x.update(round=2) for x in e if x.get("round") == 1], "raw")
against("time", "a save that began later", lambda e: of("save", e)[0].update(begin_ns=of("save", e)[0]["t"] - 1))
against("time", "a load of no time", lambda e: of("load", e)[0].update(begin_ns=of("load", e)[0]["t"]))
against("time", "two loads at once", lambda e: of("load", e)[1].update(begin_ns=of("load", e)[0]["begin_ns"]))
against("content", "a tensor that did not come back", lambda e: of("content", e)[1]["tensors"].update({"model.w": "f" * 64}))
against("content", "a tensor less", lambda e: of("content", e)[2]["tensors"].pop("model.w"))
against("next_step", "another loss after the load", lambda e: of("next_step", e)[2].update(loss=2.5))
against("next_step", "optimizer states lost: only the second step tells", lambda e: of("next_step", e)[3].update(loss=2.5000001))
against("raw", "the disk not measured", lambda e: e.remove(of("ceiling", e)[0]))
against("raw", "a smaller raw file", lambda e: of("ceiling", e)[0].update(size_bytes=2**20))
against("raw", "the page cache not looked at", lambda e: e.remove(of("cache", e)[0]))
