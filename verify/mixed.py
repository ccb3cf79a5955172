"""The worker's data of collectives, word by word: mix(mix(i mod 2**22) + key), a key for each stretch of 2**22 words.

The mixer is Wellons' lowbias32 (hash-prospector, public domain).
"""

from __future__ import annotations

import hashlib
from functools import cache

STRETCH = 2**22
STEPS = ((16, 0x7FEB352D), (15, 0x846CA68B))
MASK = 2**32 - 1


@cache
def key(seed: int, rank: int, stretch: int) -> int:
    """32-bit key of a stretch of a rank's stream: the first 4 bytes, big-endian, of SHA-256 of `seed/rank/stretch`."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{rank}/{stretch}".encode()).digest()[:4], "big")


def _mixed(x: int) -> int:
    for shift, factor in STEPS:
        x = ((x ^ (x >> shift)) * factor) & MASK
    return x ^ (x >> 16)


def word(seed: int, rank: int, index: int, bits: int) -> int:
    """Word `index` of a rank's stream, a whole number of `bits` bits."""
    stretch, offset = divmod(index, STRETCH)
    return _mixed((_mixed(offset) + key(seed, rank, stretch)) & MASK) >> (32 - bits)
