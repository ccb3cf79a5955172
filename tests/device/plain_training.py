"""The peer of tests/device/training.py: a plain loop around transformers' LLaMA, bfloat16 weights and optimizer states.

    python3 plain_training.py HIDDEN LAYERS HEADS FFN [--compile]

Prints one JSON line: tokens per second of the mean of 30 steps after 10, each step synchronised; and the rate of one large
bfloat16 matrix product on the same card, as its ceiling. Needs torch and transformers, and nothing of the kit.
"""

from __future__ import annotations

import json
import sys
import time

import torch

MICRO_BATCH, LENGTH, VOCABULARY = 8, 2048, 32000
WARMUP_STEPS, MEASURED_STEPS = 10, 30
SIDE = 8192


def where() -> torch.device:
    """The accelerator that torch sees, else the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def synchronize(here: torch.device) -> None:
    """Wait until the device is idle."""
    if here.type != "cpu":
        torch.accelerator.synchronize()


def model(
    shape: tuple[int, int, int, int],
    here: torch.device,
    *,
    vocabulary: int = VOCABULARY,
    length: int = LENGTH,
    dtype: torch.dtype = torch.bfloat16,
) -> torch.nn.Module:
    """A LLaMA with random weights on the device; the shape is hidden, layers, heads, feed-forward."""
    from transformers import LlamaConfig, LlamaForCausalLM  # seconds that other sides of a comparison need not wait for

    hidden, layers, heads, ffn = shape
    config = LlamaConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        intermediate_size=ffn,
        vocab_size=vocabulary,
        max_position_embeddings=length,
        rms_norm_eps=1e-5,
        attn_implementation="sdpa",
        use_cache=False,
    )
    torch.set_default_dtype(dtype)
    try:
        with here:
            return LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(torch.float32)


class Loop:
    """The plain loop: forward with the library's own loss, backward, clipping, fused AdamW."""

    def __init__(
        self,
        net: torch.nn.Module,
        here: torch.device,
        *,
        micro_batch: int = MICRO_BATCH,
        length: int = LENGTH,
        vocabulary: int = VOCABULARY,
    ) -> None:
        self.net, self.here, self.size, self.vocabulary = net, here, (micro_batch, length), vocabulary
        self.optimizer = torch.optim.AdamW(net.parameters(), lr=3e-4, fused=True)

    def steps(self, count: int) -> list[float]:
        """Seconds of each of some steps."""
        times = []
        for _ in range(count):
            ids = torch.randint(self.vocabulary, self.size, device=self.here)
            synchronize(self.here)
            begin = time.perf_counter()
            self.net(input_ids=ids, labels=ids).loss.backward()
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            synchronize(self.here)
            times.append(time.perf_counter() - begin)
        return times


def matmul_tflops(here: torch.device, side: int = SIDE) -> float:
    """Rate of a bfloat16 product of that side, best of 5 times 20."""
    a, b = (torch.randn(side, side, device=here, dtype=torch.bfloat16) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        synchronize(here)
        begin = time.perf_counter()
        for _ in range(20):
            a @ b
        synchronize(here)
        best = min(best, (time.perf_counter() - begin) / 20)
    return 2 * side**3 / best / 1e12


def main(argv: list[str]) -> None:
    hidden, layers, heads, ffn = (int(value) for value in argv if not value.startswith("-"))
    here = where()
    ceiling = matmul_tflops(here)
    net = model((hidden, layers, heads, ffn), here)
    if "--compile" in argv:
        net.compile()
    times = Loop(net, here).steps(WARMUP_STEPS + MEASURED_STEPS)[WARMUP_STEPS:]
    rate = MICRO_BATCH * LENGTH * MEASURED_STEPS / sum(times)
    print(
        json.dumps({"shape": [hidden, layers, heads, ffn], "compiled": "--compile" in argv, "tokens_per_s": rate, "matmul_tflops": ceiling})
    )


if __name__ == "__main__":
    main(sys.argv[1:])
