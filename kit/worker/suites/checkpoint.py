"""Saving and loading the checkpoint of a training, synchronously and to the disk (report section 2.2(3), ruling 18).

Each round saves, trains on for two steps, then loads twice: with the page cache emptied of the checkpoint, and with it full. All
tensors are zeros before a load; their digests and the two steps that follow must be those of the training that never stopped.
A save ends when the checkpoint of all ranks is on the disk and has its name, a load when all ranks are ready to step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .. import data, device, loop, training
from ..checkpoint import formats, state, storage, store
from ..record import Recorder
from . import pretrain

Case = dict[str, Any]
FIRST_STEPS = 2  # so that the optimizer has states
NEXT_STEPS = 2  # the first tells of the parameters, the second of the optimizer's states
KEPT = 1


@dataclass(slots=True)
class Bench:
    """What one rank works with."""

    case: Case
    recorder: Recorder
    engine: Any
    source: data.Source
    here: training.Place
    folder: Path
    raw: storage.Raw | None  # on one rank of each node

    @property
    def format(self) -> formats.Format:
        return formats.FORMATS[self.case["checkpoint_format"]]

    def state(self) -> state.State:
        """All tensors as they are now."""
        return state.of(self.engine.inner)


def run(case: Case, recorder: Recorder) -> None:
    """Save and load for each round of the case."""
    folder, here = store.top(), training.place()
    recorder.event("environment", **device.facts(here.device))
    training.seeded(case)
    model, _ = pretrain.prepare(case, here)
    numel = sum(parameter.numel() for parameter in model.parameters())
    recorder.event("model", parameters=numel, weights="random", weights_sha256=None, seed=case["seed"], dtype=case["dtype"])
    engine, source = training.build(case, here, model), data.source(case)
    recorder.event("data", source=case["data"], sha256=source.sha256, tokens=source.tokens)
    raw = storage.Raw(folder, case["raw_bytes"], formats.STREAMS * store.ranks_of_node()) if store.first_of_node() else None
    engine.module.train()
    try:
        with training.attention(case):
            _rounds(Bench(case, recorder, engine, source, here, folder, raw))
    finally:
        engine.close()
    training.end()


def _rounds(bench: Bench) -> None:
    for step in range(FIRST_STEPS):
        _step(bench, step)
    _room(bench)
    step = FIRST_STEPS
    for number in range(bench.case["rounds"]):
        _round(bench, number, step)
        step += NEXT_STEPS
    store.prune(bench.folder, 0)


def _room(bench: Bench) -> None:
    """Record the storage, and that it holds what is about to be written: this checkpoint, the one before, the raw file."""
    own = bench.state()
    share = state.size_bytes(own.optimizer) + state.size_bytes(own.model) // (bench.here.world_size if own.shared else 1)
    total = torch.tensor(share, dtype=torch.int64, device=bench.here.device)
    torch.distributed.all_reduce(total)
    needed = int(total.item()) * min(1 + KEPT, bench.case["rounds"]) + bench.case["raw_bytes"]
    bench.recorder.event("storage", **storage.facts(bench.folder), needed_bytes=needed)
    store.room(bench.folder, needed)


def _round(bench: Bench, number: int, step: int) -> None:
    """One save, the steps without a restart, and both loads."""
    own = bench.state()
    saved = _content(bench, number, "saved", own)
    _ceiling(bench, number, "write")
    made = _save(bench, number, step, own)
    store.prune(bench.folder, KEPT)
    _next_steps(bench, number, "saved", step)
    _ceiling(bench, number, "read")
    for stage, prepare in (("cold", storage.drop), ("warm", storage.warm)):
        _load(bench, number, stage, made, prepare)
        store.compare(made, saved, _content(bench, number, stage, bench.state()))
        _next_steps(bench, number, stage, step)


def _content(bench: Bench, number: int, stage: str, own: state.State) -> dict[str, str]:
    tensors = state.digests(own.all)
    bench.recorder.event("content", round=number, stage=stage, size_bytes=own.size_bytes, tensors=tensors)
    return tensors


def _ceiling(bench: Bench, number: int, kind: str) -> None:
    """The disk's own pace, on one rank of each node while the others wait."""
    store.barrier()
    if bench.raw is not None:
        begin_ns = bench.recorder.now()
        getattr(bench.raw, kind)()
        bench.recorder.event(
            "ceiling", round=number, kind=kind, begin_ns=begin_ns, size_bytes=bench.raw.size_bytes, streams=bench.raw.streams,
            direct=bench.raw.direct,
        )  # fmt: skip
        if kind == "read":
            bench.raw.remove()
    store.barrier()


def _save(bench: Bench, number: int, step: int, own: state.State) -> Path:
    device.synchronize(bench.here.device)
    store.barrier()
    begin_ns = bench.recorder.now()
    made = store.begin(bench.folder, step)
    try:
        parts = bench.format.save(bench.engine.inner, own, made)
        written_ns = bench.recorder.now()
        final = store.commit(made, step, {"format": bench.case["checkpoint_format"], "ranks": bench.here.world_size})
    except OSError as error:
        store.give_up(made)
        raise store.BadCheckpoint(f"saving failed: {error.strerror}; free space; the checkpoint before this one is kept") from error
    bench.recorder.event(
        "save", round=number, step=step, begin_ns=begin_ns, written_ns=written_ns, model_ns=parts.model_ns,
        optimizer_ns=parts.optimizer_ns, model_bytes=parts.model_bytes, optimizer_bytes=parts.optimizer_bytes,
    )  # fmt: skip
    return final


def _load(bench: Bench, number: int, stage: str, made: Path, prepare: Callable[[list[Path]], str]) -> None:
    """Zeros in memory, the page cache as the stage asks, then from opening the checkpoint to all ranks ready."""
    state.wipe(bench.state())
    store.barrier()
    if bench.raw is not None:
        files = storage.files(made)
        way = prepare(files)
        bench.recorder.event(
            "cache", round=number, stage=stage, way=way, resident_bytes=storage.resident_bytes(files),
            size_bytes=sum(path.stat().st_size for path in files),
        )  # fmt: skip
    own = bench.state()
    store.barrier()
    begin_ns = bench.recorder.now()
    store.opened(made)
    bench.format.load(bench.engine.inner, own, made, stage == "cold")
    device.synchronize(bench.here.device)
    read_ns = bench.recorder.now()
    store.barrier()
    bench.recorder.event("load", round=number, stage=stage, begin_ns=begin_ns, read_ns=read_ns)


def _next_steps(bench: Bench, number: int, stage: str, step: int) -> None:
    for following in range(step, step + NEXT_STEPS):
        loss = _step(bench, following)
        bench.recorder.event("next_step", round=number, stage=stage, step=following, loss=loss)


def _step(bench: Bench, step: int) -> float:
    """One optimizer step; its loss as the mean over ranks in nats a token."""
    case, here = bench.case, bench.here
    share = data.Share(here.rank, here.world_size, case["global_batch"], case["micro_batch"])
    units = (bench.source.unit(step=step, number=index, share=share) for index in range(share.num_units))
    batches = ({name: loop._on(here, value) for name, value in unit.batch.items()} for unit in units)
    done = bench.engine.step(batches, step)
    mean = here.mean(done.loss)
    if not math.isfinite(mean):
        raise FloatingPointError(f"loss is {mean} at step {step}")
    return mean
