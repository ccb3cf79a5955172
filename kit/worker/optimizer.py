"""AdamW with float32 master weights over parameters of any precision, gradients clipped by their norm, losses scaled for float16.

Settings are a case's `optimizer`: learning_rate, betas, eps, weight_decay, clip, and a schedule. One pass over memory a step
where it is compiled: masters, both states and the gradient are read once, weights of the model written.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Settings = dict[str, Any]
FIRST_SCALE = 2.0**16  # of losses in float16: the lab's configuration, facts 1.1
GROWTH_STEPS = 1000  # steps without an overflow before the scale doubles, as InternEvo's


def learning_rate(settings: Settings, step: int) -> float:
    """The rate of a step: constant, or linear warm-up then a cosine down to `final_learning_rate` at `total_steps`."""
    peak = float(settings["learning_rate"])
    if settings["schedule"] == "constant":
        return peak
    warmup, total, final = settings["warmup_steps"], settings["total_steps"], settings["final_learning_rate"]
    if step < warmup:
        return peak * (step + 1) / warmup
    along = min(1.0, (step - warmup) / max(1, total - warmup))
    if settings["schedule"] == "linear":
        return float(peak + (final - peak) * along)
    return float(final + (peak - final) * (1 + math.cos(math.pi * along)) / 2)


class AdamW:
    """The optimizer of groups of parameters; groups of the same shapes, as layers are, share one compiled update."""

    def __init__(
        self, groups: list[list[Tensor]], settings: Settings, *, compiled: bool, scaled: bool, norm_of: Callable[[list[Tensor]], Tensor]
    ) -> None:
        parameters = [parameter for group in groups for parameter in group]
        self.parameters, self.settings, self.steps, self.norm_of = parameters, settings, 0, norm_of
        self.masters = [p.detach() if p.dtype == torch.float32 else p.detach().float() for p in parameters]
        self.firsts = [torch.zeros_like(master) for master in self.masters]
        self.seconds = [torch.zeros_like(master) for master in self.masters]
        self.scaled, self.scale, self.good_steps = scaled, FIRST_SCALE if scaled else 1.0, 0
        self.bounds = list(itertools.pairwise([0, *itertools.accumulate(map(len, groups))]))
        self.update = torch.compile(_update) if compiled else _update

    @torch.no_grad()
    def step(self, gradients: list[Tensor], rate: float) -> tuple[Tensor, bool]:
        """(norm of the gradients before clipping, whether the step was skipped since it is not finite: float16 only)."""
        norm = self.norm_of(gradients) / self.scale
        if self.scaled and not self._finite(norm):
            return norm, True
        clip = self.settings["clip"]
        factor = (clip / (norm + 1e-6)).clamp(max=1.0) / self.scale if clip else torch.ones_like(norm) / self.scale
        self.steps += 1
        first, second = self.settings["betas"]
        numbers = [rate / (1 - first**self.steps), 1 / math.sqrt(1 - second**self.steps), 1 - rate * self.settings["weight_decay"]]
        step_size, root, decay = torch.tensor(numbers, dtype=torch.float32).to(norm.device, non_blocking=True).unbind()
        columns = (self.parameters, self.masters, self.firsts, self.seconds, gradients)
        for begin, end in self.bounds:
            lists = tuple(values[begin:end] for values in columns)
            self.update(lists, (factor, step_size, root, decay), (first, second), self.settings["eps"])
        return norm, False

    def _finite(self, norm: Tensor) -> bool:
        """Whether a scaled step counts; the scale halves after one that does not, and doubles after many that do."""
        if not math.isfinite(norm.item()):
            self.scale, self.good_steps = self.scale / 2, 0
            return False
        self.good_steps += 1
        if self.good_steps % GROWTH_STEPS == 0:
            self.scale *= 2
        return True

    def state_dict(self) -> dict[str, Any]:
        """Masters and states by position, steps and the scale of losses."""
        lists = {"masters": self.masters, "firsts": self.firsts, "seconds": self.seconds}
        return lists | {"steps": self.steps, "scale": self.scale, "good_steps": self.good_steps}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of the same parameters; the model's weights follow the masters."""
        for name in ("masters", "firsts", "seconds"):
            for own, given in zip(getattr(self, name), state[name], strict=True):
                own.copy_(given)
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            parameter.copy_(master)
        self.steps, self.scale, self.good_steps = state["steps"], state["scale"], state["good_steps"]


def _update(lists: tuple[list[Tensor], ...], numbers: tuple[Tensor, ...], betas: tuple[float, float], eps: float) -> None:
    """Loshchilov and Hutter 2019, algorithm 2, decay on every parameter; `root` is one over the root of the second bias correction."""
    parameters, masters, firsts, seconds, gradients = lists
    factor, step_size, root, decay = numbers
    gradients = torch._foreach_mul([gradient.float() for gradient in gradients], factor)
    torch._foreach_lerp_(firsts, gradients, 1 - betas[0])
    torch._foreach_mul_(seconds, betas[1])
    torch._foreach_addcmul_(seconds, gradients, gradients, 1 - betas[1])
    under = torch._foreach_sqrt(seconds)
    torch._foreach_mul_(under, root)
    torch._foreach_add_(under, eps)
    change = torch._foreach_div(firsts, under)
    torch._foreach_mul_(change, step_size)
    torch._foreach_mul_(masters, decay)
    torch._foreach_sub_(masters, change)
    torch._foreach_copy_(parameters, masters)
