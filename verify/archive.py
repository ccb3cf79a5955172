"""Packed runs: `RUN.tar.zst`, one zstd frame around a ustar archive of regular files, read without trusting a byte of it.

Every header must be exactly what `member` writes for its path and size, so that there is nothing to interpret: no link,
device, folder, sparse file, extension or second way of writing a number. What is written to disk lies in a temporary folder,
and only once path, order and all caps were checked.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import zstandard

from verify.files import FILE
from verify.findings import Refused, Unchecked
from verify.tree import MAX_LEVELS, SEGMENT

SUFFIX = ".tar.zst"
BLOCK = 512
END = bytes(2 * BLOCK)
SHORT_PATH = 100  # bytes of the name field: longer paths stand in an extended header
MAX_PATH_BYTES = 4000
MAX_FILES = 1_000_000
MAX_FILE_BYTES = 64 * 2**30
MAX_TOTAL_BYTES = 256 * 2**30  # twice the 100 GB that the longest planned run is thought to leave
MAX_RATIO = 500  # event logs reach about 10, logs of a stuck worker that repeats one line some 300
RATIO_FROM_BYTES = 64 * 2**20  # below that, a ratio tells nothing
MAX_WINDOW_BYTES = 2**23
FEED_BYTES = 1024  # a block of 4 bytes can make 128 KiB: no more than 32 MiB come out of one feed
CHUNK_BYTES = 2**20
SPACE_LEFT_BYTES = 2**30  # free space that unpacking leaves on the disk
_OCTAL = re.compile(rb"[0-7]{11}\0")
_RECORD = re.compile(rb"([1-9][0-9]{0,3}) path=([!-~]{1,4000})\n")


def _header(name: bytes, size: int, kind: bytes) -> bytes:
    """A POSIX ustar header (IEEE Std 1003.1-2017, pax): mode 0644, owner 0, time 0."""
    fields = name.ljust(100, b"\0") + b"0000644\0" + 2 * b"0000000\0" + b"%011o\0" % size + b"%011o\0" % 0
    rest = kind + bytes(100) + b"ustar\x0000" + bytes(64) + 2 * b"0000000\0" + bytes(155 + 12)
    return fields + b"%06o\0 " % sum(fields + b" " * 8 + rest) + rest


def padding(size: int) -> bytes:
    """Zeros up to the next block."""
    return bytes(-size % BLOCK)


def member(path: str, size: int) -> bytes:
    """Everything that stands before a file's bytes: its header, and for a long path an extended header before it."""
    name = path.encode("ascii")
    if len(name) <= SHORT_PATH:
        return _header(name, size, b"0")
    record = b" path=" + name + b"\n"
    length = len(record) + 1
    while length != len(b"%d" % length + record):
        length = len(b"%d" % length + record)
    body = b"%d" % length + record
    return _header(b"pax/path", len(body), b"x") + body + padding(len(body)) + _header(name[-SHORT_PATH:], size, b"0")


class _Stream:
    """The bytes inside the zstd frame, read forward only."""

    def __init__(self, file: int, where: str) -> None:
        self.where = where
        self._file = file
        self._inflate = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).decompressobj()
        self._ready = bytearray()
        self.packed = self.unpacked = 0

    def _feed(self) -> bool:
        """Inflate a little more; False at the end of the frame."""
        if self._inflate.eof:
            return False
        data = os.read(self._file, FEED_BYTES)
        if not data:
            raise Refused("archive.truncated", self.where, "a whole zstd frame", f"an end after {self.packed} bytes")
        try:
            made = self._inflate.decompress(data)
        except zstandard.ZstdError as bad:
            expected = f"one zstd frame with a window of at most {MAX_WINDOW_BYTES} bytes"
            raise Refused("archive.zstd", self.where, expected, str(bad)) from None
        self.packed += len(data)
        self.unpacked += len(made)
        if self.unpacked > max(RATIO_FROM_BYTES, MAX_RATIO * self.packed):
            raise Refused("archive.ratio", self.where, f"at most {MAX_RATIO} bytes out of one", f"{self.unpacked} out of {self.packed}")
        self._ready += made
        return True

    def some(self, size: int) -> bytes:
        """Between one byte and `size` bytes; Refused at the end."""
        while not self._ready:
            if not self._feed():
                raise Refused("archive.truncated", self.where, "a whole tar archive", f"an end after {self.unpacked} bytes of it")
        data = bytes(self._ready[:size])
        del self._ready[:size]
        return data

    def exactly(self, size: int) -> bytes:
        """The next `size` bytes."""
        data = b""
        while len(data) < size:
            data += self.some(size - len(data))
        return data

    def finish(self) -> None:
        """Refused where anything follows, inside the frame or behind it."""
        while not self._ready and self._feed():
            pass
        if self._ready or self._inflate.unused_data or os.read(self._file, 1):
            raise Refused("archive.trailing", self.where, "nothing after the end of the archive", "more bytes")


def _size(header: bytes, where: str) -> int:
    field = header[124:136]
    if _OCTAL.fullmatch(field) is None:
        raise Refused("archive.header", where, "a size of eleven octal digits", field)
    return int(field[:11], 8)


