"""Saving and loading checkpoints: seconds of the slowest rank (report formula F8), and their share of the disk's own pace.

A save counts from its begin to the checkpoint of all ranks being on the disk under its name, a load from opening to all ranks
ready to step (ruling 18). The raw file of the same round tells what the disk can do, so that a page cache cannot pass for a chip.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from verify import checkpoint_events, fabric
from verify.checkpoint_events import Cache, Ceiling, Content, Load, NextStep, Save, Storage
from verify.events import Environment, Event, Model
from verify.findings import Finding, error, warning
from verify.metrics import Blocks, Case, Metric, mean, over, unchanged
from verify.plausibility import Traits
from verify.step_events import Data

SECTION = "training"
PART = "checkpoint"
NS_PER_S = 10**9
NEXT_STEPS = 2
MEMORY = frozenset({"tmpfs", "ramfs", "devtmpfs", "hugetlbfs"})
COLD_SHARE = Fraction(1, 100)  # of the checkpoint's bytes; more in the page cache is no cold load
CEILING_SHARE = Fraction(5, 4)  # of the raw pace of the same round: shared disks breathe, a page cache is ten times faster
JUDGED_BYTES = 2**30  # below, a disk that breathes says little of its pace
MODEL_BYTES = {"float32": 4, "bfloat16": 2}
RAW_BLOCK = 2**24  # more than any worker's block
OPTIMIZER_BYTES = 12  # a parameter: master copy and two moments in float32
STAGES = ("cold", "warm")
FACTS = ("Data", "Environment", "Model", "Storage")

RULES = {
    "checkpoint.cards": "one rank for each card",
    "checkpoint.facts": "each rank records environment, model (of the case), data and storage, once each, the same model and data",
    "checkpoint.model": "the model has as many parameters as the case's file of it says",
    "checkpoint.rounds": "in each round and rank: content, save, two steps, a cold and a warm load, each with content and two steps",
    "checkpoint.time": "whatever takes time begins after all that was told before, its parts lie within it, and a round keeps its order",
    "checkpoint.size": "all ranks together write at least every parameter, its master copy and its two moments, and files hold it all",
    "checkpoint.content": "each tensor has the same digest after each load as before the save, and not all are those of the round before",
    "checkpoint.next_step": "the steps after each load have the losses of the training that was not stopped, the same on every rank",
    "checkpoint.raw": "in each round the first rank of each node measures the disk's pace by the case's bytes and sees to the page cache",
    "checkpoint.storage": "checkpoints lie on a disk, not in memory (warning)",
    "checkpoint.cold": "before the cold load no more than 1 % of the checkpoint is in the page cache (warning)",
    "checkpoint.ceiling": "saves and cold loads of a gigabyte or more are at most a quarter faster than the raw disk (warning)",
}


EVENTS = checkpoint_events.EVENTS
Round = tuple[int, int]  # rank and number


@dataclass(slots=True)
class Measured:
    """Events by kind, rank and round; `order` is how each rank's events follow each other."""

    ranks: set[int] = field(default_factory=set)
    kinds: dict[int, list[str]] = field(default_factory=dict)
    models: set[tuple[Any, ...]] = field(default_factory=set)
    texts: set[tuple[Any, ...]] = field(default_factory=set)
    parameters: int = 0
    devices: set[str] = field(default_factory=set)
    storages: list[Storage] = field(default_factory=list)
    order: dict[Round, list[tuple[str, str]]] = field(default_factory=dict)
    contents: dict[Round, dict[str, Content]] = field(default_factory=dict)
    ceilings: dict[int, dict[str, list[tuple[int, Ceiling]]]] = field(default_factory=dict)
    saves: dict[Round, Save] = field(default_factory=dict)
    caches: dict[int, dict[str, list[tuple[int, Cache]]]] = field(default_factory=dict)
    loads: dict[Round, dict[str, Load]] = field(default_factory=dict)
    steps: dict[Round, list[NextStep]] = field(default_factory=dict)
    spans: dict[int, list[tuple[int | None, int]]] = field(default_factory=dict)  # begin, and end; what takes no time has no begin
    findings: list[Finding] = field(default_factory=list)


condense = unchanged


