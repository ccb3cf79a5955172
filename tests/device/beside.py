"""Our suites beside the plainest way to do the same, in one process: products, copies, text to image, the sampler on and off.

python -m tests.device.beside OUT DEVICE [VERSION [CHIP]]     VERSION 1.5, 2.1 or tiny; CHIP names a folder below images/ for the sampler

Ratios are ours over theirs of rates: 1.0 and more is as good or better. Written to OUT/beside.json after each part.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from kit import telemetry
from kit.worker import clock, device, words
from kit.worker.record import Recorder
from kit.worker.suites import specifications, text_to_image
from tests.conftest import ROOT
from verify import events
from verify.metrics import specifications as judged
from verify.metrics import text_to_image as pictures

FOUND: dict[str, Any] = {}
SIZES = {"tiny": ([128, 128, 128], 2**22, 64, 4), "1.5": ([8192, 8192, 8192], 2**30, 512, 50), "2.1": ([8192, 8192, 8192], 2**30, 768, 50)}
PROMPT = "a beautiful photograph of Mt. Fuji during cherry blossom"


def keep(out: Path, part: str, found: Any) -> None:
    FOUND[part] = found
    (out / "beside.json").write_text(json.dumps(FOUND, indent=1) + "\n", encoding="utf-8")
    print(f"{time.monotonic():.0f} {part}: {json.dumps(found)}", flush=True)


def specs_case(version: str) -> dict[str, Any]:
    shape, size, _, _ = SIZES[version]
    modes = ["float16", "bfloat16", "tf32", "float32_tensor", "float32", "int8"]
    copies = ["host_to_device", "device_to_host", "on_card", "stream"]
    return {"id": "specifications", "suite": "specifications", "section": "specifications", "cards": 1, "processes": 1, "modes": modes,
            "shapes": [[side // 2 for side in shape], shape], "copies": copies, "copy_bytes": size, "repeats": 7 if version != "tiny" else 3, "repeat_ms": 100 if version != "tiny" else 5,
            "samples": 8, "seed": 1024, "time_limit_s": 600}  # fmt: skip


def bare_product(here: torch.device, dtype: torch.dtype, precision: str, side: int) -> float:
    """Tera-operations per second of a plain loop, median of seven."""
    torch.set_float32_matmul_precision(precision)
    a, b = torch.randn(side, side, device=here).to(dtype), torch.randn(side, side, device=here).to(dtype)
    calls = 3
    for _ in range(2):
        spent = clock.timed(here, calls, lambda: torch.mm(a, b))
        calls = max(1, round((1e8 if side > 1000 else 5e6) * calls / spent))
    times = [clock.timed(here, calls, lambda: torch.mm(a, b)) for _ in range(7)]
    torch.set_float32_matmul_precision("highest")
    return 2 * side**3 * calls / statistics.median(times) / 1000


def bare_copy(here: torch.device, size: int) -> float:
    source, target = torch.ones(size // 4, device=here), torch.empty(size // 4, device=here)
    times = [clock.timed(here, 20, lambda: target.copy_(source)) for _ in range(9)][2:]
    return 2 * size * 20 / statistics.median(times)


def specs(out: Path, here: torch.device, version: str) -> None:
    case = specs_case(version)
    side, size = case["shapes"][1][0], case["copy_bytes"]
    plain = {
        "float16": (torch.float16, "highest"),
        "bfloat16": (torch.bfloat16, "highest"),
        "tf32": (torch.float32, "high"),
        "float32": (torch.float32, "highest"),
    }
    before = {mode: bare_product(here, *how, side) for mode, how in plain.items()} | {"on_card": bare_copy(here, size)}
    folder = out / "specifications"
    folder.mkdir()
    recorder = Recorder(folder, rank=0, case=case, attempt=1, world_size=1)
    specifications.run(case, recorder)
    recorder.event("case_end", state="done", reason=None)
    recorder.close()
    after = {mode: bare_product(here, *how, side) for mode, how in plain.items()} | {"on_card": bare_copy(here, size)}
    kind = events.union(judged.EVENTS)
    lines = (folder / "events-00000.jsonl").read_bytes().splitlines()
    measured = judged.measure(case, [(0, [events.parse(line, kind, "events") for line in lines])])
    found = [str(finding) for finding in judged.rules(case, measured)]
    ours = {name: float(metric.value) for name, metric in judged.metrics(case, measured).items()}
    named = {"on_card": "on_card_gb_per_s"} | {mode: f"matmul_{mode}_tflops" for mode in plain}
    ratios = {mode: 2 * ours[named[mode]] / (before[mode] + after[mode]) for mode in before if named[mode] in ours}
    residuals = {
        f"{event.mode} {event.shape[0]}": float(event.residual)
        for _, series in measured.series.items()
        if isinstance(event := series.check, judged.Product)
    }
    keep(out, "specifications", {"ours": ours, "bare before": before, "bare after": after, "ratio": ratios, "findings": found,
                                 "unavailable": measured.unavailable, "residual": residuals})  # fmt: skip


def pictures_case(version: str, dtype: str, compile_mode: str) -> dict[str, Any]:
    _, _, side, steps = SIZES[version]
    return {"id": "x", "suite": "text_to_image", "engine": "diffusers", "model": {"family": "stable-diffusion", "version": version}, "weights": "random",
            "batch": 1, "side": side, "steps": steps, "guidance": 7.5, "prompt": PROMPT, "scheduler": "ddim", "compile": compile_mode,
            "channels_last": False, "dtype": dtype, "seed": 1024, "latents_at": sorted({1, steps // 5, steps // 2, steps}), "samples": 64}  # fmt: skip


def sampled(engine: Any, case: dict[str, Any]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}

    def seen(step: int, latents: torch.Tensor) -> None:
        if step in case["latents_at"]:
            flat = latents.float().cpu().flatten()
            places = words.positions(words.seed(case["seed"], "latents", step), case["samples"], flat.numel())
            found[str(step)] = [float(flat[place]) for place in places]

    engine.denoise(engine.noise(case["seed"]), engine.encode([case["prompt"]]), seen)
    return found


def errors(found: dict[str, list[float]], stored: dict[str, list[float]]) -> dict[str, float]:
    return {step: float(pictures.latent_error_squares(found[step], stored[step])) ** 0.5 for step in stored}


def plain_pipeline(engine: Any, denoiser: Any) -> Callable[[], Any]:
    """The library's own pipeline over the same weights, text encoder and decoder included."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    config = engine.config["scheduler"]
    scheduler = DDIMScheduler(num_train_timesteps=config["train_steps"], beta_start=config["beta_start"], beta_end=config["beta_end"],
                              beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=config["steps_offset"],
                              prediction_type="epsilon" if config["prediction"] == "epsilon" else "v_prediction")  # fmt: skip
    pipeline = StableDiffusionPipeline(vae=engine.parts["decoder"], text_encoder=engine.parts["text_encoder"], tokenizer=None, unet=engine.parts["denoiser"],
                                       scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False)  # fmt: skip
    pipeline.unet = denoiser
    pipeline.set_progress_bar_config(disable=True)
    case = engine.case

    def call() -> Any:
        with torch.no_grad():
            embeddings = engine.encode.__wrapped__(engine, [case["prompt"]])
        return pipeline(prompt_embeds=embeddings[1:], negative_prompt_embeds=embeddings[:1], latents=engine.noise(1), num_inference_steps=case["steps"],
                        guidance_scale=case["guidance"], height=case["side"], width=case["side"], output_type="np").images  # fmt: skip

    return call


