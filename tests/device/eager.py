"""Eager text to image beside the library's own pipeline, picture by picture in pairs; then, with CHIP, the sampler on and off in turns.

python -m tests.device.eager OUT DEVICE [VERSION [PAIRS [CHIP]]]     DEVICE with its number, if not the first; VERSION 1.5, 2.1 or tiny; CHIP names a folder below images/

The host's speed drifts by more than the two differ, but slowly: neighbours share it. So each picture of ours is divided into the plain one
next to it, whoever comes first changing from pair to pair, and the median of these ratios stands, with a bootstrap interval. Pin the
process to a few cores (taskset). A pair of ours with ours says what the method itself cannot tell apart.
"""

from __future__ import annotations

import gc
import importlib
import os
import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from kit import telemetry
from kit.worker import clock, device
from kit.worker.suites import text_to_image
from tests.conftest import ROOT
from tests.device.beside import keep, pictures_case, plain_pipeline, seconds

ROUNDS = 6
RESAMPLES = 10_000
Act = Callable[[], Any]


def paired(here: torch.device, first: Act, second: Act, pairs: int) -> list[tuple[float, float]]:
    """Seconds of both acts, pair by pair, garbage collected between pictures and never within."""
    acts, found = (first, second), []
    for number in range(pairs):
        spent = [0.0, 0.0]
        for turn in (0, 1) if number % 2 else (1, 0):
            gc.collect()
            gc.disable()
            spent[turn] = seconds(here, acts[turn])
            gc.enable()
        found.append((spent[0], spent[1]))
    return found


def told(pairs: list[tuple[float, float]]) -> dict[str, Any]:
    """Median of second over first, and the middle 95 % of the medians of resampled pairs (Efron, 1979; seeded)."""
    ratios = [second / first for first, second in pairs]
    draw = random.Random(1024)
    medians = sorted(median(draw.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES))
    return {"median s": [median(times) for times in zip(*pairs, strict=True)], "ratio": median(ratios),
            "interval": [medians[RESAMPLES // 40], medians[-RESAMPLES // 40]], "pairs": len(pairs), "all": pairs}  # fmt: skip


def sampler(out: Path, here: torch.device, ours: Act, chip: str, multiply: Act) -> dict[str, Any]:
    """Pictures and products with the sampler on and off, in turns."""
    times: dict[str, list[float]] = defaultdict(list)
    calls = 400 if here.type != "cpu" else 3
    for number in range(ROUNDS):
        for state in ("off", "on") if number % 2 else ("on", "off"):
            folder = out / f"telemetry-{number}-{state}"
            folder.mkdir()
            with telemetry.sampling(ROOT / "images" / (chip if state == "on" else "none"), folder):
                time.sleep(1.0)
                times[f"pictures {state}"].append(seconds(here, ours))
                times[f"products {state}"].append(clock.timed(here, calls, multiply) / 1e9)
    middle = {name: median(values) for name, values in times.items()}
    costs = {f"cost on {what} %": 100 * (middle[f"{what} on"] / middle[f"{what} off"] - 1) for what in ("pictures", "products")}
    return {"median s": middle, **costs, "all": times}


def main(argv: list[str]) -> None:
    out, (kind, _, index) = Path(argv[0]), argv[1].partition(":")
    version, pairs = argv[2] if len(argv) > 2 else "tiny", int(argv[3]) if len(argv) > 3 else 24
    out.mkdir(parents=True, exist_ok=True)
    os.environ["CHIPASSAY_DEVICE"] = kind
    here = device.choose(int(index or 0))
    case = pictures_case(version, "float16" if kind != "cpu" else "float32", "none")
    torch.set_default_device(here)  # weights drawn on the device: nothing but time is looked at here
    engine = importlib.import_module("kit.worker.engines.diffusers").load(case, here)
    torch.set_default_device(None)
    plain = plain_pipeline(engine, engine.parts["denoiser"])

    def ours() -> None:
        text_to_image._call(case, engine, here, 1)

    for act in (ours, plain, ours, plain):
        act()
    keep(out, "machine", {"device": device.name(here), "torch": torch.__version__, "cores": sorted(os.sched_getaffinity(0))})
    keep(out, "ours with ours", told(paired(here, ours, ours, pairs // 4)))
    keep(out, "plain over ours", told(paired(here, ours, plain, pairs)))
    if len(argv) > 4:
        side = 8192 if kind != "cpu" else 128
        a, b = (torch.randn(side, side, device=here, dtype=engine.dtype) for _ in range(2))
        keep(out, "sampler", sampler(out, here, ours, argv[4], lambda: torch.mm(a, b)))


if __name__ == "__main__":
    main(sys.argv[1:])
