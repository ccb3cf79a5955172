"""Fine-tuning with adapters or whole: tokens per second and card, losses against targets (report sections 4.1 and 4.2(1)).

The rules are those of pre-training; an adapter's weights are counted beside the model's.
"""

from __future__ import annotations

from collections.abc import Iterator

from verify import steps
from verify.events import Event, Natural, Positive
from verify.findings import Finding, error
from verify.metrics import Blocks, Case
from verify.steps import Measured, Part, condense, rules_of
from verify.training import facts, metrics, series, traits, windows

__all__ = ["condense", "facts", "metrics", "series", "traits", "windows"]

SECTION = "finetuning"
PART = "compute"
RULES = rules_of("finetuning") | {
    "finetuning.adapter": "LoRA trains rank * (in + out) weights on query and value alone, and base weights are as the case says",
}


class Adapter(Event, frozen=True, tag="adapter"):
    """What is trained of the model: of LoRA the adapter's weights, else all; and the precision of the base weights."""

    trained: Positive
    frozen: Natural
    base_weights: str


EVENTS = (*steps.EVENTS, Adapter)


def measure(case: Case, blocks: Blocks) -> Measured:
    """As pre-training, the adapter kept."""
    return steps.measure(case, blocks)


def rules(case: Case, measured: Measured) -> Iterator[Finding]:
    """Those of pre-training, and that what was trained is what the case asks for."""
    yield from steps.rules(case, measured)
    found = [(event.trained, event.frozen, event.base_weights) for event in measured.others if isinstance(event, Adapter)]
    expected = _expected(case, measured)
    if found != [expected] * len(measured.ranks):
        yield error("finetuning.adapter", case["id"], f"(trained, frozen, base weights) = {expected} on each rank", sorted(map(str, found)))


def _expected(case: Case, measured: Measured) -> tuple[int, int, str]:
    parameters = next(iter(measured.parameters), 0)
    if case["method"] == "full":
        return parameters, 0, case["dtype"]
    hidden, model = case["model"]["hidden_size"], case["model"]
    value = hidden * model["num_kv_heads"] // model["num_heads"]
    adapter = case["lora"]["rank"] * model["num_layers"] * (2 * hidden + hidden + value)
    return adapter, parameters, case["base_weights"]


__all__ += ["EVENTS", "Part", "measure", "rules"]
