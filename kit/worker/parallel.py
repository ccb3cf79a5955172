"""How ranks share a model and a batch: T neighbouring ranks are a team, P teams one behind the other are the stages of a model.

Rank ((d * P) + p) * T + t is member t of the team that holds stage p of the model whose share of each batch is d.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .models.tensor import Stage, Team, cut_of

BUCKET_ELEMENTS = 2**26  # of gradients summed over ranks at a time


def groups(kind: str, world_size: int, tensor: int, pipeline: int = 1) -> tuple[Team | None, Any, Stage | None, Any]:
    """(Team of this rank, the ranks with the same part, stage of this rank, the ranks of its line); every rank must call."""
    if tensor * pipeline == 1:
        return None, None, None, None
    sizes = (world_size // (tensor * pipeline), pipeline, tensor)
    mesh = torch.distributed.device_mesh.init_device_mesh(kind, sizes, mesh_dim_names=("data", "pipeline", "tensor"))
    team = Team(mesh.get_local_rank("tensor"), tensor, mesh.get_group("tensor").group_name) if tensor > 1 else None
    stage = Stage(mesh.get_local_rank("pipeline"), pipeline) if pipeline > 1 else None
    return team, mesh.get_group("data"), stage, mesh.get_group("pipeline") if stage else None


class Gradients:
    """Means and norm of gradients over the ranks, of parameters in this order.

    `data_ranks` is how many shares a batch has, `peers` the group of the ranks with the same part (all ranks where it is None), `line`
    the group of the stages.
    """

    def __init__(
        self, parameters: Sequence[Tensor], data_ranks: int, team: Team | None = None, peers: Any = None, line: Any = None
    ) -> None:
        self.data_ranks, self.team, self.peers, self.line = data_ranks, team, peers, line
        self.split = [team is not None and cut_of(parameter) is not None for parameter in parameters]
        self.mask = torch.tensor(self.split, device=parameters[0].device)

    def average(self, gradients: list[Tensor]) -> None:
        """Mean over ranks in place, bucket by bucket; over the team too where all its ranks hold the whole, which keeps it the same."""
        for split in (True, False):
            over_team = self.team is not None and not split
            chosen = [gradient for gradient, is_split in zip(gradients, self.split, strict=True) if is_split == split]
            if self.data_ranks == 1 and not over_team:
                continue
            for bucket in _buckets(chosen):
                flat = torch.cat([part.flatten() for part in bucket]) / self.data_ranks
                if self.data_ranks > 1:
                    torch.distributed.all_reduce(flat, group=self.peers)
                if self.team is not None and over_team:
                    flat = self.team.reduced(flat / self.team.ranks, "sum")
                for part, summed in zip(bucket, flat.split([part.numel() for part in bucket]), strict=True):
                    part.copy_(summed.view_as(part))

    def norm(self, gradients: list[Tensor]) -> Tensor:
        """Euclidean norm of the whole model's gradients: squares of split ones are summed over the team, all over the stages."""
        norms = torch.stack(torch._foreach_norm(gradients, 2, dtype=torch.float32))
        if self.team is None and self.line is None:
            return torch.linalg.vector_norm(norms)
        squares, nothing = norms.square(), torch.zeros_like(norms)
        found = torch.where(self.mask, squares, nothing).sum()
        if self.team is not None:
            found = self.team.reduced(found, "sum")
        found = found + torch.where(self.mask, nothing, squares).sum()
        if self.line is not None:
            torch.distributed.all_reduce(found, group=self.line)
        return found.sqrt()


def _buckets(gradients: list[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for number, gradient in enumerate(gradients):
        bucket.append(gradient)
        if sum(map(Tensor.numel, bucket)) >= BUCKET_ELEMENTS or number == len(gradients) - 1:
            yield bucket
            bucket = []
