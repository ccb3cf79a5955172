"""The place that checkpoints lie in: which file system and device, what of a file is in the page cache, and how fast the disk is raw."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .direct import BLOCK_BYTES

DROP = "/proc/sys/vm/drop_caches"
SOURCE_BLOCKS = 64  # 128 MiB, more than most processors' caches hold
ALLOWED = "CHIPASSAY_DROP_CACHES"  # dropping all caches of a host disturbs everybody on it: only where its owner says so


def facts(folder: Path) -> dict[str, Any]:
    """File system, device, its model, whether it rotates, bytes in all and free; no path of the host."""
    status, numbers = os.statvfs(folder), folder.stat().st_dev
    kind, device = _mount(f"{os.major(numbers)}:{os.minor(numbers)}", folder)
    disk = _disk(numbers)
    return {
        "file_system": kind,
        "device": device,
        "device_model": _word(disk / "device/model") if disk else None,
        "rotational": {"0": False, "1": True}.get(_word(disk / "queue/rotational") or "") if disk else None,
        "size_bytes": status.f_frsize * status.f_blocks,
        "free_bytes": status.f_frsize * status.f_bavail,
    }


def _mount(number: str, folder: Path) -> tuple[str, str]:
    """(type, device name) of the mount that holds the folder: the longest mount point above it, of the same device where one has it."""
    best = ("unknown", "unknown", -1)
    place = os.path.realpath(folder)
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        fields, _, rest = line.partition(" - ")
        point, own = fields.split()[4], fields.split()[2] == number
        if place == point or place.startswith(point.rstrip("/") + "/"):
            kind, source = rest.split()[:2]
            best = max(best, (kind, source, len(point) + (10**6 if own else 0)), key=lambda found: found[2])
    return best[0], Path(best[1]).name


def _disk(numbers: int) -> Path | None:
    """The whole disk in /sys behind a device number; of a partition, what it is a part of."""
    here = Path(f"/sys/dev/block/{os.major(numbers)}:{os.minor(numbers)}")
    if not here.exists():
        return None
    here = here.resolve()
    return here.parent if (here / "partition").exists() else here


def _word(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None


def files(folder: Path) -> list[Path]:
    """Every file of a checkpoint."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def drop(paths: Iterable[Path]) -> str:
    """Let the page cache forget these files, which must be on the disk; the way it was done."""
    if os.environ.get(ALLOWED) == "1" and os.access(DROP, os.W_OK):
        Path(DROP).write_text("1", encoding="ascii")
        return "drop_caches"
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)
    return "fadvise"


def warm(paths: Iterable[Path]) -> str:
    """Read these files once into the page cache."""
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.read(BLOCK_BYTES):
                pass
    return "read"


def resident_bytes(paths: Iterable[Path]) -> int:
    """Bytes of these files that are in the page cache, by mincore(2)."""
    return sum(_resident(path) for path in paths)


def _resident(path: Path) -> int:
    size, page = path.stat().st_size, mmap.PAGESIZE
    if not size:
        return 0
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
    handle = os.open(path, os.O_RDONLY)
    try:
        address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, handle, 0)
    finally:
        os.close(handle)
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap")
    seen = ctypes.create_string_buffer(-(-size // page))
    try:
        if libc.mincore(address, size, seen):
            raise OSError(ctypes.get_errno(), "mincore")
    finally:
        libc.munmap(address, size)
    return min(size, page * sum(byte & 1 for byte in seen.raw[: -(-size // page)]))


class Raw:
    """A file of `size_bytes` written and read past the page cache in aligned blocks, `streams` at a time: the disk's own pace."""

    def __init__(self, folder: Path, size_bytes: int, streams: int) -> None:
        self.path, self.streams = folder / "raw-ceiling", streams
        self.size_bytes = max(BLOCK_BYTES, size_bytes // BLOCK_BYTES * BLOCK_BYTES)
        self.direct = True
        self.blocks = _blocks(min(SOURCE_BLOCKS, self.size_bytes // BLOCK_BYTES))  # made here: drawing them is no part of the pace

    def _open(self, flags: int) -> int:
        if self.direct:
            try:
                return os.open(self.path, flags | os.O_DIRECT, 0o600)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self.direct = False
        return os.open(self.path, flags, 0o600)

    def write(self) -> None:
        """Write the file anew and bring it to the disk.

        Bytes are random and no block is like its neighbours, so that nothing on the way can shorten them; few processors' caches hold
        all blocks, as they hold no state to be saved.
        """
        self.path.unlink(missing_ok=True)
        handle = self._open(os.O_WRONLY | os.O_CREAT)
        try:
            os.posix_fallocate(handle, 0, self.size_bytes)
            self._each(lambda begin: _whole(os.pwrite(handle, self.blocks[begin // BLOCK_BYTES % len(self.blocks)], begin)))
            os.fsync(handle)
        finally:
            os.close(handle)

    def read(self) -> None:
        """Read the file through."""
        handle = self._open(os.O_RDONLY)
        buffers = [mmap.mmap(-1, BLOCK_BYTES) for _ in range(self.streams)]
        try:
            self._each(lambda begin: _whole(os.preadv(handle, [buffers[begin // BLOCK_BYTES % self.streams]], begin)))
        finally:
            os.close(handle)

    def _each(self, act: Any) -> None:
        with ThreadPoolExecutor(self.streams) as pool:
            for done in [pool.submit(act, begin) for begin in range(0, self.size_bytes, BLOCK_BYTES)]:
                done.result()

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def _blocks(count: int) -> list[mmap.mmap]:
    """Aligned blocks of random bytes, no two alike."""
    made = [mmap.mmap(-1, BLOCK_BYTES) for _ in range(count)]
    for block in made:
        block.write(os.urandom(BLOCK_BYTES))
    return made


def _whole(count: int) -> None:
    if count != BLOCK_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
