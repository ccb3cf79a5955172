"""Files of torch.save, whose tensors are written and read in aligned blocks past the page cache.

torch.save copies one tensor to the host, then writes it, then takes the next; torch.load the other way round: device, processor and disk
wait for each other. Here torch only lays the file out (`torch.serialization.skip_data`), and `direct` moves what the tensors hold.
The file is the one that torch.save writes into an open file, save that CRC-32 of tensors are zero; torch.load reads it as any other.
"""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any, cast

import torch

from . import direct

LOCAL_HEADER = struct.Struct("<26xHH")  # of an entry of a zip archive: ends with the lengths of its name and of its extra field
SIGNATURE = b"PK\3\4"  # that it begins with
PROBE_BYTES = 65536  # more than the rest of such a file
ENTRY = "/data/"  # of a tensor, followed by its number
FAULTS = (  # what zipfile and pickle make of changed bytes: zipfile calls a method of compressing that it has not NotImplementedError
    ValueError, LookupError, ArithmeticError, TypeError, AttributeError, ImportError, AssertionError, NotImplementedError,
    EOFError, pickle.UnpicklingError, struct.error, zipfile.BadZipFile,
)  # fmt: skip


class Damaged(Exception):
    """A file that does not hold what its own list of contents says."""


class _Outline(io.RawIOBase):
    """A file that keeps what is written with the place of it; what is jumped over is left out."""

    def __init__(self) -> None:
        self.place = 0
        self.kept: list[tuple[int, bytes]] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.kept.append((self.place, bytes(data)))
        self.place += len(self.kept[-1][1])
        return len(self.kept[-1][1])

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_END:
            raise io.UnsupportedOperation("the end is not known yet")
        self.place = offset + (self.place if whence == os.SEEK_CUR else 0)
        return self.place

    def tell(self) -> int:
        return self.place


class _Storages(pickle.Pickler):
    """Every storage below an object, in the order in which torch.save numbers them: the first time that pickling meets it.

    A file need not hold them in that order: older torch sorts the numbers as words, 10 before 2.
    """

    def __init__(self, value: object) -> None:
        super().__init__(io.BytesIO(), protocol=2)
        self.found: dict[int, torch.UntypedStorage] = {}
        self.dump(value)

    def persistent_id(self, value: Any) -> object:
        storage = value._untyped_storage if isinstance(value, torch.storage.TypedStorage) else value
        if not isinstance(storage, torch.UntypedStorage):
            return None
        return str(self.found.setdefault(storage._cdata, storage)._cdata)


def _bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(cast(Any, storage))


def _outline(value: object) -> _Outline:
    outline = _Outline()
    with torch.serialization.skip_data():
        torch.save(value, outline)
    return outline


def supported(device: torch.device) -> bool:
    """Whether this torch leaves room for tensors of a device; libraries of some chips bring a torch.save of their own, which may not."""
    try:
        return sum(len(data) for _, data in _outline(torch.zeros(PROBE_BYTES, dtype=torch.uint8, device=device)).kept) < PROBE_BYTES
    except (AttributeError, RuntimeError):
        return False


def save(value: object, path: Path, streams: int) -> int:
    """Write what torch.save(value, ...) writes and bring it to the disk; its size in bytes. FileExistsError where there is a file."""
    outline = _outline(value)
    storages = list(_Storages(value).found.values())
    left = {number for number, storage in enumerate(storages) if storage.nbytes()}
    parts: list[torch.Tensor] = []
    head, place = b"", 0
    for begin, data in outline.kept:
        if begin != place:
            number = _number(head)
            if number not in left or storages[number].nbytes() != begin - place:
                raise AssertionError(f"torch.save left room for {begin - place} bytes where tensor {number} is not of that size")
            left.remove(number)
            parts.append(_bytes(storages[number]))
            head = b""
        parts.append(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        head, place = head + data, begin + len(data)
    if left:
        raise AssertionError(f"torch.save left no room for {len(left)} tensors")
    return direct.write(path, parts, streams)


def _number(head: bytes) -> int:
    """Number of the tensor that follows: the last thing before it is the local header of its entry."""
    begin = head.rindex(SIGNATURE)
    name_bytes, _ = LOCAL_HEADER.unpack_from(head, begin)
    name = head[begin + LOCAL_HEADER.size :][:name_bytes].decode()
    return int(name.rpartition(ENTRY)[2])


def load(path: Path, streams: int, *, past_cache: bool, device: torch.device) -> Any:
    """What torch.load(path, weights_only=False) gives; Damaged where the file is not whole.

    What was on the host when it was saved is on the host again, all else on `device`: torch.OutOfMemoryError where that has no room for it.
    The file must be one that we wrote: it is unpickled. CRC-32 is looked at but for tensors, which have none.
    """
    entries = _entries(path)
    storages: list[torch.UntypedStorage] = []

    def placed(storage: torch.UntypedStorage, location: str) -> torch.UntypedStorage:
        if location != "cpu" and device.type != "cpu":
            storage = torch.UntypedStorage(storage.nbytes(), device=device)
        if storage.nbytes():
            storages.append(storage)
        return storage

    try:
        with torch.serialization.skip_data():
            value = torch.load(path, map_location=placed, weights_only=False)
    except FAULTS as error:
        raise Damaged(f"{type(error).__name__}: {error}") from None
    if [size for _, size in entries] != [storage.nbytes() for storage in storages]:
        raise Damaged("its tensors are not those that its list of contents names")
    parts: list[torch.Tensor] = []
    place = 0
    for (begin, size), storage in sorted(zip(entries, storages, strict=True), key=lambda pair: pair[0]):
        if begin < place:
            raise Damaged("two of its tensors lie in one place")
        parts += [torch.empty(begin - place, dtype=torch.uint8), _bytes(storage)]
        place = begin + size
    try:
        direct.read(path, parts, streams, direct=past_cache)
    except EOFError as error:
        raise Damaged(str(error)) from None
    return value


def _entries(path: Path) -> list[tuple[int, int]]:
    """(offset, bytes) of every tensor that is not empty, by its number; Damaged where anything else is not as its CRC-32 says."""
    found = []
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            for entry in archive.infolist():
                _, is_data, number = entry.filename.partition(ENTRY)
                if not is_data:
                    archive.read(entry)
                elif entry.file_size:
                    file.seek(entry.header_offset)
                    lengths = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
                    found.append((int(number), entry.header_offset + LOCAL_HEADER.size + sum(lengths), entry.file_size))
    except (*FAULTS, MemoryError) as error:  # entries are small: none is that large but by a length that was changed
        raise Damaged(str(error) or type(error).__name__) from None
    return [(offset, size) for _, offset, size in sorted(found)]
