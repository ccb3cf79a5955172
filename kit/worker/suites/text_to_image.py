"""Text to image (report section 4.2): the parts of a picture timed, latents at fixed steps sampled, pictures kept.

One pipeline call makes `batch` pictures. Loading, compiling and measuring are apart. Random weights make random pictures:
their speed counts, their look does not.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from pathlib import Path
from typing import Any

import torch

from .. import device, loading, words
from ..record import Recorder

Case = dict[str, Any]
PARTS = 8  # a side is a multiple of 8


def run(case: Case, recorder: Recorder) -> None:
    """Load, compile, sample latents, warm up, measure. Running out of memory is recorded with the peak, then fails the case."""
    here = device.choose(0)
    recorder.event("environment", **device.facts(here))
    device.forget_peak(here)
    try:
        _pictures(case, recorder, here)
    except Exception as error:
        if not device.out_of_memory(error):
            raise
        raise device.OutOfMemory(_advice(case, device.peak_bytes(here))) from error
    finally:
        recorder.event("memory", peak_bytes=device.peak_bytes(here))


def _advice(case: Case, peak_bytes: int) -> str:
    size = f"batch {case['batch']}, {case['side']} px, {case['dtype']}"
    peak = f"{peak_bytes / 1e9:.2f} GB were held at most"
    return f"{size} needs more memory than there is: {peak}; take a smaller batch or side, or a larger card"


def _pictures(case: Case, recorder: Recorder, here: torch.device) -> None:
    engine = loading.engine(case, recorder, here)
    _describe(case, recorder, engine)
    if case["compile"] != "none":
        begin_ns = recorder.now()
        engine.compile()
        _call(case, engine, here, case["seed"])
        recorder.event("compiled", begin_ns=begin_ns, mode=case["compile"])
    _sampled(case, recorder, engine)
    for number in range(case["warmup_calls"] + case["measured_calls"]):
        phase = "warmup" if number < case["warmup_calls"] else "measured"
        begin_ns = recorder.now()
        encoded, denoised = _call(case, engine, here, case["seed"] + number, recorder)
        recorder.event("call", call=number, phase=phase, begin_ns=begin_ns, encoded_ns=encoded, denoised_ns=denoised)
    engine.unload()


def _describe(case: Case, recorder: Recorder, engine: Any) -> None:
    recorder.event(
        "model",
        parameters=sum(engine.parameters.values()),
        weights="random" if engine.weights_sha256 is None else "file",
        weights_sha256=engine.weights_sha256,
        seed=case["seed"],
        dtype=case["dtype"],
    )
    recorder.event("parts", **engine.parameters, tokenizer=engine.tokenizer, safety_checker=case["safety_checker"])


def _call(case: Case, engine: Any, here: torch.device, seed: int, recorder: Recorder | None = None) -> tuple[int, int]:
    """One pipeline call; when its text was encoded and when its latents were denoised, by the recorder's clock."""
    start = engine.noise(seed)
    embeddings = engine.encode([case["prompt"]] * case["batch"])
    device.synchronize(here)
    encoded_ns = recorder.now() if recorder else 0
    latents = engine.denoise(start, embeddings)
    device.synchronize(here)
    denoised_ns = recorder.now() if recorder else 0
    engine.decode(latents)
    return encoded_ns, denoised_ns


def _sampled(case: Case, recorder: Recorder, engine: Any) -> None:
    """One call outside of the measurement: latents at the fixed steps, and its pictures as artifacts."""

    def seen(step: int, latents: torch.Tensor) -> None:
        if step in case["latents_at"]:
            flat = latents.float().cpu().flatten()
            places = words.positions(words.seed(case["seed"], "latents", step), case["samples"], flat.numel())
            recorder.event("latents", step=step, values=[float(flat[place]) for place in places])

    latents = engine.denoise(engine.noise(case["seed"]), engine.encode([case["prompt"]] * case["batch"]), seen)
    folder = recorder.folder / "artifacts"
    folder.mkdir(exist_ok=True)
    for number, picture in enumerate(engine.decode(latents)):
        _keep(recorder, folder / f"picture-{number}.png", number, picture)


def _keep(recorder: Recorder, path: Path, number: int, picture: torch.Tensor) -> None:
    data = png(picture)
    path.write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    recorder.event("picture", picture=number, file=f"artifacts/{path.name}", sha256=digest, **colours(picture))


def colours(picture: torch.Tensor) -> dict[str, list[int]]:
    """Red, green, blue in thousandths: mean of the picture, mean and deviation of 8 x 8 parts by rows; bytes of [height, width, 3]."""
    height, width, _ = picture.shape
    split = picture.double().view(PARTS, height // PARTS, PARTS, width // PARTS, 3)
    found = {"mean_milli": split.mean(dim=(0, 1, 2, 3)), "grid_milli": split.mean(dim=(1, 3))}
    found["spread_milli"] = split.var(dim=(1, 3), unbiased=False).sqrt()
    return {name: [round(value * 1000) for value in values.flatten().tolist()] for name, values in found.items()}


def png(picture: torch.Tensor) -> bytes:
    """A PNG file of bytes of shape [height, width, 3]: one IDAT, no filter."""
    height, width, _ = picture.shape
    rows = b"".join(b"\0" + bytes(row.flatten().tolist()) for row in picture)
    chunks = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows, 6)), (b"IEND", b"")
    body = b"".join(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + body
