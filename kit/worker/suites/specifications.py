"""Base specifications (report table 4): matrix products, memory, copies.

Each series is two warm-ups (first call, estimate), then repeats of as many calls as last about `repeat_ms`. Operands come
from `words`, so that entries of a product can be recomputed by anybody; a Freivalds check covers the entries that are not.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch

from .. import clock, device, words
from ..record import Recorder

Case = dict[str, Any]
WARMUPS = 2
ESTIMATE_CALLS = 3
MOST_CALLS = 100_000
PATTERN = 2**20
PATTERN_SHIFT = 10  # words of 22 bits: twice such a word is exact in float32
ROWS = 1024


class Mode(NamedTuple):
    """A way to multiply: element type, significant bits of its operands, precision asked of float32 products."""

    dtype: torch.dtype
    bits: int
    precision: str = "highest"


MODES = {
    "float16": Mode(torch.float16, 11),
    "bfloat16": Mode(torch.bfloat16, 8),
    "float32": Mode(torch.float32, 24),
    "float32_tensor": Mode(torch.float32, 24, "high"),
    "tf32": Mode(torch.float32, 11, "high"),
    "int8": Mode(torch.int8, 8),
}


def run(case: Case, recorder: Recorder) -> None:
    """Record every series of the case; what the device cannot do is recorded as unavailable."""
    here = device.choose(0)
    recorder.event("environment", **device.facts(here))
    recorder.event("memory", size_bytes=device.memory_bytes(here))
    device.forget_peak(here)
    _full_accumulation(here)
    operands = _Operands(case)
    for mode in case["modes"]:
        _try(recorder, here, mode, partial(_products, case, recorder, here, mode, operands))
    for name in case["copies"]:
        _try(recorder, here, name, partial(_copies, case, recorder, here, name))


class Failed(Exception):
    """A product or a copy failed for another reason than that the device has no such thing."""


def _try(recorder: Recorder, here: torch.device, what: str, act: Callable[[], None]) -> None:
    """What the device or its software has not is a fact about it; every other fault fails the case, with what was asked for."""
    try:
        act()
    except OSError:
        raise  # events cannot be written
    except Exception as error:
        if device.out_of_memory(error):
            raise device.OutOfMemory(_advice(what, device.peak_bytes(here))) from error
        if not device.unsupported(error):
            raise Failed(f"{what}: {type(error).__name__}: {error}") from error
        recorder.event("unavailable", what=what, reason=" ".join(f"{type(error).__name__}: {error}".split())[:300])


def _advice(what: str, peak_bytes: int) -> str:
    peak = f"{peak_bytes / 1e9:.2f} GB were held at most"
    return f"{what} needs more memory than there is: {peak}; take smaller shapes or copy_bytes, or a larger card"


def _full_accumulation(here: torch.device) -> None:
    """Partial sums stay in float32 where the back end would let them be shorter."""
    settings = getattr(getattr(torch.backends, here.type, None), "matmul", None)
    for name in ("allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction"):
        if hasattr(settings, name):
            setattr(settings, name, False)


class _Operands:
    """The words of both operands, made once for the largest shape; B is stored as a linear layer stores it, [n, k]."""

    def __init__(self, case: Case) -> None:
        shapes = case["shapes"]
        self.a = words.stream(words.seed(case["seed"], "a"), max(m * k for m, k, _ in shapes))
        self.b = words.stream(words.seed(case["seed"], "b"), max(n * k for _, k, n in shapes))

    def integers(self, name: str, rows: int, columns: int, bits: int) -> torch.Tensor:
        """A matrix of signed integers of `bits` bits, int32 on the host."""
        flat = getattr(self, name)[: rows * columns]
        return ((flat >> (32 - bits)) - 2 ** (bits - 1)).to(torch.int32).view(rows, columns)


def _scaled(whole: torch.Tensor, mode: Mode) -> torch.Tensor:
    """Integers as elements of [-1, 1), or as they are for an integer mode; exact in the mode's type."""
    return whole.to(mode.dtype) if mode.dtype == torch.int8 else (whole.double() * 2.0 ** (1 - mode.bits)).to(mode.dtype)


def _products(case: Case, recorder: Recorder, here: torch.device, name: str, operands: _Operands) -> None:
    if name not in MODES:
        raise NotImplementedError(f"torch has no matrix product of {name}")
    mode = MODES[name]
    torch.set_float32_matmul_precision(mode.precision)
    try:
        for m, k, n in case["shapes"]:
            a, b = operands.integers("a", m, k, mode.bits), operands.integers("b", n, k, mode.bits)
            left, right = _scaled(a, mode).to(here), _scaled(b, mode).to(here).t()
            multiply = _multiply(mode)
            out = torch.empty(m, n, dtype=torch.int32 if mode.dtype == torch.int8 else mode.dtype, device=here)
            _series(case, recorder, here, "matmul", {"mode": name, "shape": [m, k, n]}, partial(multiply, left, right, out=out))
            _check_product(case, recorder, {"mode": name, "shape": [m, k, n]}, (a, b, out.cpu()), mode)
    finally:
        torch.set_float32_matmul_precision("highest")


def _multiply(mode: Mode) -> Callable[..., torch.Tensor]:
    found: Callable[..., torch.Tensor] | None = torch.mm if mode.dtype != torch.int8 else getattr(torch, "_int_mm", None)
    if found is None:
        raise NotImplementedError("this version of torch has no product of integers")
    return found


