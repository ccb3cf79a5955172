"""One training loop for every suite that trains: where a rank runs, its engine, and an optimizer step of the whole group.

    here = training.place()                     device, rank, world size, team; starts the collective library
    engine = training.build(case, here, model)  `torch` (every rank holds the model) or `deepspeed` (ZeRO, offload)
    done = engine.step(batches, number)         forward and backward over this rank's micro-batches, then one update
    engine.close()

Of the case an engine reads: engine, zero_stage, micro_batch, global_batch, checkpoint_activations, offload, loss_chunks,
optimizer, dtype, compile, deterministic, attention, seed. A batch is a dictionary of tensors that the model takes by name.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from . import device, float8, linear, parallel
from .models.tensor import Stage, Team
from .optimizer import AdamW, learning_rate

Case = dict[str, Any]
Batch = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """Where this rank runs, its team and its stage, the ranks that hold the same part (`peers`), those of the stages (`line`)."""

    device: torch.device
    rank: int
    world_size: int
    team: Team | None = None
    peers: Any = None
    stage: Stage | None = None
    line: Any = None

    @property
    def sharers(self) -> int:
        """Ranks that hold one model together."""
        return (self.team.ranks if self.team else 1) * (self.stage.ranks if self.stage else 1)

    @property
    def data_rank(self) -> int:
        """Which share of a batch is this rank's: ranks that hold one model have one."""
        return self.rank // self.sharers

    @property
    def data_ranks(self) -> int:
        """Shares of a batch."""
        return self.world_size // self.sharers

    def over_stages(self, count: int) -> int:
        """Sum of a number over the stages of the model."""
        if self.stage is None:
            return count
        found = torch.tensor(count, device=self.device)
        torch.distributed.all_reduce(found, group=self.line)
        return int(found.item())

    def mean(self, value: Tensor) -> float:
        """Mean of a number over all ranks."""
        shared = value.detach().float().clone()
        if self.world_size > 1:
            torch.distributed.all_reduce(shared)
        return float(shared.item()) / self.world_size


@dataclass(frozen=True, slots=True)
class Done:
    """One optimizer step: this rank's mean loss over its micro-batches, and what is known of the gradients."""

    loss: Tensor
    grad_norm: Tensor | None
    skipped: bool = False
    loss_scale: float | None = None


class Engine(Protocol):
    """What a suite sees of an engine."""

    module: Any

    def step(self, batches: Iterable[Batch], number: int) -> Done:
        """Forward and backward over this rank's micro-batches, then the update of step `number`."""

    def state(self) -> dict[str, Any]:
        """Model and optimizer as tensors, as far as this rank holds them."""

    def load(self, state: dict[str, Any]) -> None:
        """Go on from such a state."""

    def close(self) -> None:
        """Give up what the engine holds."""


def place(tensor_parallel: int = 1, pipeline_parallel: int = 1) -> Place:
    """Where this rank runs, with the collective library ready on its device; a lone process is a group of one.

    So many neighbouring ranks are a team, so many teams one behind the other hold a model together.
    """
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}.items():
        os.environ.setdefault(name, value)
    here = device.choose(int(os.environ["LOCAL_RANK"]))
    if here.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if world_size > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group(device.backend(here))
    return Place(here, rank, world_size, *parallel.groups(here.type, world_size, tensor_parallel, pipeline_parallel))


def end() -> None:
    """Leave the group."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def build(case: Case, here: Place, model: Any) -> Engine:
    """The case's engine around a model on this rank's device."""
    model.recompute, model.loss_chunks = case["checkpoint_activations"], case["loss_chunks"]
    if case["dtype"] == "float8":
        float8.checked(here.device)
        linear.replace(model.blocks, float8.Float8Linear)
    if case["compile"]:
        for block in model.blocks:  # one graph for all layers: minutes less to compile than one of the whole model
            block.compile(fullgraph=True)
        model.tail = torch.compile(model.tail)
    if here.stage is not None:
        try:
            from .pipeline import PipelineEngine
        except ImportError as error:
            raise NotImplementedError(f"torch {torch.__version__} has no torch.distributed.pipelining") from error
        return PipelineEngine(case, here, model)
    engines: dict[str, Any] = {"torch": TorchEngine, "deepspeed": DeepspeedEngine}
    made: Engine = engines[case["engine"]](case, here, model)
    return made


@contextlib.contextmanager
def attention(case: Case) -> Iterator[None]:
    """Back ends of attention in the case's order."""
    with sdpa_kernel([_backend(name) for name in case["attention"]], set_priority=True):
        yield


def _backend(name: str) -> Any:
    """The back end of attention called `name`; ValueError where this torch has none of that name."""
    if name not in SDPBackend.__members__:
        raise ValueError(f"torch {torch.__version__} has no attention back end '{name}'; it has {', '.join(SDPBackend.__members__)}")
    return SDPBackend.__members__[name]


def seeded(case: Case) -> None:
    """Random numbers from the case's seed; in a deterministic case only kernels that give the same bits again."""
    if case["deterministic"]:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # as torch's notes on reproducibility ask for
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads any; DeepSpeed takes gigabytes of it at every step
    torch.manual_seed(case["seed"])


