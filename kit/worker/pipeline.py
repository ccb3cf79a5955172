"""Engine `torch` over stages: each rank of a line holds some of the layers, micro-batches go along it by torch's 1F1B schedule.

Narayanan et al. 2019, section 3.2, without stale weights: all micro-batches of a step go there and back before the update. The last stage
has the loss; every rank of the line is told it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B

from . import device
from .optimizer import learning_rate
from .training import Batch, Case, Done, Place, TorchEngine

SPARING = {"return_outputs": False} if "return_outputs" in inspect.signature(Schedule1F1B.step).parameters else {}  # younger torch's


class Stage(nn.Module):
    """The layers of one rank as the schedule calls them: from tokens or hidden states to hidden states."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, **packed: Tensor) -> Tensor:
        model = self.model
        return model.through(model.embedding(x) if model.stage.first else x, **packed)


class PipelineEngine(TorchEngine):
    """As TorchEngine; gradients are added up in float32 as soon as a micro-batch has come back."""

    def __init__(self, case: Case, here: Place, model: Any) -> None:
        super().__init__(case, here, model)
        self.model, self.width = model, case["model"]["hidden_size"]
        self.dtype = device.DTYPES[case["dtype"]]
        self.kept = [torch.zeros_like(parameter, dtype=torch.float32) for parameter in self.trained]
        self.schedule: Any = None
        for parameter, sum_of in zip(self.trained, self.kept, strict=True):
            parameter.register_post_accumulate_grad_hook(_adder(sum_of))

    def step(self, batches: Iterable[Batch], number: int) -> Done:
        """All micro-batches through the line and back, then update."""
        given = list(batches)
        if self.schedule is None:
            self.schedule = self._scheduled(given)
        torch._foreach_zero_(self.kept)
        whole = {name: torch.cat([batch[name] for batch in given]) for name in given[0]}
        tokens, labels = whole.pop("tokens"), whole.pop("labels")
        losses: list[Tensor] = []
        ends: dict[str, Any] = {"target": labels, "losses": losses} if self.model.stage.last else {}
        self.schedule.step(*([tokens] if self.model.stage.first else []), **SPARING, **ends, **whole)
        loss = torch.zeros((), device=self.here.device)
        if losses:
            loss += torch.stack([one.detach().float() for one in losses]).sum() / self.optimizer.scale
        torch.distributed.all_reduce(loss, group=self.here.line)
        self.gradients.average(self.kept)
        scale = self.optimizer.scale if self.optimizer.scaled else None
        norm, skipped = self.optimizer.step(self.kept, learning_rate(self.settings, number))
        return Done(loss, norm, skipped, scale)

    def _scheduled(self, given: list[Batch]) -> Any:
        """The schedule of so many micro-batches of this shape."""
        stage, count, shape = self.model.stage, len(given), given[0]["tokens"].shape
        hidden = torch.empty(*shape, self.width, dtype=self.dtype, device="meta", requires_grad=True)
        first = torch.empty(shape, dtype=torch.int64, device="meta")
        made = PipelineStage(
            Stage(self.model),
            stage.rank,
            stage.ranks,
            self.here.device,
            input_args=(first if stage.first else hidden,),
            output_args=(hidden,),
            group=self.here.line,
        )
        return Schedule1F1B(
            made, count, loss_fn=lambda x, labels: self.model.tail(x, labels) * (self.optimizer.scale / count), scale_grads=False
        )


def _adder(sum_of: Tensor) -> Any:
    """Called with a parameter whose gradient is there: the gradient goes into the sum."""

    def act(parameter: Tensor) -> None:
        if parameter.grad is not None:
            sum_of.add_(parameter.grad)
            parameter.grad = None

    return act
