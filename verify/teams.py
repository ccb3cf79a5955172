"""Ranks that hold one model together have one share of a batch: their tokens count once, and they lose the same.

Of a case's layout, tensor_parallel x pipeline_parallel neighbouring ranks hold one model: here, a team.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from verify.findings import Finding, error

COMPARED = 1024  # losses of a rank that are kept, from step 0: memory must not grow with ranks times steps
TOLERANCE = 0.01  # of a loss: every rank works out the same sum, at most in another order
SPLIT = ("num_heads", "num_kv_heads", "ffn_size")


def size(case: Mapping[str, Any]) -> int:
    """Ranks of a team."""
    return int(case.get("tensor_parallel", 1)) * int(case.get("pipeline_parallel", 1))


@dataclass(slots=True)
class Member:
    """What must be the same on all ranks of a team: how tokens change over the steps, and the first losses."""

    given: Any = field(default_factory=hashlib.sha256)
    losses: array[float] = field(default_factory=lambda: array("d"))

    def changes(self, step: int, tokens: int, real_tokens: int) -> None:
        """From this step on a step has so many tokens."""
        self.given.update(f"{step} {tokens} {real_tokens}\n".encode())

    def lost(self, values: array[float]) -> None:
        """The next losses."""
        self.losses.extend(values[: max(0, COMPARED - len(self.losses))])


def differing(case: Mapping[str, Any], members: Mapping[int, Member]) -> Iterator[Finding]:
    """What shows that the ranks were not laid out as the case says."""
    team, rule = size(case), f"{case['suite']}.layout"
    if team == 1:
        return
    left = {name: case["model"][name] % case.get("tensor_parallel", 1) for name in SPLIT}
    left |= {"ranks": len(members) % team, "num_layers": case["model"]["num_layers"] % case.get("pipeline_parallel", 1)}
    if case["engine"] != "torch" or case.get("method") == "lora" or any(left.values()):
        yield error(rule, case["id"], "engine torch, whole layers, and nothing left when they are divided", f"{case['engine']}, {left}")
    for number, member in sorted(members.items()):
        first = members.get(number - number % team, member)
        where, other = f"{case['id']}: rank {number}", f"rank {number - number % team}"
        if member.given.digest() != first.given.digest():
            yield error(rule, where, f"in each step the tokens of {other}, which is of the same team", "others")
        apart = [step for step, (a, b) in enumerate(zip(member.losses, first.losses, strict=False)) if not abs(a - b) <= TOLERANCE * abs(b)]
        if apart:
            found = f"{member.losses[apart[0]]} at step {apart[0]}, not {first.losses[apart[0]]}"
            yield error(rule, where, f"the loss of {other}, which is of the same team", found)