class TorchEngine:
    """Each rank, or team, holds the whole model: weights in the case's precision, masters and states in float32."""

    def __init__(self, case: Case, here: Place, model: Any) -> None:
        self.here, self.module, self.settings = here, model, case["optimizer"]
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(device.DTYPES[case["dtype"]])
        groups = _layers(model)
        self.trained = [parameter for group in groups for parameter in group]
        self.gradients = parallel.Gradients(self.trained, here.data_ranks, here.team, here.peers, here.line)
        self.optimizer = AdamW(
            groups, self.settings, compiled=case["compile"], scaled=case["dtype"] == "float16", norm_of=self.gradients.norm
        )

    def step(self, batches: Iterable[Batch], number: int) -> Done:
        """Sum gradients over micro-batches and ranks in float32, then update."""
        given = list(batches)
        losses, kept = [], None
        for batch in given:
            loss = self.module(**batch)
            (loss * (self.optimizer.scale / len(given))).backward()
            losses.append(loss.detach())
            if len(given) > 1 or self.here.world_size > 1:
                kept = self._added(kept)
        gradients = self._taken() if kept is None else kept
        self.gradients.average(gradients)
        scale = self.optimizer.scale if self.optimizer.scaled else None
        norm, skipped = self.optimizer.step(gradients, learning_rate(self.settings, number))
        return Done(torch.stack(losses).float().mean(), norm, skipped, scale)

    def _taken(self) -> list[Tensor]:
        """The gradients, out of the parameters; zero where a parameter took no part."""
        found = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.trained]
        for parameter in self.trained:
            parameter.grad = None
        return found

    def _added(self, kept: list[Tensor] | None) -> list[Tensor]:
        found = self._taken()
        if kept is None:
            return [gradient.float() for gradient in found]
        torch._foreach_add_(kept, found)
        return kept

    def state(self) -> dict[str, Any]:
        """Of a team, each rank's part."""
        return {"model": self.module.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])

    def close(self) -> None:
        """Nothing is held but memory."""


def _layers(model: Any) -> list[list[Tensor]]:
    """The parameters that are trained, layer by layer, and those of no layer at the end."""
    groups = [[parameter for parameter in block.parameters() if parameter.requires_grad] for block in model.blocks]
    within = {id(parameter) for group in groups for parameter in group}
    rest = [parameter for parameter in model.parameters() if parameter.requires_grad and id(parameter) not in within]
    return [group for group in [*groups, rest] if group]


class DeepspeedEngine:
    """DeepSpeed ZeRO: states, gradients and weights split over ranks by stage, or moved to the host."""

    def __init__(self, case: Case, here: Place, model: Any) -> None:
        import deepspeed

        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # it would be compiled at every start on a CPU, without a compiler
        deepspeed.init_distributed(dist_backend=device.backend(here.device), verbose=False)
        self.here, self.settings = here, case["optimizer"]
        asked = {name: self.settings[name] for name in ("betas", "eps", "weight_decay")}
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=self.settings["learning_rate"], fused=case["offload"] == "none", **asked)
        self.inner, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=configuration(case))
        self.module = self.inner.module

    def step(self, batches: Iterable[Batch], number: int) -> Done:
        """As DeepSpeed does it; the rate is the case's schedule."""
        for group in self.inner.optimizer.param_groups:
            group["lr"] = learning_rate(self.settings, number)
        scale = self.inner.optimizer.loss_scale if self.inner.fp16_enabled() else None  # the engine's own is what was configured: 0
        losses = []
        for batch in batches:
            loss = self.inner(**batch)
            self.inner.backward(loss)
            self.inner.step()
            losses.append(loss.detach())
        norm = self.inner.get_global_grad_norm()
        return Done(torch.stack(losses).float().mean(), norm, bool(getattr(self.inner.optimizer, "overflow", False)), scale)

    def state(self) -> dict[str, Any]:
        return {"model": self.inner.module_state_dict(), "optimizer": self.inner.optimizer.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        self.inner.load_module_state_dict(state["model"])
        self.inner.optimizer.load_state_dict(state["optimizer"])

    def close(self) -> None:
        self.inner.destroy()


def configuration(case: Case) -> dict[str, Any]:
    """The DeepSpeed configuration of a case: compute in its precision, master weights and optimizer states in float32."""
    zero: dict[str, Any] = {"stage": case["zero_stage"]}
    if case["offload"] in {"optimizer", "all"}:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if case["offload"] == "all":
        zero["offload_param"] = {"device": "cpu", "pin_memory": True}
    return {
        "train_batch_size": case["global_batch"],
        "train_micro_batch_size_per_gpu": case["micro_batch"],
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,  # torch's own AdamW on the host: images hold no compiler for DeepSpeed's
        "gradient_clipping": case["optimizer"]["clip"],
        "bf16": {"enabled": case["dtype"] == "bfloat16"},
        "fp16": {"enabled": case["dtype"] == "float16", "initial_scale_power": 16},
        "steps_per_print": 2**31 - 1,
        "wall_clock_breakdown": False,
    }