def seconds(here: torch.device, act: Callable[[], Any]) -> float:
    device.synchronize(here)
    begin = time.monotonic()
    act()
    device.synchronize(here)
    return time.monotonic() - begin


def turns(here: torch.device, acts: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each, taken in turns, the order turned round each time."""
    times: dict[str, list[float]] = {name: [] for name in acts}
    for number in range(rounds + 1):
        for name in list(acts)[:: 1 if number % 2 else -1]:
            spent = seconds(here, acts[name])
            if number:
                times[name].append(spent)
    return {name: statistics.median(values) for name, values in times.items()}


def mode(out: Path, here: torch.device, engine: Any, name: str, stored: dict[str, list[float]], denoiser: Any) -> None:
    """One mode: whole pipelines in turns, denoiser steps apart."""
    case, steps = engine.case, engine.case["steps"]
    embeddings = engine.encode([case["prompt"]])
    start = engine.noise(1)
    pair, text = torch.cat([start, start]), embeddings.clone()

    def bare() -> None:
        with torch.no_grad():
            for instant, _, _ in engine.schedule:
                denoiser(
                    pair,
                    instant,
                    encoder_hidden_states=text,
                    timestep_cond=None,
                    cross_attention_kwargs=None,
                    added_cond_kwargs=None,
                    return_dict=False,
                )

    whole = turns(here, {"ours": lambda: text_to_image._call(case, engine, here, 1), "plain": plain_pipeline(engine, denoiser)}, 6)
    denoise = turns(here, {"ours": lambda: engine.denoise(start, embeddings), "bare": bare}, 6)
    rates = {who: steps / spent for who, spent in denoise.items()}
    keep(out, name, {"seconds": whole, "whole ratio": whole["plain"] / whole["ours"], "steps/s": rates, "denoiser ratio": rates["ours"] / rates["bare"],
                     "latent error": errors(sampled(engine, case), stored)})  # fmt: skip


def sampler(out: Path, here: torch.device, engine: Any, chip: str, rounds: int) -> None:
    """Denoising with the sampler off and on, in turns, two seconds each."""
    embeddings, start = engine.encode([PROMPT]), engine.noise(1)
    calls = max(1, round(2 / seconds(here, lambda: engine.denoise(start, embeddings))))
    times: dict[str, list[float]] = {"off": [], "on": []}
    for number in range(rounds):
        for state in ("off", "on") if number % 2 else ("on", "off"):
            folder = out / "telemetry"
            folder.mkdir(exist_ok=True)
            with telemetry.sampling(ROOT / "images" / chip, folder) if state == "on" else contextlib.nullcontext():
                time.sleep(1.0)
                engine.denoise(start, embeddings)
                times[state].append(seconds(here, lambda: [engine.denoise(start, embeddings) for _ in range(calls)]) / calls)
            first = folder / "telemetry-00000.jsonl"
            if state == "on":
                first.replace(folder / f"round-{number}.txt")
    medians = {state: statistics.median(values) for state, values in times.items()}
    keep(out, "telemetry", {"seconds": medians, "cost %": 100 * (medians["on"] / medians["off"] - 1), "all": times})


def main(argv: list[str]) -> None:
    out, kind = Path(argv[0]), argv[1]
    version, chip = argv[2] if len(argv) > 2 else "tiny", argv[3] if len(argv) > 3 else "cpu"
    out.mkdir(parents=True, exist_ok=True)
    os.environ["CHIPASSAY_DEVICE"] = kind
    here = device.choose(0)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], check=False, capture_output=True, text=True, cwd=ROOT).stdout.strip()
    keep(out, "machine", {"device": device.name(here), "torch": torch.__version__, "commit": commit})
    specs(out, here, version)
    library = importlib.import_module("kit.worker.engines.diffusers")
    case = pictures_case(version, "float32", "none")
    begin = time.monotonic()
    engine = library.load(case, here)
    device.synchronize(here)
    loaded = time.monotonic() - begin
    stored = sampled(engine, case)
    keep(out, "reference", {"key": pictures.key(case, None), "load s": loaded, "steps": stored, "parameters": engine.parameters})
    dtype = torch.float16 if here.type != "cpu" else torch.float32
    for part in engine.parts.values():
        part.to(dtype)
    engine.dtype = dtype
    mode(out, here, engine, "eager", stored, engine.parts["denoiser"])
    for role in ("denoiser", "decoder"):
        engine.parts[role].to(memory_format=torch.channels_last)
    engine.case = case | {"compile": "reduce-overhead" if here.type != "cpu" else "default"}
    engine.compile()
    keep(out, "compile ours s", seconds(here, lambda: engine.denoise(engine.noise(1), engine.encode([PROMPT]))))
    bare = torch.compile(engine.parts["denoiser"], mode=engine.case["compile"], fullgraph=True, dynamic=False)
    keep(out, "compile plain s", seconds(here, plain_pipeline(engine, bare)))
    mode(out, here, engine, "compiled", stored, bare)
    sampler(out, here, engine, chip, 6)


if __name__ == "__main__":
    main(sys.argv[1:])
