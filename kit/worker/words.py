"""Reproducible data that anybody can recompute element by element: splitmix64 over (seed, index), upper 32 bits.

`verify` holds the same function over plain integers, so that a sampled entry of a product can be checked without torch.
Constants: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014 (as in java.util.SplittableRandom).
"""

from __future__ import annotations

import hashlib

import torch

GOLDEN = 0x9E3779B97F4A7C15
MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
CHUNK = 2**22
MASK = 2**64 - 1


def seed(*parts: object) -> int:
    """64-bit seed of a named stream: the first 8 bytes, big-endian, of SHA-256 of the parts joined by `/`."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "big")


def stream(start: int, count: int) -> torch.Tensor:
    """The first `count` words (0 to 2**32 - 1) of a stream, as int64 on the host."""
    words = torch.empty(count, dtype=torch.int64)
    for begin in range(0, count, CHUNK):
        index = torch.arange(begin + 1, min(begin + CHUNK, count) + 1)
        words[begin : begin + CHUNK] = _mixed(index.mul_(_signed(GOLDEN)).add_(_signed(start)))
    return words


def _mixed(z: torch.Tensor) -> torch.Tensor:
    for shift, factor in MIX:
        z = z.bitwise_xor_(_shifted(z, shift)).mul_(_signed(factor))
    return _shifted(z.bitwise_xor_(_shifted(z, 31)), 32)


def _signed(value: int) -> int:
    """The same 64 bits as a signed integer."""
    value &= MASK
    return value - 2**64 if value >= 2**63 else value


def _shifted(z: torch.Tensor, bits: int) -> torch.Tensor:
    """Shift right without the sign."""
    return (z >> bits).bitwise_and_(2 ** (64 - bits) - 1)


def word(start: int, index: int) -> int:
    """One word of a stream, as `stream(start, index + 1)[index]` has it."""
    z = (start + (index + 1) * GOLDEN) & MASK
    for shift, factor in MIX:
        z = ((z ^ (z >> shift)) * factor) & MASK
    return (z ^ (z >> 31)) >> 32


def positions(start: int, samples: int, count: int) -> list[int]:
    """`samples` places below `count` that a stream names."""
    return [(word(start, index) * count) >> 32 for index in range(samples)]
