"""RFC 6962 Merkle tree over log lines: the root in O(log n) memory.

Leaf = SHA-256(0x00 || line), node = SHA-256(0x01 || left || right).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence


def leaf_hash(data: bytes) -> bytes:
    """Hash of one leaf, 32 bytes."""
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
        self.add_hash(leaf_hash(leaf))

    def add_hash(self, digest: bytes) -> None:
        """Append one leaf, given as its hash."""
        height = 0
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


def _root_of_hashes(hashes: Sequence[bytes]) -> bytes:
    tree = Frontier()
    for digest in hashes:
        tree.add_hash(digest)
    return tree.root()


def consistency_proof(hashes: Sequence[bytes], old: int) -> list[bytes]:
    """RFC 6962 section 2.1.2: that the tree over these leaf hashes begins with its first `old` leaves; 0 < old <= len(hashes)."""
    return _subproof(hashes, old, whole=True)


def _subproof(hashes: Sequence[bytes], old: int, *, whole: bool) -> list[bytes]:
    if old == len(hashes):
        return [] if whole else [_root_of_hashes(hashes)]
    split = 1 << ((len(hashes) - 1).bit_length() - 1)
    if old <= split:
        return [*_subproof(hashes[:split], old, whole=whole), _root_of_hashes(hashes[split:])]
    return [*_subproof(hashes[split:], old - split, whole=False), _root_of_hashes(hashes[:split])]


def consistent(old: tuple[int, bytes], new: tuple[int, bytes], proof: Sequence[bytes]) -> bool:
    """Whether the tree `new` (size, root) begins with the tree `old`, by RFC 9162 section 2.1.4.2; an empty tree begins any."""
    (old_size, old_root), (new_size, new_root) = old, new
    if old_size in {0, new_size}:
        return not proof and (old_size == 0 or old_root == new_root)
    if old_size > new_size:
        return False
    path = list(proof)
    if old_size & (old_size - 1) == 0:
        path.insert(0, old_root)
    if not path:
        return False
    at, last = old_size - 1, new_size - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    first = second = path[0]
    for node in path[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            first, second = _node(node, first), _node(node, second)
            while at and not at & 1:
                at, last = at >> 1, last >> 1
        else:
            second = _node(second, node)
        at, last = at >> 1, last >> 1
    return (first, second, last) == (old_root, new_root, 0)
