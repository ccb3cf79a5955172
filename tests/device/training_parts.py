"""Parts of tests/device/training.py, each in a process of its own; what a part finds is in its file before it goes on.

python -m tests.device.training_parts PART OUT SCALE
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812

from kit import models as shipped
from kit.worker import data, device, loop, models, training
from kit.worker.models import load, naming
from kit.worker.record import Recorder
from kit.worker.suites import finetuning
from tests.device import plain_training

Shape = dict[str, Any]
OPTIMIZER = {"learning_rate": 3e-4, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.01, "clip": 1.0, "schedule": "constant"}
LORA = {"suite": "finetuning", "method": "lora", "lora": {"rank": 8, "alpha": 16, "dropout": 0.05}}
CURVE_ROWS = 2  # in float32 without fast attention, a row of 2048 is slow and large
WORD = "@@ "  # begins a line of a part that the parent reads


@dataclass(frozen=True, slots=True)
class Scale:
    """How large everything is: widths of (hidden, layers, heads, feed-forward), lengths, steps."""

    shapes: dict[str, tuple[int, int, int, int]]
    vocabulary: int
    length: int
    micro_batch: int
    warmup: int
    turn: int
    turns: int
    curve: int
    curve_shape: tuple[int, int, int, int]
    whole: dict[str, str | Shape]
    tries: tuple[tuple[int, bool], ...]  # (micro-batch, activations made anew) of a whole model, the fastest first
    compile: bool
    side: int


SMALL = {"architecture": "internlm", "hidden_size": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 4, "ffn_size": 48, "vocab_size": 256, "sequence_length": 256}  # fmt: skip
SCALES = {
    "card": Scale(
        shapes={"7b-width": (4096, 8, 32, 11008), "1.3b": (2048, 24, 16, 5504)},
        vocabulary=32000,
        length=2048,
        micro_batch=8,
        warmup=8,
        turn=15,
        turns=3,
        curve=100,
        curve_shape=(1024, 4, 8, 2816),
        whole={"pretrain": "internlm-7b", "sft": "internlm-7b", "lora": "llama-7b"},
        tries=((4, True), (2, True), (1, True)),
        compile=True,
        side=8192,
    ),
    "tiny": Scale(
        shapes={"7b-width": (64, 2, 4, 96), "1.3b": (32, 3, 4, 48)},
        vocabulary=256,
        length=32,
        micro_batch=2,
        warmup=2,
        turn=2,
        turns=2,
        curve=8,
        curve_shape=(32, 2, 4, 48),
        whole={"pretrain": SMALL, "sft": SMALL, "lora": SMALL | {"architecture": "llama"}},
        tries=((2, False), (1, True)),
        compile=False,
        side=64,
    ),
}
SCALES["compiled"] = replace(SCALES["tiny"], compile=True)
SCALES["cpu"] = replace(
    SCALES["compiled"], shapes={"7b-width": (256, 2, 4, 704), "1.3b": (128, 4, 4, 352)}, turn=5, curve=101, curve_shape=(64, 2, 4, 176)
)


def case(scale: Scale, model: Shape, **changes: Any) -> dict[str, Any]:
    return {"id": "x", "suite": "pretrain", "model": model, "weights": "random", "engine": "torch", "zero_stage": 0, "global_batch": scale.micro_batch, "micro_batch": scale.micro_batch,
            "processes": 1, "checkpoint_activations": False, "offload": "none", "loss_chunks": 1, "optimizer": OPTIMIZER, "dtype": "bfloat16",
            "compile": scale.compile, "deterministic": False, "attention": ["CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH"], "seed": 1024, "data": "shakespeare.txt",
            "tokenizer": "bytes", "packing": "none", "warmup_steps": scale.warmup, "measured_steps": 10**6} | changes  # fmt: skip


def llama(scale: Scale, shape: tuple[int, int, int, int]) -> Shape:
    hidden, layers, heads, ffn = shape
    return {"architecture": "llama", "hidden_size": hidden, "num_layers": layers, "num_heads": heads, "num_kv_heads": heads, "ffn_size": ffn,
            "vocab_size": scale.vocabulary, "sequence_length": scale.length}  # fmt: skip


def whole(scale: Scale, name: str, **changes: Any) -> Shape:
    """A model of its true size, by its file."""
    named = scale.whole[name]
    return (named if isinstance(named, dict) else shipped.resolve(named, name)) | changes


class Mute:
    """A recorder that writes nothing: what a step costs without one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def now(self) -> int:
        return time.monotonic_ns()

    def event(self, *_: Any, **__: Any) -> None:
        """Nothing."""


