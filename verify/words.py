"""The worker's reproducible data, element by element: splitmix64 over (seed, index), upper 32 bits.

Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
"""

from __future__ import annotations

import hashlib

GOLDEN = 0x9E3779B97F4A7C15
MASK = 2**64 - 1


def seed(*parts: object) -> int:
    """64-bit seed of a named stream: the first 8 bytes, big-endian, of SHA-256 of the parts joined by `/`."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "big")


def word(start: int, index: int) -> int:
    """Word `index` (0 to 2**32 - 1) of the stream with this seed."""
    z = (start + (index + 1) * GOLDEN) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return (z ^ (z >> 31)) >> 32


def places(start: int, samples: int, count: int) -> list[int]:
    """`samples` places below `count` that a stream names."""
    return [(word(start, index) * count) >> 32 for index in range(samples)]
