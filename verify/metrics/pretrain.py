"""Pre-training: tokens per second and card, losses against targets and curves (report sections 3.1 and 3.2(1))."""

from __future__ import annotations

from verify.steps import EVENTS, Measured, Part, Rank, Steps, condense, measure, rules, rules_of
from verify.training import facts, metrics, series, traits, windows

__all__ = [
    "EVENTS", "Measured", "Part", "Rank", "Steps", "condense", "facts", "measure", "metrics", "rules", "series", "traits", "windows",
]  # fmt: skip

SECTION = "training"
PART = "compute"
RULES = rules_of("pretrain")
