"""How ranks share a model and a batch: teams of neighbouring ranks hold one model together, data ranks are the teams.

Rank r is member r mod T of team r div T. Parts of weights that ranks hold alone are averaged over the ranks with the same part, weights
that all hold over all ranks, which keeps them the same to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .models.tensor import Team, cut_of

BUCKET_ELEMENTS = 2**26  # of gradients summed over ranks at a time


def teams(kind: str, world_size: int, tensor: int) -> tuple[Team | None, Any]:
    """(Team of this rank, the group of the ranks with the same part) where `tensor` ranks hold a model together; every rank must call."""
    if tensor == 1:
        return None, None
    mesh = torch.distributed.device_mesh.init_device_mesh(kind, (world_size // tensor, tensor), mesh_dim_names=("data", "tensor"))
    return Team(mesh.get_local_rank("tensor"), tensor, mesh.get_group("tensor").group_name), mesh.get_group("data")


class Gradients:
    """Means and norm of gradients over the ranks, of parameters in this order."""

    def __init__(self, parameters: Sequence[Tensor], world_size: int, team: Team | None, peers: Any) -> None:
        split = [cut_of(parameter) is not None for parameter in parameters]
        whole = [number for number, is_split in enumerate(split) if not is_split]
        self.team, self.sums = team, [(whole, None, world_size)]
        if team is not None:
            self.sums.append(([number for number, is_split in enumerate(split) if is_split], peers, world_size // team.ranks))
            self.split = torch.tensor(split, device=parameters[0].device)

    def average(self, gradients: list[Tensor]) -> None:
        """Mean over ranks in place, bucket by bucket."""
        for numbers, group, ranks in self.sums:
            if ranks > 1:
                for bucket in _buckets([gradients[number] for number in numbers]):
                    flat = torch.cat([part.flatten() for part in bucket]) / ranks
                    torch.distributed.all_reduce(flat, group=group)
                    for part, summed in zip(bucket, flat.split([part.numel() for part in bucket]), strict=True):
                        part.copy_(summed.view_as(part))

    def norm(self, gradients: list[Tensor]) -> Tensor:
        """Euclidean norm of the whole model's gradients: of split ones the squares are summed over the team, others count once."""
        norms = torch.stack(torch._foreach_norm(gradients, 2, dtype=torch.float32))
        if self.team is None:
            return torch.linalg.vector_norm(norms)
        squares, nothing = norms.square(), torch.zeros_like(norms)
        split = self.team.reduced(torch.where(self.split, squares, nothing).sum(), "sum")
        return (split + torch.where(self.split, nothing, squares).sum()).sqrt()


def _buckets(gradients: list[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for number, gradient in enumerate(gradients):
        bucket.append(gradient)
        if sum(map(Tensor.numel, bucket)) >= BUCKET_ELEMENTS or number == len(gradients) - 1:
            yield bucket
            bucket = []
