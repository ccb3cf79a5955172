"""Attacks on telemetry that stands beside a case's events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.adversarial.attacks import add
from tests.adversarial.builder import PRETRAIN, Bench

Line = dict[str, Any]


def lines() -> list[Line]:
    """Two readings of one card, ten seconds apart."""
    return [
        {"t": 5_000, "e": "opened", "interval_ms": 100, "cards": 1, "missing": None},
        {"t": 6_000, "e": "card", "card": 0, "read_ns": 10, "power_mw": 90_000},
        {"t": 10_000_006_000, "e": "card", "card": 0, "read_ns": 10, "power_mw": 90_000},
        {"t": 10_000_007_000, "e": "closed", "samples": 2},
    ]


def against(rule: str, name: str, change: Callable[[list[Line]], Any], file: str = "telemetry-00000.jsonl") -> None:
    """An attack by a vendor who seals changed telemetry."""

    def act(bench: Bench) -> None:
        made = lines()
        change(made)
        bench.events[PRETRAIN][file] = made

    add(f"telemetry.{rule}", "sealed", name, act)


against("segments", "a segment missing", lambda made: None, "telemetry-00001.jsonl")
against("schema", "a field that nobody knows", lambda made: made[1].update(bonus=1))
against("schema", "a negative power", lambda made: made[1].update(power_mw=-1))
against("order", "no beginning", lambda made: made.pop(0))
against("order", "time goes back", lambda made: made.reverse() or made.insert(0, lines()[0]))
against("order", "readings after the end", lambda made: made.append({**made[1], "t": 10_000_008_000}))
