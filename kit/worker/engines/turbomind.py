"""LMDeploy's TurboMind engine by the interface of its PyTorch engine. UNPROVEN: nobody has run it yet, and its facts say so."""

from __future__ import annotations

import asyncio
from typing import Any

import torch

from ..models import causal
from . import Facts, wanted
from .lmdeploy import KV_INT8, LMDeployEngine, check, longest, prepare

__all__ = ["load", "prepare"]
Case = dict[str, Any]


def load(case: Case, device: torch.device) -> LMDeployEngine:
    """The TurboMind engine over the case's folder of weights; it does not say how many tokens its cache holds."""
    version = wanted("lmdeploy", "0.16", "0.19")
    check(case)
    from lmdeploy import TurbomindEngineConfig
    from lmdeploy.turbomind import TurboMind

    path, digest = causal.folder(case, device)
    asked = TurbomindEngineConfig(
        dtype=case["dtype"],
        tp=case["cards"],
        session_len=longest(case),
        max_batch_size=max(case["concurrency"], 1),
        quant_policy=KV_INT8 if case["kv_dtype"] == "int8" else 0,
    )
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    engine = TurboMind.from_pretrained(str(path), engine_config=asked)
    facts = Facts(f"{version} (TurboMind, unproven)", causal.parameters(case), digest, queues=True)
    return LMDeployEngine(engine, loop, device, facts)
