"""Our training as the suite's own loop does it, with its recorder: the other side of plain_training.py.

    python -m tests.device.training OUT [NAME ...]        NAME: 1.3b, 7b-width, packed

Each side runs in a process of its own: in one process the plain loop lost a fifth of its speed to what ours had left behind.
A profile of three of our steps lies beside the rates in OUT.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from kit.worker import data, loop, models, training
from kit.worker.record import Recorder
from tests.device import plain_training

SHAPES = {"1.3b": (2048, 24, 16, 5504), "7b-width": (4096, 8, 32, 11008)}
OPTIMIZER = {"learning_rate": 3e-4, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.01, "clip": 1.0, "schedule": "constant"}
FOUND: dict[str, Any] = {}
WARM, TURN = 8, 25


def keep(out: Path, name: str, found: Any) -> None:
    FOUND[name] = found
    (out / "training.json").write_text(json.dumps(FOUND, indent=1) + "\n", encoding="utf-8")
    print(f"{time.monotonic():.0f} {name}: {json.dumps(found)}", flush=True)


def case(shape: tuple[int, int, int, int], **changes: Any) -> dict[str, Any]:
    hidden, layers, heads, ffn = shape
    model = {"architecture": "llama", "hidden_size": hidden, "num_layers": layers, "num_heads": heads, "num_kv_heads": heads, "ffn_size": ffn,
             "vocab_size": 32000, "sequence_length": 2048}  # fmt: skip
    return {"id": "x", "suite": "pretrain", "model": model, "weights": "random", "engine": "torch", "zero_stage": 0, "global_batch": 8, "micro_batch": 8,
            "processes": 1, "checkpoint_activations": False, "offload": "none", "loss_chunks": 1, "optimizer": OPTIMIZER, "dtype": "bfloat16",
            "compile": True, "deterministic": False, "attention": ["CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH"], "seed": 1024, "data": "shakespeare.txt",
            "tokenizer": "bytes", "packing": "none", "warmup_steps": WARM, "measured_steps": 10**6} | changes  # fmt: skip


class Ours:
    """Our engine, stepped by the suite's loop."""

    def __init__(self, out: Path, name: str, asked: dict[str, Any], *, fused: bool = True) -> None:
        self.case, self.here = asked, training.place()
        training.seeded(asked)
        with self.here.device:
            model = models.build(asked["model"], fused=fused)
        self.engine, self.source = training.build(asked, self.here, model), data.source(asked)
        self.share = data.Share(0, 1, asked["global_batch"], asked["micro_batch"])
        self.folder, self.number = out / f"events-{name}", 0
        self.folder.mkdir()
        self.recorder = Recorder(self.folder, rank=0, case=asked, attempt=1, world_size=1)

    def steps(self, count: int) -> list[float]:
        """Seconds of each of some steps, as recorded."""
        with training.attention(self.case):
            for _ in range(count):
                loop.step(self.case, self.recorder, self.here, self.engine, self.source, self.share, self.number)
                self.number += 1
        lines = [json.loads(line) for line in (self.folder / "events-00000.jsonl").read_text().splitlines()[-count:]]
        return [(line["t"] - line["begin_ns"]) / 1e9 for line in lines]

    def profile(self, path: Path) -> None:
        """Where the time of three steps goes, kernel by kernel."""
        with torch.profiler.profile() as found:
            self.steps(3)
        path.write_text(found.key_averages().table(sort_by="self_device_time_total", row_limit=40, max_name_column_width=70), encoding="utf-8")


def rate(times: list[float]) -> dict[str, float]:
    slots = plain_training.MICRO_BATCH * plain_training.LENGTH
    return {"tokens_per_s": slots * len(times) / sum(times), "median": slots / statistics.median(times), "slowest_s": max(times), "fastest_s": min(times)}


def alone(out: Path, name: str) -> None:
    """Ours in a process of its own, between two measurements of the card's own product."""
    shape = SHAPES[name]
    ceiling = plain_training.matmul_tflops()
    begin = time.monotonic()
    ours = Ours(out, name, case(shape))
    first = ours.steps(1)[0]
    keep(out, f"{name} first step", {"built_s": time.monotonic() - begin - first, "first_step_s": first})
    ours.steps(WARM)
    gc.collect()
    gc.freeze()
    gc.disable()
    times = ours.steps(2 * TURN)
    keep(out, name, rate(times) | {"matmul_tflops": ceiling, "after": plain_training.matmul_tflops(), "peak_gb": torch.cuda.max_memory_allocated() / 1e9})
    ours.profile(out / f"profile-{name}.txt")


def packed(out: Path) -> None:
    """InternEvo's data: rows padded, packed by a mask, packed by lengths; losses of the two last side by side."""
    shape = (2048, 4, 16, 5504)
    for name in ("none", "mask", "varlen"):
        try:
            ours = Ours(out, name, case(shape, data="internevo-dummy", packing=name, tokenizer="none", global_batch=4, micro_batch=2))
            times = ours.steps(20)[8:]
            lines = [json.loads(line) for line in (ours.folder / "events-00000.jsonl").read_text().splitlines() if '"step"' in line]
            keep(out, f"packed {name}", {"s": statistics.median(times), "loss": [line["loss"] for line in lines[::4]], "real": lines[-1]["real_tokens"]})
        except Exception as error:  # a torch without the kernel is a finding, not the end
            keep(out, f"packed {name}", repr(error)[:400])


def main(out: Path, names: list[str]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name in names or [*SHAPES, "packed"]:
        if name == "packed":
            packed(out)
        else:
            alone(out, name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