class Ours:
    """Our engine, stepped by the suite's own loop with its recorder."""

    def __init__(self, folder: Path, asked: dict[str, Any]) -> None:
        self.case, self.here = asked, training.place()
        device.forget_peak(self.here.device)
        training.seeded(asked)
        if asked["suite"] == "finetuning":
            model, *_ = finetuning._prepared(asked, self.here)
        else:
            with self.here.device:
                model = models.build(asked["model"])
        self.engine, self.source = training.build(asked, self.here, model), data.source(asked)
        self.share = data.Share(0, 1, asked["global_batch"], asked["micro_batch"])
        self.number, self.slots = 0, asked["global_batch"] * asked["model"]["sequence_length"]
        folder.mkdir(parents=True)
        self.recorder = Recorder(folder, rank=0, case=asked, attempt=1, world_size=1)
        self.events = folder / "events-00000.jsonl"
        self.engine.module.train()

    def steps(self, count: int) -> list[float]:
        """Seconds of each of some steps, as recorded."""
        for _ in range(count):
            self._step(self.recorder)
        return [(line["t"] - line["begin_ns"]) / 1e9 for line in self.lines()[-count:]]

    def lines(self) -> list[dict[str, Any]]:
        """What was recorded of steps."""
        return [json.loads(line) for line in self.events.read_text().splitlines() if '"e":"step"' in line]

    def _step(self, recorder: Any) -> None:
        with training.attention(self.case):
            loop.step(self.case, recorder, self.here, self.engine, self.source, self.share, self.number)
        self.number += 1

    def overhead(self, count: int) -> dict[str, float]:
        """Seconds of whole steps with the recorder on and off in turns, and of one event by itself."""
        times: dict[str, list[float]] = {"on": [], "off": []}
        recorders = {"on": self.recorder, "off": Mute(self.events.parent)}
        for number in range(count):
            for name in ("on", "off") if number % 2 else ("off", "on"):
                begin = time.perf_counter()
                self._step(recorders[name])
                times[name].append(time.perf_counter() - begin)
        line, begin = self.lines()[-1], time.perf_counter()
        fields = {name: value for name, value in line.items() if name not in {"e", "t"}}
        for _ in range(1000):
            self.recorder.event("step", **fields)
        event_s = (time.perf_counter() - begin) / 1000
        medians = {name: statistics.median(values) for name, values in times.items()}
        return {f"{name}_s": value for name, value in medians.items()} | {
            "on/off": medians["on"] / medians["off"],
            "event_s": event_s,
            "steps": count,
        }

    def profile(self, path: Path) -> None:
        """Where the time of three steps goes, kernel by kernel."""
        with torch.profiler.profile() as found:
            self.steps(3)
        kind = "self_device_time_total" if self.here.device.type != "cpu" else "self_cpu_time_total"
        path.write_text(found.key_averages().table(sort_by=kind, row_limit=40, max_name_column_width=70), encoding="utf-8")


def rate(slots: int, times: list[float]) -> dict[str, float]:
    rates = {"tokens_per_s": slots * len(times) / sum(times), "median": slots / statistics.median(times)}
    return rates | {"slowest_s": max(times), "fastest_s": min(times), "steps": len(times)}


class Kept:
    """The file of a part."""

    def __init__(self, out: Path, name: str) -> None:
        self.path, self.found = out / f"{name}.json", {"torch": torch.__version__, "device": device.name(training.place().device)}

    def keep(self, name: str, found: Any) -> None:
        self.found[name] = found
        self.path.write_text(json.dumps(self.found, indent=1) + "\n", encoding="utf-8")
        print(f"{time.monotonic():.0f} {self.path.stem}, {name}: {json.dumps(found)[:400]}", flush=True)


