"""Plausibility: what a sealed, consistent record says that a real machine would hardly have said.

Rules look at a few thousand durations of each case, at its clocks and at rates, never at raw events. Most findings are
warnings: they refuse nothing and tell a reader where to look. Each rule has a line in docs/rules.md; thresholds are data
(baselines/plausibility). A rule that fires on honest runs is worse than none.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from verify.data import root, violations
from verify.findings import Unchecked

THRESHOLDS = "baselines/plausibility/default.toml"
Limits = Mapping[str, Mapping[str, Any]]

RULES = {
    "plausible.peak": "no rate is above the peak that the chip's data sheet names",
    "plausible.own_rate": "no case computes or copies faster than the run's own measured products and copies",
    "plausible.devices": "one device name on all ranks and in all cases",
    "plausible.clock": "events lie within their attempt, by the run log's clock",
    "plausible.future": "a heartbeat holds no event that is later than itself",
    "plausible.unaccounted": "events account for the time of their attempt, but for start and end",
    "plausible.idle": "steps account for the time between the first and the last of them",
    "plausible.between": "attempts of one process follow each other",
    "plausible.repeated": "no stretch of durations occurs twice, in two cases, ranks, or places",
    "plausible.scaled": "no case's durations are those of another, multiplied",
    "plausible.ranks": "no two ranks have the very same durations",
    "plausible.lattice": "durations of one clock lie on one lattice",
    "plausible.smooth": "durations vary as those of a machine do",
    "plausible.telemetry": "power, temperature and work agree",
    "seen.before": "the record was not seen before",
    "seen.duplicate": "no other run, chip or vendor has the same durations",
}


@dataclass(frozen=True, slots=True)
class Work:
    """The least arithmetic that must have been done, in floating-point operations, in which mode, in how many ns, on how many cards."""

    flop: int
    mode: str
    duration_ns: int
    cards: int


@dataclass(frozen=True, slots=True)
class Traits:
    """What a suite shows of a case: series of durations in ns by the host's clock, a digest of each rank's, the work, time within
    steps and from first to last, the names of the devices, digests of results with what decides them, and that of weights of a file.
    """

    durations: Mapping[str, Sequence[int]] = field(default_factory=dict)
    ranks: Mapping[int, str] = field(default_factory=dict)
    work: Work | None = None
    busy_ns: int = 0
    span_ns: int = 0
    devices: frozenset[str] = frozenset()
    outcomes: Mapping[str, str] = field(default_factory=dict)
    weights_sha256: str | None = None


LEAST_DISTINCT = 8  # different values of a result: fewer may be what a model gives that has nothing to say


def outcome(values: Iterable[float | int]) -> str | None:
    """Digest of computed values by their shortest text; None where they are too much alike to be one case's own."""
    listed = list(values)
    return hashlib.sha256(repr(listed).encode()).hexdigest() if len(set(listed)) >= LEAST_DISTINCT else None


@cache
def limits() -> Limits:
    """The thresholds that come with the code; Unchecked where their file does not fit its schema."""
    document = tomllib.loads((root() / THRESHOLDS).read_text(encoding="utf-8"))
    for fault in violations(document, "plausibility", "plausible.thresholds", THRESHOLDS):
        raise Unchecked("thresholds cannot be used", where=THRESHOLDS, why=str(fault), next_step="check out the file again")
    return {name: table for name, table in document.items() if isinstance(table, dict)}


def llama_flop(model: Mapping[str, Any], tokens: int, prompt: int, *, training: bool) -> int:
    """Floor of the operations: 2 a matrix weight and token forward, 4 more backward; attention left out.

    `tokens` pass every matrix; those of the `prompt` need not pass the last one, which makes words of them.
    """
    hidden, kv = model["hidden_size"], model["hidden_size"] * model["num_kv_heads"] // model["num_heads"]
    layer = 2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * model["ffn_size"]
    layers, head = model["num_layers"] * layer, hidden * model["vocab_size"]
    return (6 if training else 2) * int(layers * (tokens + prompt) + head * tokens)
