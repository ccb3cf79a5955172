"""Products and copies as a plain loop, with operands that look like the suite's: what the rates of a sealed run are held against.

python -m tests.device.bare OUT DEVICE [SIDE [BYTES]]; written to OUT/bare.json.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from kit.worker import clock, device
from kit.worker.suites.specifications import MODES, Mode

REPEATS, REPEAT_NS = 7, 10**8


def call_ns(here: torch.device, act: Callable[[], Any]) -> float:
    """Median time of a call, over repeats of about 100 ms."""
    clock.timed(here, 1, act)
    calls = max(1, round(REPEAT_NS * 3 / clock.timed(here, 3, act)))
    return statistics.median(clock.timed(here, calls, act) / calls for _ in range(REPEATS))


def product(here: torch.device, mode: Mode, side: int) -> float:
    """Tera-operations per second: as many bits as the mode holds, the second operand stored as a linear layer stores it."""
    whole = [torch.randint(-(2 ** (mode.bits - 1)), 2 ** (mode.bits - 1), (side, side), device=here) for _ in range(2)]
    scale = 1.0 if mode.dtype == torch.int8 else 2.0 ** (1 - mode.bits)
    a, b = (part.to(mode.dtype) if scale == 1 else (part.double() * scale).to(mode.dtype) for part in whole)
    del whole
    torch.set_float32_matmul_precision(mode.precision)
    multiply = torch._int_mm if mode.dtype == torch.int8 else torch.mm
    spent = call_ns(here, lambda: multiply(a, b.t()))
    torch.set_float32_matmul_precision("highest")
    return 2 * side**3 / spent / 1000


def copied(here: torch.device, size: int) -> float:
    """GB/s of a copy on the card, bytes read and written."""
    source, target = torch.rand(size // 4, device=here), torch.empty(size // 4, device=here)
    return 2 * size / call_ns(here, lambda: target.copy_(source))


def main(argv: list[str]) -> None:
    out, os.environ["CHIPASSAY_DEVICE"] = Path(argv[0]), argv[1]
    side, size = int(argv[2]) if len(argv) > 2 else 8192, int(argv[3]) if len(argv) > 3 else 2**30
    here = device.choose(0)
    found = {f"matmul_{name}": product(here, mode, side) for name, mode in MODES.items()} | {"on_card_gb_per_s": copied(here, size)}
    (out / "bare.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