def side(out: Path, scale: Scale, name: str, kind: str) -> None:
    """One side of a comparison: builds, says so, then does what the parent's lines ask for."""
    shape, begin = scale.shapes[name], time.monotonic()
    torch.manual_seed(1024)
    if kind == "plain":
        here = training.place().device
        net = plain_training.model(shape, here, vocabulary=scale.vocabulary, length=scale.length)
        if scale.compile:
            net.compile()
        found: Any = plain_training.Loop(net, here, micro_batch=scale.micro_batch, length=scale.length, vocabulary=scale.vocabulary)
    else:
        found = Ours(out / f"events-{name}-{kind}", case(scale, llama(scale, shape), dtype="float8" if kind == "float8" else "bfloat16"))
    built = time.monotonic()
    first = found.steps(1)[0]
    found.steps(scale.warmup)
    gc.collect()
    gc.freeze()
    gc.disable()
    say({"built_s": built - begin, "first_step_s": first})
    for line in sys.stdin:
        word, *rest = line.split()
        say(asked_of(found, word, *rest))


def asked_of(found: Any, word: str, rest: str) -> Any:
    """What a line asks of a side: steps COUNT, overhead COUNT, profile PATH."""
    if word == "steps":
        return {"times": found.steps(int(rest)), "peak_gb": device.peak_bytes(training.place().device) / 1e9}
    return found.overhead(int(rest)) if word == "overhead" else found.profile(Path(rest))


def say(found: Any) -> None:
    print(WORD + json.dumps(found), flush=True)


def product(_: Path, scale: Scale) -> None:
    """The card's own product, while nobody else uses it."""
    say(plain_training.matmul_tflops(training.place().device, scale.side))


def first(out: Path, scale: Scale) -> None:
    """From nothing to the first update of the 1.3B model; the parent's clock counts from the command on."""
    found = Ours(out / f"events-first-{os.getpid()}", case(scale, llama(scale, scale.shapes["1.3b"])))
    say({"first_step_s": found.steps(1)[0], "second_step_s": found.steps(1)[0]})


def curve(out: Path, scale: Scale) -> None:
    """Losses of ours and of a plain loop around the library's model, step by step: same first weights, same rows."""
    file = Kept(out, "curve")
    for dtype in ("float32", "bfloat16"):
        kernels = ["MATH"] if dtype == "float32" else ["FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH"]
        rows = {"micro_batch": CURVE_ROWS, "global_batch": CURVE_ROWS}
        asked = case(scale, llama(scale, scale.curve_shape), dtype=dtype, attention=kernels, **rows)
        here = training.place()
        training.seeded(asked)
        theirs = plain_training.model(scale.curve_shape, here.device, vocabulary=scale.vocabulary, length=scale.length, dtype=torch.float32)
        with here.device:
            model = models.build(asked["model"])
        load.fill(model, theirs.state_dict(), "theirs", naming.LLAMA)
        engine, source = training.build(asked, here, model), data.source(asked)
        optimizer = torch.optim.AdamW(theirs.parameters(), lr=OPTIMIZER["learning_rate"], betas=(0.9, 0.95), eps=1e-8, weight_decay=0.01)
        losses: dict[str, list[float]] = {"ours": [], "plain": []}
        share = data.Share(0, 1, CURVE_ROWS, CURVE_ROWS)
        for number in range(scale.curve):
            batch = {name: value.to(here.device) for name, value in source.unit(number, 0, share).batch.items()}
            with training.attention(asked):
                losses["ours"].append(engine.step([batch], number).loss.item())
                losses["plain"].append(_plain_step(theirs, optimizer, batch, here.device.type, dtype))
        apart = [abs(a - b) for a, b in zip(losses["ours"], losses["plain"], strict=True)]
        facts = {
            "steps": scale.curve,
            "largest_difference": max(apart),
            "mean_difference": statistics.mean(apart),
            "compiled": scale.compile,
        }
        file.keep(dtype, facts | losses)


