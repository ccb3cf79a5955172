"""Pre-training from random weights on frozen text with DeepSpeed ZeRO (report section 2.2(1)).

A step is one optimizer step over `global_batch` sequences. It is timed from before its data is fetched to after the
device has finished the update; the loss is reduced over ranks outside of that time.
"""

from __future__ import annotations

import logging
import math
import os
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from .. import data, device
from ..models.llama import Llama
from ..record import Recorder

Case = dict[str, Any]
ADAMW = {"betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.01}  # as InternLM's configuration of the report's time, facts 1.1


def run(case: Case, recorder: Recorder) -> None:
    """Train for warm-up and measured steps, recording each."""
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    here = device.choose(local_rank)
    recorder.event("environment", **device.facts(here))
    engine = _engine(case, here, rank, world_size, local_rank)
    tokens, digest = data.read(case["data"])
    windows = data.Windows(tokens, case["model"]["sequence_length"], case["seed"])
    parameters = sum(_numel(p) for p in engine.module.parameters())
    recorder.event("model", parameters=parameters, weights="random", weights_sha256=None, seed=case["seed"], dtype=case["dtype"])
    recorder.event("data", source=case["data"], sha256=digest, tokens=len(tokens))
    try:
        with sdpa_kernel([_backend(name) for name in case["attention"]], set_priority=True):
            for step in range(case["warmup_steps"] + case["measured_steps"]):
                _step(case, recorder, engine, windows, step, rank, world_size, here)
    finally:
        engine.destroy()
    torch.distributed.destroy_process_group()


def _backend(name: str) -> Any:
    """The back end of attention called `name`; ValueError where this torch has none of that name."""
    if name not in SDPBackend.__members__:
        raise ValueError(f"torch {torch.__version__} has no attention back end '{name}'; it has {', '.join(SDPBackend.__members__)}")
    return SDPBackend.__members__[name]


def _numel(parameter: Any) -> int:
    """Elements of the whole parameter, also where ZeRO 3 holds a part of it."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def _engine(case: Case, here: torch.device, rank: int, world_size: int, local_rank: int) -> Any:
    """A DeepSpeed engine around the model; collectives over the device's own library."""
    if here.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ.setdefault("RANK", str(rank))
    os.environ.setdefault("WORLD_SIZE", str(world_size))
    os.environ.setdefault("LOCAL_RANK", str(local_rank))
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29500")
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    _no_compiled_collectives()
    deepspeed.init_distributed(dist_backend=device.backend(here), verbose=False)
    torch.manual_seed(case["seed"])
    with here:
        model = Llama(case["model"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=case["learning_rate"], fused=True, **ADAMW)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=_config(case))
    if case["compile"]:
        engine.compile()
    return engine


def _no_compiled_collectives() -> None:
    """DeepSpeed would compile a shared-memory collective at every start on a CPU; images hold no compiler."""
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def _config(case: Case) -> dict[str, Any]:
    """The DeepSpeed configuration of a case: compute in its precision, master weights and optimizer states in float32."""
    return {
        "train_batch_size": case["global_batch"],
        "train_micro_batch_size_per_gpu": case["micro_batch"],
        "zero_optimization": {"stage": case["zero_stage"]},
        "gradient_clipping": 1.0,
        "bf16": {"enabled": case["dtype"] == "bfloat16"},
        "fp16": {"enabled": case["dtype"] == "float16"},
        "steps_per_print": 2**31 - 1,
        "wall_clock_breakdown": False,
    }


def _step(
    case: Case, recorder: Recorder, engine: Any, windows: data.Windows, step: int, rank: int, world_size: int, here: torch.device
) -> None:
    """One optimizer step: this rank's share of the global batch in micro-batches."""
    device.synchronize(here)
    begin_ns = recorder.now()
    losses = []
    for first in _first_windows(case, step, rank, world_size):
        inputs, labels = windows.batch(first, case["micro_batch"])
        loss = engine(inputs.to(here), labels.to(here))
        engine.backward(loss)
        engine.step()
        losses.append(loss.detach())
    device.synchronize(here)
    end_ns = recorder.now()
    own = torch.stack(losses).float().mean()
    mean = own.clone()
    torch.distributed.all_reduce(mean)
    loss_dp_mean = mean.item() / world_size
    slots = case["micro_batch"] * len(losses) * case["model"]["sequence_length"]
    if not math.isfinite(loss_dp_mean):
        raise FloatingPointError(f"loss is {loss_dp_mean} at step {step}")
    recorder.event(
        "step",
        end_ns,
        step=step,
        phase="warmup" if step < case["warmup_steps"] else "measured",
        begin_ns=begin_ns,
        loss=own.item(),
        loss_dp_mean=loss_dp_mean,
        tokens=slots,
        real_tokens=slots,
        grad_norm=_grad_norm(engine),
    )


def _first_windows(case: Case, step: int, rank: int, world_size: int) -> range:
    """First window of each micro-batch of this rank; the union over ranks is the same for any world size."""
    share = case["global_batch"] // world_size
    begin = step * case["global_batch"] + rank * share
    return range(begin, begin + share, case["micro_batch"])


def _grad_norm(engine: Any) -> float | None:
    norm = engine.get_global_grad_norm()
    return None if norm is None else float(norm)
