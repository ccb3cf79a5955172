"""Teaches a small LLaMA the frozen text, a byte an id: `python -m tests.taught_text.train FOLDER`, about three minutes of two CPU cores.

Weights are rounded to float16, written in the library's layout and locked. Another processor or library rounds otherwise, so that a
second training gives other bytes; stored references (baselines/text_generation.toml) belong to the locked ones.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from kit.worker import weights
from kit.worker.data.text import read
from kit.worker.models import causal

SEED = 20261125
STEPS, BATCH, LENGTH, RATE, WARMUP = 700, 16, 128, 3e-3, 50
SHAPE = {
    "architecture": "llama", "hidden_size": 192, "num_layers": 4, "num_heads": 4, "num_kv_heads": 2, "ffn_size": 512, "vocab_size": 256,
    "sequence_length": 512,
}  # fmt: skip
CASE: dict[str, Any] = {"model": SHAPE, "generation": "taught", "dtype": "float16"}


def train() -> LlamaForCausalLM:
    """AdamW with a cosine schedule over windows of the text in a seeded order."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    model = LlamaForCausalLM(LlamaConfig(**causal.config(CASE | {"dtype": "float32"})))
    text = read("shakespeare.txt")[0]
    order = torch.randperm((len(text) - 1) // LENGTH, generator=torch.Generator().manual_seed(SEED))
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS, pct_start=WARMUP / STEPS)
    started = time.monotonic()
    for step in range(STEPS):
        begins = [int(order[(step * BATCH + place) % len(order)]) * LENGTH for place in range(BATCH)]
        rows = torch.stack([text[begin : begin + LENGTH + 1] for begin in begins])
        loss = functional.cross_entropy(model(input_ids=rows[:, :-1], use_cache=False).logits.flatten(0, 1), rows[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 50 == 0 or step == STEPS - 1:
            print(f"step {step}: {loss.item():.3f} nats a byte, {time.monotonic() - started:.0f} s", flush=True)
    return model


def configuration() -> str:
    """The text of config.json; bytes have no first and no last token."""
    return json.dumps(causal.config(CASE) | {"bos_token_id": None, "eos_token_id": None}, indent=2) + "\n"


def write(model: LlamaForCausalLM, folder: Path) -> None:
    """Weights in float16, configuration, and the lock of both."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = causal.shapes(CASE)
    state = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items() if name in wanted}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(configuration(), encoding="utf-8")
    files = {
        path.name: {"size_bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in (folder / "config.json", folder / "model.safetensors")
    }
    lock = {"schemaVersion": 1, "architecture": causal.architecture(CASE), "files": files}
    (folder / weights.LOCK).write_text(json.dumps(lock, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(train(), Path(sys.argv[1]))
