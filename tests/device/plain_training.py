"""The peer of tests/device/training.sh: a plain loop around transformers' LLaMA, bfloat16 weights and optimizer states.

    python3 plain_training.py HIDDEN LAYERS HEADS FFN [--compile]

Prints one JSON line: tokens per second of the mean of 30 steps after 10, each step synchronised; and the rate of one large
bfloat16 matrix product on the same card, as its ceiling.
"""

from __future__ import annotations

import json
import sys
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

MICRO_BATCH, LENGTH, VOCABULARY = 8, 2048, 32000
WARMUP_STEPS, MEASURED_STEPS = 10, 30
SIDE = 8192


def model(hidden: int, layers: int, heads: int, ffn: int) -> torch.nn.Module:
    """A LLaMA with random weights on the card."""
    config = LlamaConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=ffn,
        vocab_size=VOCABULARY,
        max_position_embeddings=LENGTH,
        attn_implementation="sdpa",
        use_cache=False,
    )
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            return LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(torch.float32)


def tokens_per_s(net: torch.nn.Module) -> float:
    """Training speed of the plain loop."""
    times = steps(net, torch.optim.AdamW(net.parameters(), lr=3e-4, fused=True), WARMUP_STEPS + MEASURED_STEPS)
    return MICRO_BATCH * LENGTH * MEASURED_STEPS / sum(times[WARMUP_STEPS:])


def steps(net: torch.nn.Module, optimizer: torch.optim.Optimizer, count: int) -> list[float]:
    """Seconds of each of some steps."""
    times = []
    for _ in range(count):
        ids = torch.randint(VOCABULARY, (MICRO_BATCH, LENGTH), device="cuda")
        torch.cuda.synchronize()
        begin = time.perf_counter()
        net(input_ids=ids, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return times


def matmul_tflops() -> float:
    """Rate of a bfloat16 product of side 8192, best of 5 times 20."""
    a, b = (torch.randn(SIDE, SIDE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(20):
            a @ b
        torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - begin) / 20)
    return 2 * SIDE**3 / best / 1e12


def main(argv: list[str]) -> None:
    shape = [int(value) for value in argv if not value.startswith("-")]
    ceiling = matmul_tflops()
    net = model(*shape)
    if "--compile" in argv:
        net.compile()
    print(json.dumps({"shape": shape, "compiled": "--compile" in argv, "tokens_per_s": tokens_per_s(net), "matmul_tflops": ceiling}))


if __name__ == "__main__":
    main(sys.argv[1:])
