"""The least that a card must have held: its share of weights, master copies and moments (Rajbhandari et al. 2020, section 3)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from verify import flop, teams
from verify.findings import Finding, warning

WIDTH = {"float32": 4, "bfloat16": 2, "float16": 2, "float8": 2, "int8": 1}
MOMENTS, MASTERS = 8, 4  # bytes of a trained weight; in float32 a weight is its own master


def least(case: Mapping[str, Any]) -> int:
    """Bytes of the card that holds most; activations, gradients and buffers left out, states of DeepSpeed taken as split at every stage."""
    count, lora = flop.parameters(case["model"]), case.get("method") == "lora"
    weights = 0 if case["offload"] == "all" else count * WIDTH[case["base_weights"] if lora else case["dtype"]]
    states = 0 if lora or case["offload"] != "none" else count * (MOMENTS + (0 if case["dtype"] == "float32" else MASTERS))
    if case["engine"] == "deepspeed":
        states //= case["processes"]
        weights //= case["processes"] if case["zero_stage"] == 3 else 1
    return int(weights + states) // teams.size(case)


def short(case: Mapping[str, Any], peaks: Sequence[int], kinds: Collection[str]) -> Iterator[Finding]:
    """Less memory than that; a CPU has the host's, which may be swapped out, and 0 is of a chip whose library does not tell."""
    if "cpu" not in kinds and any(peaks) and max(peaks) < (expected := least(case)):
        yield warning(
            f"{case['suite']}.memory", case["id"], f"at least {expected} bytes at most on some card, for weights and states", max(peaks)
        )
