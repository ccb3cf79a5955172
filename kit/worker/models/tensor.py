"""Layers whose weights are split over the ranks of a team (Shoeybi et al. 2019, section 3); without a team, torch's own layers.

A `Column` layer holds some rows of its weight and gives some of the outputs, a `Row` layer takes these and holds some columns; its
outputs are summed over the team. First values are drawn whole and cut, so that the model is the same for any number of ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import _functional_collectives as collectives  # what torch.compile can trace
from torch.nn import functional as F  # noqa: N812


@dataclass(frozen=True, slots=True)
class Team:
    """The ranks that hold one model together: which of them this is, how many, and the name of their process group."""

    rank: int
    ranks: int
    group: str = ""

    def piece(self, part: Tensor, dim: int) -> Tensor:
        """One of as many equal pieces as there are ranks: that of this rank."""
        return part.chunk(self.ranks, dim)[self.rank]

    def enter(self, x: Tensor) -> Tensor:
        """The same tensor; its gradient is the sum over the team."""
        return _Enter.apply(x, self)

    def summed(self, x: Tensor) -> Tensor:
        """Sum over the team; the gradient goes to each rank as it is."""
        return _Sum.apply(x, self)

    def reduced(self, x: Tensor, how: str) -> Tensor:
        """`sum` or `max` over the team, without a gradient."""
        return collectives.wait_tensor(collectives.all_reduce(x.contiguous(), how, self.group))


class Elsewhere(Team):
    """Of layers that another stage holds: first values are drawn as everywhere, so that all stages draw alike, and nothing is kept."""

    def piece(self, part: Tensor, dim: int) -> Tensor:
        """Nothing."""
        return part.narrow(dim, 0, 0)


@dataclass(frozen=True, slots=True)
class Stage:
    """Which of the stages of a model's layers this rank holds; the first has the embedding, the last the head."""

    rank: int
    ranks: int

    @property
    def first(self) -> bool:
        return self.rank == 0

    @property
    def last(self) -> bool:
        return self.rank == self.ranks - 1

    def has(self, layer: int, layers: int) -> bool:
        """Whether this rank holds a layer, counted from 0."""
        return layer * self.ranks // layers == self.rank


WHOLE = Stage(0, 1)


class _Enter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, team: Team) -> Tensor:
        ctx.team = team
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.team.reduced(grads[0], "sum"), None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, team: Team) -> Tensor:
        del ctx
        return team.reduced(x, "sum")

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        del ctx
        return grads[0], None


@dataclass(frozen=True, slots=True)
class Cut:
    """How a parameter comes from the whole one: of each of the parts along `dim`, `widths` long, one of `ranks` equal pieces."""

    whole: tuple[int, ...]
    dim: int
    widths: tuple[int, ...]
    team: Team

    def of(self, tensor: Tensor) -> Tensor:
        """Pieces of a whole tensor that belong to this rank."""
        return torch.cat([self.team.piece(part, self.dim) for part in tensor.split(self.widths, self.dim)], self.dim)


def cut_of(parameter: Any) -> Cut | None:
    """How the parameter was cut; None where every rank holds the whole."""
    return getattr(parameter, "cut", None)


def mine(parameter: Any, whole: Tensor) -> Tensor:
    """What of a whole tensor this rank's parameter holds."""
    cut = cut_of(parameter)
    return whole if cut is None else cut.of(whole)


def whole_shape(parameter: Any) -> tuple[int, ...]:
    """Shape of the parameter over all ranks of the team."""
    cut = cut_of(parameter)
    return tuple(parameter.shape) if cut is None else cut.whole


def whole_size(parameter: Any) -> int:
    """Number of values of the parameter over all ranks of the team."""
    return torch.Size(whole_shape(parameter)).numel()


def fill_normal(parameter: Any, std: float) -> None:
    """Values around 0, drawn for the whole parameter."""
    if cut_of(parameter) is None:
        nn.init.normal_(parameter, std=std)
        return
    drawn = torch.empty(whole_shape(parameter), device=parameter.device, dtype=parameter.dtype)
    parameter.data.copy_(mine(parameter, nn.init.normal_(drawn, std=std)))


def _cut(module: nn.Module, name: str, dim: int, widths: tuple[int, ...], team: Team) -> None:
    parameter = getattr(module, name)
    cut = Cut(tuple(parameter.shape), dim, widths, team)
    kept = nn.Parameter(cut.of(parameter.detach()).clone())
    kept.cut = cut
    setattr(module, name, kept)


class Column(nn.Linear):
    """A product whose outputs, of `widths` one after the other, are split: from whole inputs to this rank's outputs."""

    def __init__(self, inputs: int, widths: tuple[int, ...], *, bias: bool, team: Team | None) -> None:
        super().__init__(inputs, sum(widths), bias=bias)
        self.team = team
        if team is not None:
            for name in ("weight", "bias") if bias else ("weight",):
                _cut(self, name, 0, widths, team)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if self.team is None else self.team.enter(x))


class Row(nn.Linear):
    """A product whose inputs are split: from this rank's inputs to whole outputs; a bias is whole and added once."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool, team: Team | None) -> None:
        super().__init__(inputs, outputs, bias=bias)
        self.team = team
        if team is not None:
            _cut(self, "weight", 1, (inputs,), team)

    def forward(self, x: Tensor) -> Tensor:
        if self.team is None:
            return super().forward(x)
        out = self.team.summed(F.linear(x, self.weight))
        return out if self.bias is None else out + self.bias


class Words(nn.Embedding):
    """An embedding whose rows are split: words of another rank's rows are zeros here, and the sum over the team has all."""

    def __init__(self, words: int, hidden: int, *, team: Team | None) -> None:
        super().__init__(words, hidden)
        self.team = team
        if team is not None:
            _cut(self, "weight", 0, (words,), team)

    def forward(self, tokens: Tensor) -> Tensor:
        if self.team is None:
            return super().forward(tokens)
        index, here = own_words(tokens, self.weight.shape[0], self.team)
        return self.team.summed(super().forward(index) * here[..., None].to(self.weight.dtype))


def own_words(words: Tensor, held: int, team: Team) -> tuple[Tensor, Tensor]:
    """(row of each word among those held here, 0 for others; whether it is held here)."""
    index = words - team.rank * held
    here = (index >= 0) & (index < held)
    return index * here, here


def of_words(team: Team | None, words: int) -> Team | None:
    """The team where the vocabulary divides among it; None where every rank then holds all words."""
    return None if team is None or words % team.ranks else team
