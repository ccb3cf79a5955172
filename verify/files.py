"""Reads evidence: regular files only, never through a link, each file once, hashed as it is read.

What was scored is thereby known to be what was hashed: `tree` compares `Evidence.seen` with SHA256SUMS and with what
the files were when the folders were listed.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from verify.findings import Refused, Unchecked

MAX_DOCUMENT_BYTES = 32 * 2**20
MAX_LINE_BYTES = 4 * 2**20
CHUNK_BYTES = 2**20
BLOCK_BYTES = 2**17  # lines and the events made of them fit a core's own cache (docs/design/replay.md)
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
Identity = tuple[int, ...]


def identity(status: os.stat_result) -> Identity:
    """What tells a file at rest from one that was changed or swapped."""
    return status.st_ino, status.st_dev, status.st_size, status.st_mtime_ns, status.st_ctime_ns, stat.S_IFMT(status.st_mode)


def open_beneath(top: Path, path: str) -> int:
    """A descriptor of the regular file `path` below `top`, no step of it a link; or Refused."""
    *folders, name = path.split("/")
    handle = _top(top)
    try:
        for folder in folders:
            below = os.open(folder, FOLDER, dir_fd=handle)
            os.close(handle)
            handle = below
        file = os.open(name, FILE, dir_fd=handle)
    except FileNotFoundError:
        raise Refused("file.missing", path, "a file", "none") from None
    except PermissionError as fault:
        raise Unchecked("file cannot be read", where=path, why=str(fault.strerror), next_step="check its mode") from None
    except OSError as fault:
        raise Refused("file.type", path, "a regular file in plain folders", fault.strerror) from None
    finally:
        os.close(handle)
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        os.close(file)
        raise Refused("file.type", path, "a regular file", "another kind")
    if status.st_nlink != 1:
        os.close(file)
        raise Refused("file.link", path, "one link", f"{status.st_nlink} links")
    return file


def _top(top: Path) -> int:
    try:
        return os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise Refused("file.missing", top.name, "a folder", "none") from None
    except NotADirectoryError:
        raise Refused("file.type", top.name, "a folder", "another kind") from None


@dataclass(frozen=True, slots=True)
class Seen:
    """A file as it was read to its end: hex SHA-256, its identity before and after, and of asked-for sizes the SHA-256 so far."""

    sha256: str
    before: Identity
    after: Identity
    prefixes: dict[int, str] = field(default_factory=dict)


class Source:
    """An open file of evidence, hashed as it is read."""

    def __init__(self, top: Path, path: str, stops: tuple[int, ...] = ()) -> None:
        self.path = path
        self._stops, self._size = sorted(stops, reverse=True), 0
        self._prefixes: dict[int, str] = {}
        self._file = os.fdopen(open_beneath(top, path), "rb", buffering=0)
        self._hash = hashlib.sha256()
        self._before = identity(os.fstat(self._file.fileno()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; none at the end."""
        data = self._file.read(size) or b""
        self._update(data)
        return data

    def blocks(self, size: int | None = None) -> Iterator[bytes]:
        """Whole lines, about `size` bytes of them at a time; Refused where a line is too long or has no newline."""
        buffer, kept = bytearray(size or BLOCK_BYTES), 0
        while got := self._fill(buffer, kept):
            end = kept + got
            cut = buffer.rfind(b"\n", kept, end) + 1
            if cut:
                yield bytes(memoryview(buffer)[:cut])
                buffer[: end - cut] = buffer[cut:end]
            kept = end - cut
            if not cut and end > MAX_LINE_BYTES:
                break
            if kept == len(buffer):
                buffer.extend(bytes(min(kept, MAX_LINE_BYTES + 1 - kept)))
        if kept:
            expected = f"lines of at most {MAX_LINE_BYTES} bytes, each with its newline"
            raise Refused("file.line", self.path, expected, "a longer or a cut one")

    def _fill(self, buffer: bytearray, kept: int) -> int:
        with memoryview(buffer) as whole, whole[kept:] as free:
            got = self._file.readinto(free) or 0
            self._update(free[:got])
        return got

    def _update(self, data: bytes | memoryview) -> None:
        """Hash on, and note the digest at each stop that is passed."""
        begin = 0
        while self._stops and self._stops[-1] <= self._size + len(data) - begin:
            cut = begin + self._stops[-1] - self._size
            self._hash.update(data[begin:cut])
            self._size, begin = self._stops[-1], cut
            self._prefixes[self._stops.pop()] = self._hash.copy().hexdigest()
        self._hash.update(data[begin:] if begin else data)
        self._size += len(data) - begin

    def end(self) -> Seen:
        """Read what is left, and say what the file was."""
        while self.read(CHUNK_BYTES):
            pass
        return Seen(self._hash.hexdigest(), self._before, identity(os.fstat(self._file.fileno())), self._prefixes)


class Evidence:
    """A folder of evidence; `seen` holds every file that was read to its end, `stops` the sizes at which to take a digest."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.seen: dict[str, Seen] = {}
        self.stops: dict[str, tuple[int, ...]] = {}

    def note(self, path: str, seen: Seen) -> None:
        """Remember what a file was; Refused where it was something else before."""
        if self.seen.setdefault(path, seen).sha256 != seen.sha256:
            raise Refused("tree.read", path, f"the bytes that were read before: {self.seen[path].sha256}", seen.sha256)

    def read(self, path: str, limit: int = MAX_DOCUMENT_BYTES) -> bytes:
        """All bytes of a file of at most `limit` bytes."""
        with Source(self.top, path) as source:
            data = b""
            while len(data) <= limit and (more := source.read(CHUNK_BYTES)):
                data += more
            if len(data) > limit:
                raise Refused("file.size", path, f"at most {limit} bytes", "more")
            self.note(path, source.end())
        return data

    def lines(self, path: str) -> Iterator[bytes]:
        """Each line without its newline; the last one must have one, too."""
        with Source(self.top, path) as source:
            for block in source.blocks():
                yield from block[:-1].split(b"\n")
            self.note(path, source.end())

    def names(self, folder: str) -> list[str]:
        """Sorted names in a folder; none where it is missing."""
        path = self.top / folder
        return sorted(os.listdir(path)) if path.is_dir() else []
