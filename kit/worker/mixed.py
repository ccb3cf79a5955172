"""Reproducible data for collectives, made on the device in 32-bit integers: no word stands where an earlier one stood.

Word i of a stream is mix(mix(i mod 2**22) + key) with a key for each stretch of 2**22 words, so that any stretch can be made by
itself and anybody can recompute one word. `verify` holds the same function over plain integers.
The mixer is Wellons' lowbias32 (hash-prospector, public domain).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch

STRETCH = 2**22
STEPS = ((16, 0x7FEB352D), (15, 0x846CA68B))
BITS = 24  # whole numbers up to here are exact in float32


def key(seed: int, rank: int, stretch: int) -> int:
    """32-bit key of a stretch of a rank's stream: the first 4 bytes, big-endian, of SHA-256 of `seed/rank/stretch`."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{rank}/{stretch}".encode()).digest()[:4], "big")


def _signed(value: int) -> int:
    """The same 32 bits as a signed integer."""
    return (value & 0xFFFFFFFF) - 2**32 if value & 0x80000000 else value & 0xFFFFFFFF


def _shifted(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Shift right without the sign."""
    return (x >> bits).bitwise_and_(2 ** (32 - bits) - 1)


def _mixed(x: torch.Tensor) -> torch.Tensor:
    for shift, factor in STEPS:
        x = x.bitwise_xor_(_shifted(x, shift)).mul_(_signed(factor))
    return x.bitwise_xor_(_shifted(x, 16))


class Streams:
    """The streams of all ranks under one seed, of numbers of `bits` bits, on one device."""

    def __init__(self, seed: int, bits: int, here: torch.device) -> None:
        self.seed, self.bits = seed, bits
        self._offsets = _mixed(torch.arange(STRETCH, dtype=torch.int32, device=here))

    def words(self, rank: int, begin: int, count: int) -> torch.Tensor:
        """`count` whole numbers of a rank's stream from place `begin`, int32; they lie within one stretch."""
        stretch, offset = divmod(begin, STRETCH)
        x = _mixed(self._offsets[offset : offset + count] + _signed(key(self.seed, rank, stretch)))
        return _shifted(x, 32 - self.bits)


def pieces(begin: int, count: int) -> Iterator[tuple[int, int]]:
    """(begin, count) of the parts of a range, none across the end of a stretch."""
    end = begin + count
    while begin < end:
        step = min(end, (begin // STRETCH + 1) * STRETCH) - begin
        yield begin, step
        begin += step