def measure(case: Case, blocks: Blocks) -> Measured:
    """Sort every rank's events by round."""
    del case
    measured = Measured()
    for rank, events in blocks:
        measured.ranks.add(rank)
        for event in events:
            _take(measured, rank, event)
    return measured


def _take(measured: Measured, rank: int, event: Event) -> None:
    measured.spans.setdefault(rank, []).append((getattr(event, "begin_ns", None), event.t))
    match event:
        case Environment() | Model() | Data() | Storage():
            _fact(measured, rank, event)
        case Content():
            _in_order(measured, rank, event, "content", event.stage)
            measured.contents.setdefault((rank, event.round), {})[event.stage] = event
        case Save():
            _in_order(measured, rank, event, "save", "")
            measured.saves[rank, event.round] = event
        case Load():
            _in_order(measured, rank, event, "load", event.stage)
            measured.loads.setdefault((rank, event.round), {})[event.stage] = event
        case NextStep():
            _in_order(measured, rank, event, "next_step", event.stage)
            measured.steps.setdefault((rank, event.round), []).append(event)
        case Ceiling():
            measured.ceilings.setdefault(event.round, {}).setdefault(event.kind, []).append((rank, event))
        case Cache():
            measured.caches.setdefault(event.round, {}).setdefault(event.stage, []).append((rank, event))


def _fact(measured: Measured, rank: int, event: Event) -> None:
    measured.kinds.setdefault(rank, []).append(type(event).__name__)
    if isinstance(event, Environment):
        measured.devices.add(event.device_name)
    elif isinstance(event, Model):
        measured.models.add((event.parameters, event.seed, event.dtype, event.weights))
        measured.parameters = event.parameters
    elif isinstance(event, Data):
        measured.texts.add((event.source, event.sha256, event.tokens))
    elif isinstance(event, Storage):
        measured.storages.append(event)


def _in_order(measured: Measured, rank: int, event: Content | Save | Load | NextStep, kind: str, stage: str) -> None:
    measured.order.setdefault((rank, event.round), []).append((kind, stage))


def rules(case: Case, measured: Measured) -> Iterator[Finding]:
    """What is wrong with the case as a whole; numbers are only compared where every round is there."""
    yield from _check_facts(case, measured)
    faults = [*_check_rounds(case, measured), *_check_raw(case, measured)]
    yield from faults
    yield from _check_times(case, measured)
    if faults:
        return
    for number in range(case["rounds"]):
        yield from _check_sequence(case, measured, number)
        yield from _check_size(case, measured, number)
        yield from _check_steps(case, measured, number)
        yield from _check_moved(case, measured, number)
        for rank in sorted(measured.ranks):
            yield from _check_content(case, measured.contents[rank, number], rank, number)
    yield from _warnings(case, measured)


def _check_facts(case: Case, measured: Measured) -> Iterator[Finding]:
    if not case["cards"] == case["processes"] == len(measured.ranks):
        found = f"cards {case['cards']}, processes {case['processes']}"
        yield error("checkpoint.cards", case["id"], f"{len(measured.ranks)} ranks on as many cards", found)
    for rank in sorted(measured.ranks):
        if sorted(measured.kinds.get(rank, [])) != list(FACTS):
            yield error("checkpoint.facts", f"{case['id']}: rank {rank}", "once each: " + ", ".join(FACTS), measured.kinds.get(rank))
    if {model[1:] for model in measured.models} != {(case["seed"], case["dtype"], "random")} or len(measured.models) != 1:
        expected = f"one model with seed {case['seed']}, dtype {case['dtype']}"
        yield error("checkpoint.facts", case["id"], expected, sorted(map(str, measured.models)))
    named, counts = case["model"].get("parameters"), sorted(model[0] for model in measured.models)
    if named is not None and counts != [named]:
        yield error("checkpoint.model", case["id"], f"{named} parameters", counts)
    if len(measured.texts) != 1 or next(iter(measured.texts))[0] != case["data"]:
        yield error("checkpoint.facts", case["id"], f"one text, {case['data']}", sorted(map(str, measured.texts)))


