"""Moves bytes between tensors and a file in aligned blocks, several at a time, past the page cache where the file system lets us.

A block goes through a staging buffer of this host, which is pinned where the tensors are on a device. Whatever is written is on
the disk when `write` returns.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from bisect import bisect_right
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import torch

BLOCK_BYTES = 2 * 2**20  # eight of them stay in a processor's cache between copy and disk; of 16 MiB they did not
ALIGN_BYTES = 4096  # of offsets, lengths and addresses that go past the page cache


class Staging:
    """One aligned buffer of a block: a tensor of bytes, and the same memory as the system takes it."""

    def __init__(self, *, pinned: bool) -> None:
        if pinned:
            self.tensor = torch.empty(BLOCK_BYTES, dtype=torch.uint8, pin_memory=True)
        else:
            self._memory = mmap.mmap(-1, BLOCK_BYTES)
            self.tensor = torch.frombuffer(self._memory, dtype=torch.uint8)
        self.bytes = memoryview((ctypes.c_char * BLOCK_BYTES).from_address(self.tensor.data_ptr())).cast("B")


def flat(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor's own memory as bytes; ValueError where it does not lie in one piece."""
    if not tensor.is_contiguous():
        raise ValueError("a tensor of a checkpoint must be contiguous")
    return tensor.detach().reshape(-1).view(torch.uint8)


@dataclass(frozen=True, slots=True)
class Pieces:
    """Tensors of bytes laid one behind the other, from the file's first byte on."""

    parts: list[torch.Tensor]
    begins: list[int]
    size_bytes: int

    @classmethod
    def of(cls, parts: Iterable[torch.Tensor]) -> Pieces:
        """Lay out the parts, empty ones left out."""
        kept, begins, end = [part for part in parts if part.numel()], [], 0
        for part in kept:
            begins.append(end)
            end += part.numel()
        return cls(kept, begins, end)

    def move(self, staging: torch.Tensor, begin: int, end: int, *, into: bool) -> None:
        """Copy the bytes from `begin` to `end` of the file between the pieces and the start of `staging`."""
        index = bisect_right(self.begins, begin) - 1
        while begin < end:
            part, first = self.parts[index], begin - self.begins[index]
            count = min(end - begin, part.numel() - first)
            own, theirs = part[first : first + count], staging[:count]
            (own if into else theirs).copy_(theirs if into else own)
            staging, begin, index = staging[count:], begin + count, index + 1


def _open(path: Path, flags: int, *, direct: bool) -> int:
    """Past the page cache where that is asked for and the file system has it."""
    if direct:
        try:
            return os.open(path, flags | os.O_DIRECT, 0o644)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
    return os.open(path, flags, 0o644)


def _each_block(size_bytes: int, streams: int, pieces: Pieces, act: object) -> None:
    """Call act(staging, begin, end) for every block, `streams` at a time, begun in order; the first error ends it."""
    pinned = any(part.device.type != "cpu" for part in pieces.parts)
    free: SimpleQueue[Staging] = SimpleQueue()
    for _ in range(streams):
        free.put(Staging(pinned=pinned))

    def one(begin: int) -> None:
        staging = free.get()
        try:
            act(staging, begin, min(begin + BLOCK_BYTES, size_bytes))  # type: ignore[operator]
        finally:
            free.put(staging)

    with ThreadPoolExecutor(streams) as pool:
        waiting = [pool.submit(one, begin) for begin in range(0, size_bytes, BLOCK_BYTES)]
        try:
            for future in waiting:
                future.result()
        finally:
            for future in waiting:
                future.cancel()


def write(path: Path, parts: Iterable[torch.Tensor], streams: int) -> int:
    """Write byte tensors one behind the other into a new file and bring it to the disk; its size in bytes."""
    pieces = Pieces.of(parts)
    handle = _open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, direct=True)
    try:
        if pieces.size_bytes:
            os.posix_fallocate(handle, 0, _up(pieces.size_bytes))  # writers then need not wait for each other, nor for space

        def put(staging: Staging, begin: int, end: int) -> None:
            pieces.move(staging.tensor, begin, end, into=False)
            _all(os.pwrite, handle, staging.bytes[: _up(end - begin)], begin)

        _each_block(pieces.size_bytes, streams, pieces, put)
        os.ftruncate(handle, pieces.size_bytes)
        os.fsync(handle)
    finally:
        os.close(handle)
    return pieces.size_bytes


def read(path: Path, parts: Iterable[torch.Tensor], streams: int, *, direct: bool) -> None:
    """Fill byte tensors from a file that holds them one behind the other; EOFError where it is shorter."""
    pieces = Pieces.of(parts)
    handle = _open(path, os.O_RDONLY, direct=direct)
    try:

        def take(staging: Staging, begin: int, end: int) -> None:
            _fill(handle, staging.bytes[: _up(end - begin)], begin, end)
            pieces.move(staging.tensor, begin, end, into=True)

        _each_block(pieces.size_bytes, streams, pieces, take)
    finally:
        os.close(handle)


def _up(size_bytes: int) -> int:
    return -(-size_bytes // ALIGN_BYTES) * ALIGN_BYTES


def _all(put: object, handle: int, data: memoryview, offset: int) -> None:
    """Write all of `data`; a disk that takes less is full."""
    if put(handle, data, offset) != len(data):  # type: ignore[operator]
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _fill(handle: int, buffer: memoryview, begin: int, end: int) -> None:
    got = os.preadv(handle, [buffer], begin)
    while begin + got < end:
        more = os.preadv(handle, [buffer[got:]], begin + got) if got % ALIGN_BYTES == 0 else 0
        if not more:
            raise EOFError(f"file ends at byte {begin + got}")
        got += more
