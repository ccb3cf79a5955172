"""Scales of losses, skipped updates and norms of gradients, as ranks tell them: what one of them says of the others.

In float16 a loss is multiplied by a scale; an update whose gradients overflow is skipped and the scale halved, and after many good ones
it doubles (Micikevicius et al. 2018, section 3.2). Every rank decides by the same gradients.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from verify.step_events import Step

NORM_TOLERANCE = 0.01  # of a norm: every rank works out the same sum, at most in another order
UNKNOWN = -1.0  # what DeepSpeed calls a norm that is no number
Change = tuple[int, float | None, bool]


def norms(steps: Sequence[Step]) -> array[float]:
    """The norm of each step as a column; nan where there is none."""
    return array("d", [math.nan if step.grad_norm is None else step.grad_norm for step in steps])


def wrong_norm(case: Mapping[str, Any], steps: Sequence[Step]) -> Step | None:
    """The first step whose norm cannot be: below 0, or, of engine torch in float16, one of a skipped update, or none of another."""
    least = UNKNOWN if case["engine"] == "deepspeed" else 0.0
    strict = case["engine"] == "torch" and case["dtype"] == "float16"
    for step in steps:
        norm = step.grad_norm
        if (norm is not None and norm < 0 and norm != least) or (strict and (norm is None) != step.skipped):
            return step
    return None


@dataclass(slots=True)
class Scaling:
    """How far one rank has come; `digest` is over every change, so that ranks can be compared."""

    last: Change | None = None
    digest: Any = field(default_factory=hashlib.sha256)

    def add(self, case: Mapping[str, Any], changes: Sequence[Change]) -> Iterator[tuple[int, str, str]]:
        """(step, expected, found) of each change that no overflow explains; `changes` are skipped steps, the ones after, and new scales."""
        for step, scale, skipped in changes:
            if self.last is not None and self.last[1:] == (scale, skipped) and not skipped:
                continue
            self.digest.update(f"{step} {scale} {skipped}\n".encode())
            before, self.last = self._before(step), (step, scale, skipped)
            if expected := _expected(case, before, scale, skipped=skipped):
                yield step, expected, f"scale {scale}, {'skipped' if skipped else 'not skipped'}"

    def _before(self, step: int) -> tuple[float | None, bool] | None:
        """Scale and skip of the step before: a skipped step is always told, so all between two that are told were good ones."""
        if self.last is None:
            return None
        number, scale, skipped = self.last
        return scale, skipped and number == step - 1


def _expected(case: Mapping[str, Any], before: tuple[float | None, bool] | None, scale: float | None, *, skipped: bool) -> str:
    """What would have been right, or nothing where this is."""
    if case["dtype"] != "float16":
        right = scale is None and not (skipped and case["engine"] == "torch")
        return "" if right else f"no scale of losses in {case['dtype']}" + (", and no skipped update" if case["engine"] == "torch" else "")
    if scale is None:
        return "a scale of losses in float16"
    earlier, after_skip = before or (None, False)
    if earlier is None:
        return ""
    if case["engine"] == "torch":
        allowed = {earlier / 2} if after_skip else {earlier, earlier * 2}
    else:  # its scale is told behind the update, and may stand one overflow out
        allowed = {earlier, earlier * 2} | ({earlier / 2} if after_skip or skipped else set())
    return "" if scale in allowed else f"a scale of {' or '.join(map(str, sorted(allowed)))}"


def apart(own: float, other: float) -> bool:
    """Whether two ranks tell different norms of one step."""
    if math.isnan(own) or math.isnan(other):
        return math.isnan(own) != math.isnan(other)
    return not abs(own - other) <= NORM_TOLERANCE * abs(other)