def _kind(header: bytes, where: str) -> bytes:
    if header[156:157] not in {b"0", b"x"}:
        raise Refused("archive.type", where, "regular files only", f"type {header[156:157]!r}, {header[:100].rstrip(bytes(1))!r}")
    return header[156:157]


def _member(stream: _Stream, header: bytes) -> tuple[str, int]:
    """Path and size of the member that `header` begins, or Refused."""
    found, name = header, header[:100].rstrip(b"\0")
    if _kind(header, stream.where) == b"x":
        length = _size(header, stream.where)
        if length > MAX_PATH_BYTES + 16:
            raise Refused("archive.header", stream.where, "an extended header that holds a path", f"one of {length} bytes")
        body = stream.exactly(length + len(padding(length)))
        record = _RECORD.fullmatch(body[:length])
        if record is None:
            raise Refused("archive.header", stream.where, "an extended header with a path alone", body[:length])
        header, name = stream.exactly(BLOCK), record[2]
        found += body + header
        if _kind(header, stream.where) != b"0":
            raise Refused("archive.header", stream.where, "a file after its extended header", "another header")
    path, size = _path(name, stream.where), _size(header, stream.where)
    if member(path, size) != found:
        raise Refused("archive.header", f"{stream.where}: {path}", "the header that kit pack writes", "another one")
    return path, size


def _path(name: bytes, where: str) -> str:
    path = name.decode("ascii", "replace")
    parts = path.split("/")
    if len(parts) < 2 or len(parts) > MAX_LEVELS + 2 or not all(SEGMENT.fullmatch(part) for part in parts):
        raise Refused("archive.path", where, f"RUN/ and names of letters, digits and ._+=@-, at most {MAX_LEVELS} levels deep", name)
    return path


class _Caps:
    """What was seen so far, and what may still come."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.top = ""
        self._last: list[str] = []
        self._folded: set[str] = set()
        self._files = self._bytes = 0

    def check(self, path: str, size: int) -> None:
        """Refused where a member breaks a rule about all members together."""
        where, parts = f"{self.where}: {path}", path.split("/")
        self.top = self.top or parts[0]
        self._files, self._bytes = self._files + 1, self._bytes + size
        if parts[0] != self.top:
            raise Refused("archive.top", where, f"one folder at the top: {self.top}", parts[0])
        if parts <= self._last:
            raise Refused("archive.order", where, f"paths in order, each once: something after {'/'.join(self._last)}", path)
        if path.lower() in self._folded:
            raise Refused("archive.twin", where, "paths that differ by more than case", path)
        if size > MAX_FILE_BYTES:
            raise Refused("archive.file_size", where, f"at most {MAX_FILE_BYTES} bytes", size)
        if self._bytes > MAX_TOTAL_BYTES:
            raise Refused("archive.total_size", where, f"at most {MAX_TOTAL_BYTES} bytes in all", self._bytes)
        if self._files > MAX_FILES:
            raise Refused("archive.count", where, f"at most {MAX_FILES} files", self._files)
        self._last = parts
        self._folded.add(path.lower())


def extract(archive: Path, folder: Path) -> Path:
    """Unpack into an empty folder of one's own; returns the run in it, or Refused."""
    try:
        handle = os.open(archive, FILE & ~os.O_NOFOLLOW)
    except OSError as fault:
        raise Unchecked("packed run cannot be read", where=str(archive), why=fault.strerror or "") from None
    try:
        return _extract(_Stream(handle, archive.name), folder)
    finally:
        os.close(handle)


def _extract(stream: _Stream, folder: Path) -> Path:
    caps = _Caps(stream.where)
    while (header := stream.exactly(BLOCK)) != bytes(BLOCK):
        path, size = _member(stream, header)
        caps.check(path, size)
        _check_space(folder, size)
        _write(stream, folder / path, size)
        if stream.exactly(len(padding(size))) != padding(size):
            raise Refused("archive.header", f"{stream.where}: {path}", "zeros up to the next header", "something else")
    if stream.exactly(BLOCK) != bytes(BLOCK):
        raise Refused("archive.header", stream.where, "two blocks of zeros at the end", "one")
    stream.finish()
    if not caps.top:
        raise Refused("archive.top", stream.where, "one folder at the top", "no file at all")
    return folder / caps.top


def _check_space(folder: Path, size: int) -> None:
    status = os.statvfs(folder)
    if size + SPACE_LEFT_BYTES > status.f_bavail * status.f_frsize:
        why = f"{size} bytes are to be written"
        raise Unchecked("no space to unpack", where=str(folder), why=why, next_step="set TMPDIR to a larger disk")


def _write(stream: _Stream, path: Path, size: int) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except (FileExistsError, NotADirectoryError):
        raise Refused("archive.order", f"{stream.where}: {path.name}", "a path that is a file or a folder", "one that is both") from None
    with os.fdopen(handle, "wb") as file:
        while size:
            data = stream.some(min(size, CHUNK_BYTES))
            file.write(data)
            size -= len(data)


@contextlib.contextmanager
def unpacked(archive: Path) -> Iterator[Path]:
    """The run of an archive in a temporary folder, which is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="chipassay-") as folder:
        yield extract(archive, Path(folder))
