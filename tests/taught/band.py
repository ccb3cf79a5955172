"""What the quality band of the taught pipeline is made of: `python -m tests.taught.band FIRST_SEED COUNT`, weights from $CHIPASSAY_WEIGHTS.

Prints distances to the held-out pictures: of honest pictures for each seed, of training pictures, of a denoiser broken in two ways.
`python -m tests.taught.band held-out` prints the held-out file.
"""

from __future__ import annotations

import statistics
import sys
import tomllib
from collections.abc import Callable, Iterable
from typing import Any

from tests.conftest import ROOT
from tests.taught import pictures
from verify import quality

PROMPT = "a red disc"


def case() -> dict[str, Any]:
    """The case of the smoke plan."""
    source = tomllib.loads((ROOT / "manifests/plans/smoke.toml").read_text(encoding="utf-8"))
    return next(dict(found) for found in source["case"] if found["id"] == "text-to-image-taught")


def features(data: bytes) -> dict[str, list[int]]:
    """Mean and deviation of colour of 8 x 8 parts of a picture of bytes, in thousandths."""
    part, side = pictures.SIDE // quality.PARTS, pictures.SIDE
    parts: list[list[int]] = [[] for _ in range(quality.VALUES)]
    for place, value in enumerate(data):
        row, column, colour = place // 3 // side, place // 3 % side, place % 3
        parts[(row // part * quality.PARTS + column // part) * 3 + colour].append(value)
    return {
        "colour": [round(statistics.fmean(values) * 1000) for values in parts],
        "texture": [round(statistics.pstdev(values) * 1000) if len(set(values)) > 1 else 0 for values in parts],
    }


def stacked(found: Iterable[dict[str, list[int]]]) -> dict[str, list[list[int]]]:
    """Features of many pictures, by feature."""
    rows = list(found)
    return {name: [row[name] for row in rows] for name in quality.FEATURES}


def of(numbers: Iterable[int], count: int) -> dict[str, list[list[int]]]:
    """Features of the first pictures of the prompt among these numbers."""
    fitting = [number for number in numbers if pictures.prompt(number) == PROMPT][:count]
    return stacked(features(pictures.picture(number)) for number in fitting)


def made(case: dict[str, Any], harm: Callable[[Any], None] = lambda _: None) -> dict[str, list[list[int]]]:
    """Features of the pictures that the pipeline makes, its engine harmed before."""
    import torch

    from kit.worker import engines
    from kit.worker.suites import text_to_image as suite

    engine = engines.module(case["engine"]).load(case, torch.device("cpu"))
    harm(engine)
    latents = engine.denoise(engine.noise(case["seed"]), engine.encode([case["prompt"]] * case["batch"]))
    found = [suite.colours(picture) for picture in engine.decode(latents)]
    return stacked({"colour": one["grid_milli"], "texture": one["spread_milli"]} for one in found)


def silent(engine: Any) -> None:
    """A denoiser whose attention to the prompt is lost."""
    _zero(engine, "attn2.to_out")


def timeless(engine: Any) -> None:
    """A denoiser that does not know its step."""
    _zero(engine, "time_embedding.linear_2")


def _zero(engine: Any, named: str) -> None:
    for part, weight in engine.parts["denoiser"].named_parameters():
        if named in part:
            weight.zero_()


def strong(engine: Any) -> None:
    """A denoiser whose last layer is 30 % too strong."""
    engine.parts["denoiser"].conv_out.weight.mul_(1.3)


def main(argv: list[str]) -> None:
    held_out = of(pictures.HELD_OUT, 64)
    if argv == ["held-out"]:
        for name, rows in held_out.items():
            print("\n".join([f"{name} = [", *(f" {row}," for row in rows), "]"]))
        return

    def tell(what: str, found: dict[str, list[list[int]]]) -> None:
        print(what, {name: round(float(value), 4) for name, value in quality.distances(found, held_out).items()}, flush=True)

    count = case()["batch"]
    for start in range(0, 6 * count * 8, 6 * count):
        tell("training pictures", of(pictures.TRAINING[start:], count))
    for seed in range(int(argv[0]), int(argv[0]) + int(argv[1])):
        tell(f"seed {seed}", made(case() | {"seed": seed}))
    for harm in (silent, timeless, strong):
        tell(harm.__name__, made(case(), harm))


if __name__ == "__main__":
    main(sys.argv[1:])
