"""A case of text to image in a built run, and an attack on each of its rules."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.adversarial import builder
from tests.adversarial.attacks import add
from tests.adversarial.builder import Bench, Event
from verify.data import table
from verify.metrics import text_to_image

PICTURES = "pictures-x"
CASE = {
    "id": PICTURES, "suite": "text_to_image", "section": "inference", "cards": 1, "processes": 1, "engine": "diffusers",
    "model": {"family": "stable-diffusion", "version": "tiny"}, "weights": "random", "batch": 1, "side": 64, "steps": 10, "guidance": 7.5,
    "prompt": "a beautiful photograph of Mt. Fuji during cherry blossom", "scheduler": "ddim", "safety_checker": "none", "compile": "default",
    "channels_last": False, "dtype": "float32", "seed": 1024, "loads": 2, "warmup_calls": 1, "measured_calls": 2, "latents_at": [1, 5, 10],
    "samples": 64, "time_limit_s": 60,
}  # fmt: skip
MS = 10**6


def stored() -> dict[str, list[float]]:
    """The stored reference of the case."""
    found = text_to_image.reference(CASE, text_to_image.Measured())
    assert found
    return found


def events() -> list[Event]:
    """Every call: 1 ms for text, 20 ms for ten steps, 4 ms for the decoder."""
    [tiny] = [row for row in table(text_to_image.DATA)["architecture"] if row["name"] == "stable-diffusion-tiny"]
    counts = {part: tiny[part] for part in ("text_encoder", "denoiser", "decoder")}
    made = builder.start(PICTURES, "text_to_image")
    made[2] |= {"parameters": sum(counts.values()), "seed": 1024}
    made[2:2] = [
        {"t": 10 * MS, "e": "load", "begin_ns": 2 * MS, "kind": "cold"},
        {"t": 15 * MS, "e": "load", "begin_ns": 11 * MS, "kind": "warm"},
    ]
    made[4]["t"] = 15 * MS
    made.append({"t": 15 * MS, "e": "parts", **counts, "tokenizer": "bytes", "safety_checker": "none"})
    made.append({"t": 30 * MS, "e": "compiled", "begin_ns": 16 * MS, "mode": "default"})
    made += [{"t": 31 * MS, "e": "latents", "step": step, "values": list(stored()[str(step)])} for step in (1, 5, 10)]
    made.append({"t": 32 * MS, "e": "picture", "picture": 0, "file": "artifacts/picture-0.png", "sha256": "0" * 64, "mean_milli": [1, 2, 3]})
    for number in range(3):
        begin = (40 + 30 * number) * MS
        made.append({"t": begin + 25 * MS, "e": "call", "call": number, "phase": "measured" if number else "warmup", "begin_ns": begin,
                     "encoded_ns": begin + MS, "denoised_ns": begin + 21 * MS})  # fmt: skip
    made.append({"t": 130 * MS, "e": "memory", "peak_bytes": 5 * 10**9})
    return builder.end(made)


def with_case(bench: Bench) -> list[Event]:
    """Add the case to a run about to be sealed; its events may still be changed."""
    case = copy.deepcopy(CASE)
    bench.plan.document["cases"].append(case)
    bench.handed[PICTURES] = {"case": copy.deepcopy(case), "attempt": 1}
    bench.events[PICTURES] = {"events-00000.jsonl": events()}
    bench.states[PICTURES] = ("done", None)
    return bench.events[PICTURES]["events-00000.jsonl"]


def build(folder: Path) -> Path:
    """A sealed run that holds the case, untouched."""
    return builder.build(folder, with_case)


def of(kind: str, events: list[Event]) -> list[Event]:
    return [event for event in events if event["e"] == kind]


def against(rule: str, name: str, change: Callable[[list[Event]], Any]) -> None:
    """An attack by a vendor who seals changed events of this case."""
    add(f"text_to_image.{rule}", "sealed", name, lambda bench: change(with_case(bench)))


against("facts", "weights of a file, said to be", lambda e: of("model", e)[0].update(weights="file", weights_sha256="0" * 64))
against("facts", "no parts", lambda e: e.remove(of("parts", e)[0]))
against("parts", "a smaller denoiser", lambda e: of("parts", e)[0].update(denoiser=1000))
against("loads", "a slow load left out", lambda e: e.remove(of("load", e)[1]))
against("compiled", "compiled in silence", lambda e: e.remove(of("compiled", e)[0]))
against("calls", "a slow call left out", lambda e: e.remove(of("call", e)[2]))
against("calls", "a call named warm-up", lambda e: of("call", e)[1].update(phase="warmup"))
against("time", "calls that overlap", lambda e: of("call", e)[2].update(begin_ns=of("call", e)[1]["begin_ns"]))
against("time", "a decoder before its latents", lambda e: of("call", e)[2].update(denoised_ns=10**9))
against("latents", "latents of a step left out", lambda e: e.remove(of("latents", e)[1]))
against("latents", "fewer values", lambda e: of("latents", e)[1]["values"].pop())
against("reference", "fewer steps than said", lambda e: of("latents", e)[2].update(values=of("latents", e)[1]["values"]))
against("reference", "values of another model", lambda e: of("latents", e)[0].update(values=[0.5] * 64))
against("reference", "values beyond all bounds", lambda e: of("latents", e)[0].update(values=[1e300] * 64))
against("pictures", "no picture kept", lambda e: e.remove(of("picture", e)[0]))
against("memory", "no memory told", lambda e: e.remove(of("memory", e)[0]))
