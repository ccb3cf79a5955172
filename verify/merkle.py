"""RFC 6962 Merkle tree over log lines: the root in O(log n) memory.

Leaf = SHA-256(0x00 || line), node = SHA-256(0x01 || left || right).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def _leaf(data: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + data).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


class Frontier:
    """A growing tree, held as the roots of its complete subtrees."""

    def __init__(self) -> None:
        self.size = 0
        self._peaks: list[tuple[int, bytes]] = []

    def add(self, leaf: bytes) -> None:
        """Append one leaf, given as its bytes before hashing."""
        digest, height = _leaf(leaf), 0
        while self._peaks and self._peaks[-1][0] == height:
            digest = _node(self._peaks.pop()[1], digest)
            height += 1
        self._peaks.append((height, digest))
        self.size += 1

    def root(self) -> bytes:
        """Root hash, 32 bytes; of no leaves, SHA-256 of nothing."""
        if not self._peaks:
            return hashlib.sha256(b"").digest()
        digest = self._peaks[-1][1]
        for _, peak in reversed(self._peaks[:-1]):
            digest = _node(peak, digest)
        return digest


def root_of(leaves: Iterable[bytes]) -> bytes:
    """Root over all leaves, 32 bytes."""
    tree = Frontier()
    for leaf in leaves:
        tree.add(leaf)
    return tree.root()
