"""A case of text to image in a built run, and an attack on each of its rules."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.adversarial import builder
from tests.adversarial.attacks import add
from tests.adversarial.builder import Bench, Event
from tests.conftest import ROOT
from tests.taught import band, pictures
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
TAUGHT = "taught-x"
TAUGHT_CASE = CASE | {"id": TAUGHT, "model": {"family": "stable-diffusion", "version": "taught"}, "weights": "taught", "batch": 32,
                      "guidance": 1.5, "prompt": "a red disc"}  # fmt: skip
LOCK_SHA256 = hashlib.sha256((ROOT / "baselines/weights/taught/weights.lock.json").read_bytes()).hexdigest()


Look = tuple[list[int], list[int]]
FLAT: Look = ([1, 2, 3] * 64, [0] * 192)


def honest() -> list[Look]:
    """Mean and deviation of the parts of what the taught pipeline made on a CPU for the smoke plan's case."""
    found = json.loads((Path(__file__).parent / "taught.json").read_bytes())
    return list(zip(found["colour"], found["texture"], strict=True))


def drawn(numbers: range) -> list[Look]:
    """The same of pictures that the recipe draws."""
    found = band.of(numbers, 32)
    return list(zip(found["colour"], found["texture"], strict=True))


def stored(case: dict[str, Any] = CASE) -> dict[str, list[float]]:
    """The stored reference of the case."""
    found = text_to_image.reference(case, text_to_image.Measured(weights_sha256=LOCK_SHA256 if case["weights"] == "taught" else None))
    assert found
    return found


def events(case: dict[str, Any] = CASE, looks: Sequence[Look] = (FLAT,)) -> list[Event]:
    """Every call: 1 ms for text, 20 ms for ten steps, 4 ms for the decoder."""
    [row] = [row for row in table(text_to_image.DATA)["architecture"] if row["name"] == text_to_image.name(case)]
    counts = {part: row[part] for part in ("text_encoder", "denoiser", "decoder")}
    made = builder.start(case["id"], "text_to_image")
    made[2] |= {"parameters": sum(counts.values()), "seed": 1024}
    if case["weights"] != "random":
        made[2] |= {"weights": "file", "weights_sha256": LOCK_SHA256}
    made[2:2] = [
        {"t": 10 * MS, "e": "load", "begin_ns": 2 * MS, "kind": "cold"},
        {"t": 15 * MS, "e": "load", "begin_ns": 11 * MS, "kind": "warm"},
    ]
    made[4]["t"] = 15 * MS
    made.append({"t": 15 * MS, "e": "parts", **counts, "tokenizer": "bytes", "safety_checker": "none"})
    made.append({"t": 30 * MS, "e": "compiled", "begin_ns": 16 * MS, "mode": "default"})
    made += [{"t": 31 * MS, "e": "latents", "step": step, "values": list(stored(case)[str(step)])} for step in (1, 5, 10)]
    made += [{"t": 32 * MS, "e": "picture", "picture": number, "file": f"artifacts/picture-{number}.png", "sha256": "0" * 64, **fields(look)}
             for number, look in enumerate(looks)]  # fmt: skip
    for number in range(3):
        begin = (40 + 30 * number) * MS
        made.append({"t": begin + 25 * MS, "e": "call", "call": number, "phase": "measured" if number else "warmup", "begin_ns": begin,
                     "encoded_ns": begin + MS, "denoised_ns": begin + 21 * MS})  # fmt: skip
    made.append({"t": 130 * MS, "e": "memory", "peak_bytes": 5 * 10**9})
    return builder.end(made)


def fields(look: Look) -> dict[str, list[int]]:
    """Fields of a picture event whose parts look like this."""
    grid, spread = look
    return {"mean_milli": [round(sum(grid[colour::3]) / 64) for colour in range(3)], "grid_milli": list(grid), "spread_milli": list(spread)}


def _add(bench: Bench, case: dict[str, Any], made: list[Event]) -> list[Event]:
    bench.plan.document["cases"].append(copy.deepcopy(case))
    bench.handed[case["id"]] = {"case": copy.deepcopy(case), "attempt": 1}
    bench.events[case["id"]] = {"events-00000.jsonl": made}
    bench.states[case["id"]] = ("done", None)
    return made


def with_case(bench: Bench) -> list[Event]:
    """Add the case to a run about to be sealed; its events may still be changed."""
    return _add(bench, CASE, events())


def with_taught(bench: Bench, change: Callable[[Look], Look] = lambda look: look) -> list[Event]:
    """Add the case with taught weights, every picture changed."""
    return _add(bench, TAUGHT_CASE, events(TAUGHT_CASE, [change(look) for look in honest()]))


def build(folder: Path, edit: Callable[[Bench], Any] = with_case) -> Path:
    """A sealed run that holds the case, untouched."""
    return builder.build(folder, edit)


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
against("pictures", "parts of another picture", lambda e: of("picture", e)[0].update(grid_milli=[9, 2, 3] * 64))
against("pictures", "fewer parts", lambda e: of("picture", e)[0]["grid_milli"].pop())
against("pictures", "a deviation of no byte", lambda e: of("picture", e)[0].update(spread_milli=[300_000] * 192))
against("memory", "no memory told", lambda e: e.remove(of("memory", e)[0]))


def judged(name: str, make: Callable[[Bench], Any]) -> None:
    """An attack by a vendor whose pictures are not those of the known weights."""
    add("text_to_image.quality", "sealed", name, make)


def training_pictures(bench: Bench) -> None:
    """Too good: what was learnt from is handed back."""
    _add(bench, TAUGHT_CASE, events(TAUGHT_CASE, drawn(pictures.TRAINING)))


judged("the training pictures themselves: too good", training_pictures)
judged("other held-out pictures: too good", lambda b: _add(b, TAUGHT_CASE, events(TAUGHT_CASE, drawn(pictures.HELD_OUT))))
judged("grey pictures: too bad", lambda b: with_taught(b, lambda _: ([127_500] * 192, [0] * 192)))
judged("red and blue exchanged: too bad", lambda b: with_taught(b, lambda look: (exchanged(look[0]), exchanged(look[1]))))
judged("pictures darker by a fifth: too bad", lambda b: with_taught(b, lambda look: ([value * 4 // 5 for value in look[0]], look[1])))
judged("noise over everything: too bad", lambda b: with_taught(b, lambda look: (look[0], [value + 20_000 for value in look[1]])))


def exchanged(values: list[int]) -> list[int]:
    """Red for blue."""
    return [values[place + 2 - 2 * (place % 3)] for place in range(len(values))]