def _plain_step(net: Any, optimizer: Any, batch: dict[str, Any], kind: str, dtype: str) -> float:
    """Float32 weights; in bfloat16 under autocast, as a plain loop does mixed precision."""
    with torch.autocast(kind, torch.bfloat16, enabled=dtype == "bfloat16"):
        logits = net(input_ids=batch["tokens"]).logits
    loss = F.cross_entropy(logits.float().flatten(0, 1), batch["labels"].flatten(), ignore_index=-100)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(loss.item())


def trained(file: Kept, name: str, out: Path, asked: dict[str, Any], scale: Scale) -> bool:
    """Rate of a case over a few steps, kept; False where memory ran out."""
    found = None
    try:
        found = Ours(out / f"events-{file.path.stem}-{len(file.found)}", asked)
        first_step = found.steps(1)[0]
        found.steps(min(3, scale.warmup))
        times = found.steps(min(10, scale.turn))
        more = {"first_step_s": first_step, "loss": found.lines()[-1]["loss"], "real_tokens": found.lines()[-1]["real_tokens"]}
        file.keep(name, rate(found.slots, times) | more | {"peak_gb": device.peak_bytes(found.here.device) / 1e9})
    except Exception as error:  # what one layout cannot do is a finding, and the next is tried
        file.keep(name, repr(error)[:400])
        return not device.out_of_memory(error)
    else:
        return True
    finally:
        del found
        gc.collect()
        if torch.accelerator.is_available():
            torch.accelerator.empty_cache()


def internlm(out: Path, scale: Scale) -> None:
    """The whole InternLM-7B with float32 masters and states on one card, at the largest micro-batch that fits."""
    file = Kept(out, "internlm-7b")
    for micro, anew in scale.tries:
        layout = {"micro_batch": micro, "global_batch": micro, "checkpoint_activations": anew, "loss_chunks": 8 if micro > 1 else 1}
        asked = case(scale, whole(scale, "pretrain"), **layout)
        if trained(file, f"micro-batch {micro}", out, asked, scale):
            return


def lora(out: Path, scale: Scale) -> None:
    """Alpaca-LoRA at true size: adapters over bfloat16 and over int8, cutoff 512."""
    file = Kept(out, "lora")
    model = whole(scale, "lora", **({} if isinstance(scale.whole["lora"], dict) else {"sequence_length": 512}))
    for base in ("bfloat16", "int8"):
        trained(file, base, out, case(scale, model, **LORA, base_weights=base, data="instructions.json"), scale)


def sft(out: Path, scale: Scale) -> None:
    """Full fine-tuning of InternLM-7B on packed instructions of 2048, at the largest micro-batch that fits."""
    file = Kept(out, "sft")
    for micro, anew in scale.tries[1:]:
        asked = case(scale, whole(scale, "sft"), suite="finetuning", method="full", data="instructions.json", packing="mask", micro_batch=micro, global_batch=micro,
                     checkpoint_activations=anew, attention=["EFFICIENT_ATTENTION", "MATH"])  # fmt: skip
        if trained(file, f"micro-batch {micro}", out, asked, scale):
            return


def packed(out: Path, scale: Scale) -> None:
    """InternEvo's data: rows padded, packed by a mask, packed by lengths."""
    file = Kept(out, "packed")
    hidden, _, heads, ffn = scale.shapes["1.3b"]
    model = llama(scale, (hidden, 4, heads, ffn))
    for name in ("none", "mask", "varlen"):
        asked = case(scale, model, data="internevo-dummy", packing=name, tokenizer="none", micro_batch=2, global_batch=2)
        trained(file, name, out, asked, scale)


PARTS: dict[str, Callable[[Path, Scale], None]] = {"product": product, "first": first, "curve": curve, "internlm-7b": internlm, "lora": lora, "sft": sft, "packed": packed}  # fmt: skip


def main(argv: list[str]) -> None:
    name, out, scale = argv[0], Path(argv[1]), SCALES[argv[2]]
    here = plain_training.where()
    os.environ.setdefault("CHIPASSAY_DEVICE", here.type)
    if name in PARTS:
        PARTS[name](out, scale)
    else:
        model, _, kind = name.partition("/")
        side(out, scale, model, kind)


if __name__ == "__main__":
    main(sys.argv[1:])