def _wanted() -> list[tuple[str, str]]:
    """How the events of a rank follow each other in a round."""
    found = [("content", "saved"), ("save", ""), *[("next_step", "saved")] * NEXT_STEPS]
    for stage in STAGES:
        found += [("load", stage), ("content", stage), *[("next_step", stage)] * NEXT_STEPS]
    return found


def _check_rounds(case: Case, measured: Measured) -> Iterator[Finding]:
    asked = {(rank, number) for rank in measured.ranks for number in range(case["rounds"])}
    for rank, number in sorted(asked | measured.order.keys()):
        found = measured.order.get((rank, number), [])
        if (rank, number) not in asked or found != _wanted():
            where = f"{case['id']}: rank {rank}, round {number}"
            yield error("checkpoint.rounds", where, " ".join(f"{kind}:{stage}" for kind, stage in _wanted()), found)


def _check_raw(case: Case, measured: Measured) -> Iterator[Finding]:
    """The first rank of each node measures both kinds in every round, and sees to the page cache before each load."""
    most = case["raw_bytes"]  # less what is not a whole block of the worker's
    firsts = list(range(0, case["processes"], max(1, case["processes"] // fabric.nodes(case))))
    for number in range(case["rounds"]):
        where = f"{case['id']}: round {number}"
        for kind in ("write", "read"):
            found = measured.ceilings.get(number, {}).get(kind, [])
            if sorted(rank for rank, _ in found) != firsts or any(
                not max(most // 2, most - RAW_BLOCK) < e.size_bytes <= most for _, e in found
            ):
                wanted = f"{most} bytes in whole blocks, once by each of ranks {firsts}"
                yield error("checkpoint.raw", f"{where}, {kind}", wanted, [(r, e.size_bytes) for r, e in found])
        for stage in STAGES:
            looked = measured.caches.get(number, {}).get(stage, [])
            if sorted(rank for rank, _ in looked) != firsts or any((cache.way == "read") != (stage == "warm") for _, cache in looked):
                wanted = (
                    f"the page cache {'filled' if stage == 'warm' else 'emptied'} and looked at by ranks {firsts} before the {stage} load"
                )
                yield error("checkpoint.raw", where, wanted, [(rank, cache.way) for rank, cache in looked])


def _check_sequence(case: Case, measured: Measured, number: int) -> Iterator[Finding]:
    """On a rank that measures the disk: raw write, save, raw read, page cache, cold load, page cache, warm load."""
    for rank, write in measured.ceilings[number]["write"]:
        read = next(event for other, event in measured.ceilings[number]["read"] if other == rank)
        save, loads = measured.saves[rank, number], measured.loads[rank, number]
        times = [write.t, save.begin_ns, save.t, read.begin_ns, read.t]
        for stage in STAGES:
            times += [
                next(cache.t for other, cache in measured.caches[number][stage] if other == rank),
                loads[stage].begin_ns,
                loads[stage].t,
            ]
        if times != sorted(times):
            expected = "raw write, save, raw read, then page cache and load twice"
            yield error("checkpoint.time", f"{case['id']}: rank {rank}, round {number}", expected, times)


def _check_times(case: Case, measured: Measured) -> Iterator[Finding]:
    for rank, spans in measured.spans.items():
        ended_ns = 0
        for begin_ns, end_ns in spans:
            if begin_ns is not None and not ended_ns <= begin_ns < end_ns:
                yield error("checkpoint.time", f"{case['id']}: rank {rank}", f"{ended_ns} <= begin_ns < t = {end_ns}", begin_ns)
            ended_ns = end_ns
    for (rank, number), save in measured.saves.items():
        where = f"{case['id']}: rank {rank}, round {number}"
        if not save.begin_ns + save.model_ns + save.optimizer_ns <= save.written_ns <= save.t:
            found = (save.model_ns, save.optimizer_ns, save.written_ns)
            yield error("checkpoint.time", where, "model and optimizer within the save", found)
    for (rank, number), loads in measured.loads.items():
        for load in loads.values():
            if not load.begin_ns < load.read_ns <= load.t:
                yield error("checkpoint.time", f"{case['id']}: rank {rank}, round {number}", "read_ns within the load", load.read_ns)


def _check_size(case: Case, measured: Measured, number: int) -> Iterator[Finding]:
    saves = [measured.saves[rank, number] for rank in sorted(measured.ranks)]
    written = sum(save.model_bytes for save in saves), sum(save.optimizer_bytes for save in saves)
    in_optimizer = case["zero_stage"] == 3 and case["checkpoint_format"] == "deepspeed"  # which then saves the master copies alone
    least = 0 if in_optimizer else measured.parameters * MODEL_BYTES[case["dtype"]], measured.parameters * OPTIMIZER_BYTES
    if written[0] < least[0] or written[1] < least[1]:
        yield error("checkpoint.size", f"{case['id']}: round {number}", f"at least {least} bytes of model and optimizer", written)
    whole = max(sum(least), sum(written))
    if held := [cache.size_bytes for caches in measured.caches[number].values() for _, cache in caches if cache.size_bytes < whole]:
        yield error("checkpoint.size", f"{case['id']}: round {number}", f"files of at least {whole} bytes", held)


def _check_content(case: Case, contents: dict[str, Content], rank: int, number: int) -> Iterator[Finding]:
    saved = contents["saved"]
    for stage in STAGES:
        loaded, where = contents[stage], f"{case['id']}: rank {rank}, round {number}, {stage}"
        names = sorted(saved.tensors.keys() | loaded.tensors.keys())
        changed = [name for name in names if saved.tensors.get(name) != loaded.tensors.get(name)]
        if changed or not saved.tensors or saved.size_bytes != loaded.size_bytes:
            yield error("checkpoint.content", where, f"the {len(saved.tensors)} tensors as saved", f"{len(changed)} changed: {changed[:1]}")


def _check_moved(case: Case, measured: Measured, number: int) -> Iterator[Finding]:
    """Two optimizer steps lie between two rounds: something is another than it was."""
    saved = [[measured.contents[rank, at]["saved"].tensors for rank in sorted(measured.ranks)] for at in (number, max(0, number - 1))]
    if number and saved[0] == saved[1]:
        yield error("checkpoint.content", f"{case['id']}: round {number}", f"other tensors than in round {number - 1}", "the same")


def _check_steps(case: Case, measured: Measured, number: int) -> Iterator[Finding]:
    first = measured.steps[min(measured.ranks), number]
    step = measured.saves[min(measured.ranks), 0].step + number * NEXT_STEPS
    expected = [(step + index, first[index].loss) for index in range(NEXT_STEPS)] * (1 + len(STAGES))
    for rank in sorted(measured.ranks):
        found = [(event.step, event.loss) for event in measured.steps[rank, number]]
        if found != expected or measured.saves[rank, number].step != step:
            yield error("checkpoint.next_step", f"{case['id']}: rank {rank}, round {number}", expected[:NEXT_STEPS], found)


def _warnings(case: Case, measured: Measured) -> Iterator[Finding]:
    kinds = {storage.file_system for storage in measured.storages}
    if kinds & MEMORY:
        yield warning("checkpoint.storage", case["id"], "checkpoints on a disk", sorted(kinds & MEMORY))
    for number in range(case["rounds"]):
        where = f"{case['id']}: round {number}"
        for _, cache in measured.caches[number]["cold"]:
            if cache.resident_bytes > COLD_SHARE * cache.size_bytes:
                share = f"{cache.resident_bytes} of {cache.size_bytes} bytes, by {cache.way}"
                yield warning("checkpoint.cold", where, "at most 1 % in the page cache before a cold load", share)
        if _size(measured, number) < JUDGED_BYTES:
            continue
        yield from _above(where, "save", _size(measured, number) / _save_ns(measured, number), _raw(measured, number, "write"))
        yield from _above(where, "cold load", _size(measured, number) / _load_ns(measured, number, "cold"), _raw(measured, number, "read"))


def _above(where: str, what: str, pace: Fraction, raw: tuple[Fraction, bool]) -> Iterator[Finding]:
    if pace > raw[0] * CEILING_SHARE:
        limit = f"a {what} at most as fast as the disk, {float(raw[0]):.3g} GB/s"
        yield warning("checkpoint.ceiling", where, limit, f"{float(pace):.3g} GB/s")
    elif not raw[1]:
        yield warning("checkpoint.ceiling", where, "the disk's own pace past the page cache", f"{what}: the file system has no direct I/O")


def _size(measured: Measured, number: int) -> Fraction:
    """Bytes of the checkpoint over all ranks."""
    saves = (measured.saves[rank, number] for rank in measured.ranks)
    return Fraction(sum(save.model_bytes + save.optimizer_bytes for save in saves))


def _save_ns(measured: Measured, number: int) -> int:
    return max(save.t - save.begin_ns for save in (measured.saves[rank, number] for rank in measured.ranks))


def _load_ns(measured: Measured, number: int, stage: str) -> int:
    return max(load.t - load.begin_ns for load in (measured.loads[rank, number][stage] for rank in measured.ranks))


def _raw(measured: Measured, number: int, kind: str) -> tuple[Fraction, bool]:
    """Bytes a nanosecond of the raw file, over the nodes that wrote one at the same time; whether all went past the page cache."""
    found = [event for _, event in measured.ceilings[number][kind]]
    return sum((Fraction(event.size_bytes, event.t - event.begin_ns) for event in found), Fraction(0)), all(event.direct for event in found)


def metrics(case: Case, measured: Measured) -> dict[str, Metric]:
    """Seconds and milliseconds of the slowest rank, means over rounds; GB/s (10^9 bytes) and shares of the raw disk's."""
    rounds = range(case["rounds"])
    saves = [_save_ns(measured, number) for number in rounds]
    found = {"save_total_s": Metric(mean(saves) / NS_PER_S, "s", "mean over rounds of the slowest rank's", **over(saves, NS_PER_S))}
    for part in ("model", "optimizer"):
        spent = [max(getattr(measured.saves[rank, number], f"{part}_ns") for rank in measured.ranks) for number in rounds]
        found[f"save_{part}_ms"] = Metric(mean(spent) / 10**6, "ms", "mean over rounds of the slowest rank's", **over(spent, 10**6))
    for name, stage in (("load_total_s", "cold"), ("load_warm_s", "warm")):
        loads = [_load_ns(measured, number, stage) for number in rounds]
        found[name] = Metric(mean(loads) / NS_PER_S, "s", f"mean over rounds, {stage} page cache", **over(loads, NS_PER_S))
    found["checkpoint_gb"] = Metric(mean([_size(measured, number) for number in rounds]) / 10**9, "GB", "bytes of all ranks / 1e9")
    return found | _paces(measured, rounds)


def _paces(measured: Measured, rounds: range) -> dict[str, Metric]:
    found = {}
    for what, raw in (("save", "write"), ("load", "read")):
        took = [_save_ns(measured, number) if what == "save" else _load_ns(measured, number, "cold") for number in rounds]
        paces = [_size(measured, number) / took[number] for number in rounds]
        disk = [_raw(measured, number, raw)[0] for number in rounds]
        shares = [pace / limit for pace, limit in zip(paces, disk, strict=True)]
        found[f"{what}_gb_per_s"] = Metric(mean(paces), "GB/s", "bytes of all ranks / time of the slowest", **over(paces))
        found[f"raw_{raw}_gb_per_s"] = Metric(mean(disk), "GB/s", "raw file of the same rounds, over nodes", **over(disk))
        found[f"{what}_of_raw"] = Metric(mean(shares), "1", f"{what} / raw {raw} of the same round", **over(shares))
    return found


def facts(case: Case, measured: Measured) -> dict[str, str]:
    """Where the checkpoints lay, and whether the cold load was one."""
    seen = [cache for number in range(case["rounds"]) for _, cache in measured.caches[number]["cold"]]
    cold = all(cache.resident_bytes <= COLD_SHARE * cache.size_bytes for cache in seen)
    kinds = sorted({f"{storage.file_system} on {storage.device_model or storage.device}" for storage in measured.storages})
    return {"weights": "random", "storage": ", ".join(kinds), "page_cache": "cold" if cold else "not cold"}


def traits(case: Case, measured: Measured) -> Traits:
    """Names of the devices; a handful of durations shows no pattern."""
    del case
    return Traits({}, devices=frozenset(measured.devices))