def _series(case: Case, recorder: Recorder, here: torch.device, kind: str, fields: dict[str, Any], act: Callable[[], Any]) -> None:
    """Warm-ups and repeats of one act; a repeat's raw duration is recorded, rates are computed by verify."""
    calls = 1
    for repeat in range(WARMUPS + case["repeats"]):
        device.synchronize(here)
        begin_ns = recorder.now()
        duration_ns = clock.timed(here, calls, act)
        phase = "warmup" if repeat < WARMUPS else "measured"
        recorder.event(
            kind, **fields, repeat=repeat, phase=phase, calls=calls, begin_ns=begin_ns, duration_ns=duration_ns, clock=clock.kind(here)
        )
        if repeat == 0:
            calls = ESTIMATE_CALLS
        elif repeat == 1:
            calls = min(MOST_CALLS, max(1, math.ceil(case["repeat_ms"] * 1e6 * calls / max(1, duration_ns))))


def _check_product(case: Case, recorder: Recorder, fields: dict[str, Any], product: tuple[torch.Tensor, ...], mode: Mode) -> None:
    """Entries at places that the output's own digest names, and a Freivalds residual over all of it."""
    a, b, out = product
    digest = hashlib.sha256(out.contiguous().view(torch.uint8).numpy()).hexdigest()
    places = words.positions(words.seed(digest, "entries"), case["samples"], out.numel())
    values = [out.view(-1)[place].item() for place in places]
    residual = _residual(a, b, out, mode, digest)
    recorder.event("product", **fields, output_sha256=digest, places=places, values=values, residual=residual)


def _residual(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor, mode: Mode, digest: str) -> float:
    """Root mean square of A(B x) - C x for random signs x, over what it would be if products were independent and unrounded.

    R. Freivalds, "Probabilistic machines can use less running time", 1977: O(n^2) work, float64 on the host.
    """
    signs = (words.stream(words.seed(digest, "signs"), out.shape[1]) >> 31).double() * 2 - 1
    unit = 1.0 if mode.dtype == torch.int8 else 2.0 ** (1 - mode.bits)
    inner = _rowwise(b, lambda rows, at: rows.double().t() @ signs[at], torch.zeros(b.shape[1], dtype=torch.float64))
    error, squares = 0.0, 0.0
    for begin in range(0, out.shape[0], ROWS):
        rows = a[begin : begin + ROWS].double()
        error += float(((rows @ inner) * unit**2 - out[begin : begin + ROWS].double() @ signs).square().sum())
        squares += float(rows.square().sum())
    scale = squares / a.numel() * _rowwise(b, lambda rows, _: rows.double().square().sum(), torch.zeros((), dtype=torch.float64))
    return math.sqrt(error / out.shape[0]) / (unit**2 * math.sqrt(float(scale)))


def _rowwise(matrix: torch.Tensor, act: Callable[[torch.Tensor, slice], torch.Tensor], total: torch.Tensor) -> torch.Tensor:
    for begin in range(0, matrix.shape[0], ROWS):
        total = total + act(matrix[begin : begin + ROWS], slice(begin, begin + ROWS))
    return total


def _copies(case: Case, recorder: Recorder, here: torch.device, name: str) -> None:
    count = case["copy_bytes"] // 4
    pattern = (words.stream(words.seed(case["seed"], "copy"), PATTERN) >> PATTERN_SHIFT).float()
    source = pattern.repeat(-(-count // PATTERN))[:count]
    target, act = COPIES[name](source, here)
    _series(case, recorder, here, "copy", {"kind": name, "size_bytes": count * 4}, act)
    places = words.positions(words.seed(case["seed"], name), case["samples"], count)
    recorder.event("copied", kind=name, size_bytes=count * 4, places=places, values=[int(target[place].item()) for place in places])


Copy = tuple[torch.Tensor, Callable[[], Any]]


def _host_to_device(source: torch.Tensor, here: torch.device) -> Copy:
    pinned, target = _pinned(source, here), torch.zeros_like(source, device=here)
    return target, lambda: target.copy_(pinned, non_blocking=True)


def _device_to_host(source: torch.Tensor, here: torch.device) -> Copy:
    target, on_card = _pinned(torch.zeros_like(source), here), source.to(here)
    return target, lambda: target.copy_(on_card, non_blocking=True)


def _pinned(host: torch.Tensor, here: torch.device) -> torch.Tensor:
    if here.type == "cpu":
        raise NotImplementedError("the device is the host: there is no link between them")
    return host.pin_memory()


def _on_card(source: torch.Tensor, here: torch.device) -> Copy:
    on_card, target = source.to(here), torch.zeros_like(source, device=here)
    return target, lambda: target.copy_(on_card)


def _stream(source: torch.Tensor, here: torch.device) -> Copy:
    """Reads two buffers and writes a third."""
    first, second, target = source.to(here), source.to(here, copy=True), torch.zeros_like(source, device=here)
    return target, lambda: torch.add(first, second, out=target)


def _card_to_card(source: torch.Tensor, here: torch.device) -> Copy:
    """Both ways at once between the first two cards. A copy runs on the current stream of the card it comes from and waits for
    that of the card it goes to, so the way back needs streams of its own on both; they are joined with the timed one.
    """
    there = device.neighbour(here)
    module = torch.get_device_module(here)
    out, back = (source.to(here), torch.zeros_like(source, device=there)), (source.to(there), torch.zeros_like(source, device=here))
    near, far = module.Stream(device=here), module.Stream(device=there)

    def both() -> None:
        near.wait_stream(module.current_stream(here))
        with module.stream(far), module.stream(near):
            back[1].copy_(back[0], non_blocking=True)
        out[1].copy_(out[0], non_blocking=True)
        module.current_stream(here).wait_stream(near)

    return out[1], both


COPIES: dict[str, Callable[[torch.Tensor, torch.device], Copy]] = {
    "host_to_device": _host_to_device,
    "device_to_host": _device_to_host,
    "on_card": _on_card,
    "stream": _stream,
    "card_to_card": _card_to_card,
}
