"""Fine-tuning (report sections 2.1, 4.1 and 4.2(1)): LoRA on query and value with peft, or all weights on packed sequences.

LoRA trains float32 adapters in the precision of the case over frozen base weights, in that precision or in int8.
"""

from __future__ import annotations

from typing import Any

from .. import int8, linear, loop, models, training
from ..models import load
from ..models.tensor import whole_size
from ..record import Recorder

Case = dict[str, Any]
TARGETS = ["wq", "wv"]


def run(case: Case, recorder: Recorder) -> None:
    """Train for warm-up and measured steps, recording each, and what of the model is trained."""

    def prepare(case: Case, here: training.Place) -> tuple[Any, str | None]:
        model, digest, base = _prepared(case, here)
        trained = sum(whole_size(p) for p in model.parameters() if p.requires_grad)
        frozen = sum(whole_size(p) for p in model.parameters()) - trained
        recorder.event("adapter", trained=trained, frozen=frozen, base_weights=base)
        return model, digest

    loop.run(case, recorder, prepare)


def _prepared(case: Case, here: training.Place) -> tuple[Any, str | None, str]:
    full = case["method"] == "full"
    with here.device:
        model = models.build(case["model"], fused=full, team=here.team)
    digest = load.load(model, case)
    if full:
        return model, digest, case["dtype"]
    if case["base_weights"] == "int8":
        linear.replace(model.blocks, int8.Int8Linear)  # as in bitsandbytes, embeddings and heads stay
    return adapted(model, case), digest, case["base_weights"]


def adapted(model: Any, case: Case) -> Any:
    """The same model with LoRA adapters on query and value, all else frozen."""
    from peft import LoraConfig, inject_adapter_in_model

    asked = case["lora"]
    config = LoraConfig(r=asked["rank"], lora_alpha=asked["alpha"], lora_dropout=asked["dropout"], target_modules=TARGETS, bias="none")
    return inject_adapter_in_model(config, model)
