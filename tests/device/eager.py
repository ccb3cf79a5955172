"""Eager text to image beside the library's own pipeline, and the sampler on and off around eager denoising and products, in turns.

python -m tests.device.eager OUT DEVICE [VERSION [CHIP]]; a short form of beside.py for the two questions that need many turns.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import median

import torch

from kit import telemetry
from kit.worker import clock, device
from kit.worker.suites import text_to_image
from tests.conftest import ROOT
from tests.device.beside import keep, pictures_case, plain_pipeline, seconds

ROUNDS = 6


def main(argv: list[str]) -> None:
    out, kind = Path(argv[0]), argv[1]
    version, chip = argv[2] if len(argv) > 2 else "tiny", argv[3] if len(argv) > 3 else "cpu"
    out.mkdir(parents=True, exist_ok=True)
    os.environ["CHIPASSAY_DEVICE"] = kind
    here = device.choose(0)
    case = pictures_case(version, "float16" if kind != "cpu" else "float32", "none")
    torch.set_default_device(here)  # weights drawn on the device: nothing but time is looked at here
    engine = importlib.import_module("kit.worker.engines.diffusers").load(case, here)
    torch.set_default_device(None)
    side = 8192 if kind != "cpu" else 128
    a, b = (torch.randn(side, side, device=here, dtype=engine.dtype) for _ in range(2))
    plain = plain_pipeline(engine, engine.parts["denoiser"])

    def ours() -> None:
        text_to_image._call(case, engine, here, 1)

    for act in (ours, plain):
        act()
    times: dict[str, list[float]] = defaultdict(list)
    for number in range(ROUNDS):
        for state in ("off", "on") if number % 2 else ("on", "off"):
            if state == "on":
                folder = out / f"telemetry-{number}"
                folder.mkdir()
                with telemetry.sampling(ROOT / "images" / chip, folder):
                    time.sleep(1.0)
                    times["pictures on"].append(seconds(here, ours))
                    times["products on"].append(clock.timed(here, 400 if kind != "cpu" else 3, lambda: torch.mm(a, b)) / 1e9)
            else:
                times["pictures off"].append(seconds(here, ours))
                times["products off"].append(clock.timed(here, 400 if kind != "cpu" else 3, lambda: torch.mm(a, b)) / 1e9)
        times["plain"].append(seconds(here, plain))
        tell(out, here, times)


def tell(out: Path, here: torch.device, times: dict[str, list[float]]) -> None:
    middle = {name: median(values) for name, values in times.items()}
    keep(out, "eager", {"device": device.name(here), "median s": middle, "whole ratio": middle["plain"] / middle["pictures off"],
                        "cost on pictures %": 100 * (middle["pictures on"] / middle["pictures off"] - 1),
                        "cost on products %": 100 * (middle["products on"] / middle["products off"] - 1), "all": times})  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
