"""The training loop that suites share: every optimizer step timed with the device idle at both ends, and recorded on every rank."""

from __future__ import annotations

import contextlib
import gc
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from . import data, device, memory, training
from .models.tensor import whole_size
from .record import Recorder

Case = dict[str, Any]
ADAPTER = "lora_"  # in the names that peft gives to what it adds: no weights of the model itself
Prepare = Callable[[Case, training.Place], tuple[Any, str | None]]


def run(case: Case, recorder: Recorder, prepare: Prepare) -> None:
    """A case from its first event to its last step; `prepare` gives the model on this rank's device and the SHA-256 of its weights."""
    here = training.place(case.get("tensor_parallel", 1), case.get("pipeline_parallel", 1))
    recorder.event("environment", **device.facts(here.device))
    device.forget_peak(here.device)
    with _explained(case, recorder, here):
        device.needs(case["dtype"])
        training.seeded(case)
        recorder.event("estimate", **memory.checked(case, here))
        model, weights_sha256 = prepare(case, here)
        kind = "random" if weights_sha256 is None else "file"
        numel = here.over_stages(sum(whole_size(parameter) for name, parameter in model.named_parameters() if ADAPTER not in name))
        recorder.event("model", parameters=numel, weights=kind, weights_sha256=weights_sha256, seed=case["seed"], dtype=case["dtype"])
        engine = training.build(case, here, model)
        source = data.source(case)
        recorder.event("data", source=case["data"], sha256=source.sha256, tokens=source.tokens)
        try:
            train(case, recorder, here, engine, source)
        finally:
            engine.close()
    training.end()


@contextlib.contextmanager
def _explained(case: Case, recorder: Recorder, here: training.Place) -> Iterator[None]:
    """No memory left: said with the peak and what to do. An operator that the chip lacks: said as unsupported."""
    try:
        yield
    except NotImplementedError as error:
        raise device.Unsupported(f"an operator is missing on this chip: {str(error).splitlines()[0]}") from error
    except Exception as error:
        if device.unsupported(error) and not device.out_of_memory(error):
            raise device.Unsupported(f"not supported on this chip: {str(error).splitlines()[0]}") from error
        if not device.out_of_memory(error):
            raise
        peak = f"{device.peak_bytes(here.device) / 1e9:.2f} GB were held at most"
        raise device.OutOfMemory(f"{memory.asked(case)} needs more memory than there is: {peak}; {memory.ADVICE}") from error
    finally:
        recorder.event("memory", peak_bytes=device.peak_bytes(here.device))


def train(case: Case, recorder: Recorder, here: training.Place, engine: training.Engine, source: data.Source) -> None:
    """All steps of the case; the collector of Python's garbage waits while steps are measured, as it would stop one of them."""
    share = data.Share(here.data_rank, here.data_ranks, case["global_batch"], case["micro_batch"])
    engine.module.train()
    try:
        with training.attention(case):
            for number in range(case["warmup_steps"] + case["measured_steps"]):
                if number == case["warmup_steps"]:
                    gc.collect()
                    gc.disable()
                step(case, recorder, here, engine, source, share, number)
                evaluate(case, recorder, here, engine, source, share, number + 1)
    finally:
        gc.enable()


def step(
    case: Case, recorder: Recorder, here: training.Place, engine: training.Engine, source: data.Source, share: data.Share, number: int
) -> None:
    """One step: from before its data is fetched to after the update; the loss is reduced over ranks outside of that time."""
    device.synchronize(here.device)
    begin_ns = recorder.now()
    units = [source.unit(step=number, number=index, share=share) for index in range(share.num_units)]
    done = engine.step(({name: _on(here, value) for name, value in unit.batch.items()} for unit in units), number)
    device.synchronize(here.device)
    end_ns = recorder.now()
    mean = here.mean(done.loss)
    if not math.isfinite(mean):
        _keep(recorder.folder / "artifacts", f"step-{number}-rank-{here.rank}.pt", engine, units)
        raise FloatingPointError(f"loss is {mean} at step {number}; the step's inputs and what is not finite lie in artifacts/")
    recorder.event(
        "step",
        end_ns,
        step=number,
        phase="warmup" if number < case["warmup_steps"] else "measured",
        begin_ns=begin_ns,
        loss=done.loss.item(),
        loss_dp_mean=mean,
        tokens=sum(unit.tokens for unit in units),
        real_tokens=sum(unit.real_tokens for unit in units),
        grad_norm=_finite(done.grad_norm),
        loss_scale=done.loss_scale,
        skipped=done.skipped,
    )


@torch.no_grad()
def evaluate(
    case: Case, recorder: Recorder, here: training.Place, engine: training.Engine, source: data.Source, share: data.Share, steps: int
) -> None:
    """Loss on held-out data after every so many steps and at the end, where the case asks; no part of any step's time."""
    asked = case.get("evaluation")
    if asked is None or (steps % asked["every"] and steps != case["warmup_steps"] + case["measured_steps"]):
        return
    begin_ns = recorder.now()
    engine.module.eval()
    units = [source.unit(-1 - batch, index, share) for batch in range(asked["batches"]) for index in range(share.num_units)]
    losses = [engine.module(**{name: _on(here, value) for name, value in unit.batch.items()}).float() for unit in units]
    engine.module.train()
    own = torch.stack(losses).mean()
    recorder.event(
        "evaluation",
        steps=steps,
        begin_ns=begin_ns,
        loss=own.item(),
        loss_dp_mean=here.mean(own),
        tokens=sum(unit.tokens for unit in units),
    )


def _on(here: training.Place, value: Any) -> Any:
    return value.to(here.device, non_blocking=True) if isinstance(value, torch.Tensor) else value


def _finite(norm: Any) -> float | None:
    """Events hold finite numbers; a norm that is not finite belongs to a skipped step."""
    return None if norm is None or not math.isfinite(float(norm)) else float(norm)


def _keep(folder: Path, name: str, engine: training.Engine, units: list[data.Unit]) -> None:
    """What is needed to look into a loss that is no number: inputs of the step, and the parameters that are not finite."""
    folder.mkdir(exist_ok=True)
    broken = [name for name, value in engine.module.named_parameters() if not bool(torch.isfinite(value).all())]
    torch.save({"inputs": [unit.batch for unit in units], "not_finite": broken}, folder / name)
