"""Pictures that a case kept: the files that its events name, and whether their colours are what the events say.

Only what the worker's own writer makes is read: PNG, 8-bit RGB, one IDAT, no filter (ISO/IEC 15948).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from math import isqrt
from typing import NamedTuple, Protocol

from verify.files import Evidence
from verify.findings import Finding, error
from verify.quality import PARTS

SIGNATURE = b"\x89PNG\r\n\x1a\n"
FOLDER = "artifacts"
CHUNKS = (b"IHDR", b"IDAT", b"IEND")
RGB = (8, 2, 0, 0, 0)  # bits, colour type, compression, filter method, interlace
ROUNDING_MILLI = 1
PLAIN = 16  # different colours of parts, at most, in a picture that a model without a picture may give again
# The square of a byte is 256 * HIGH + LOW of it: two tables, so that bytes.translate and sum do the work.
LOW, HIGH = bytes(value**2 % 256 for value in range(256)), bytes(value**2 // 256 for value in range(256))


class Told(Protocol):
    """What an event says of a picture: colours in thousandths of a byte."""

    @property
    def file(self) -> str: ...
    @property
    def picture(self) -> int: ...
    @property
    def sha256(self) -> str: ...
    @property
    def mean_milli(self) -> list[int]: ...
    @property
    def grid_milli(self) -> list[int]: ...
    @property
    def spread_milli(self) -> list[int]: ...


class Pixels(NamedTuple):
    """A decoded picture: rows of 1 filter byte, which is 0, and 3 bytes a pixel."""

    width: int
    height: int
    rows: bytes


def decode(data: bytes, most_side: int) -> Pixels:
    """ValueError where the file is not a picture as the worker writes them, at most `most_side` pixels wide and high."""
    try:
        (head, body, tail), end = _chunks(data)
        width, height, *rest = struct.unpack(">IIBBBBB", head)
        if tuple(rest) != RGB or not 0 < width <= most_side or not 0 < height <= most_side or tail or end != len(data):
            raise ValueError
        size = height * (3 * width + 1)
        reader = zlib.decompressobj()
        rows = reader.decompress(body, size + 1)
    except (struct.error, zlib.error):
        raise ValueError from None
    if len(rows) != size or not reader.eof or reader.unused_data or any(rows[:: 3 * width + 1]):
        raise ValueError
    return Pixels(width, height, rows)


def _chunks(data: bytes) -> tuple[list[bytes], int]:
    """The bodies of the chunks of `CHUNKS`, in their order and with their checksums, and where the last one ends."""
    at, found = len(SIGNATURE), []
    if data[:at] != SIGNATURE:
        raise ValueError
    for name in CHUNKS:
        length, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + length]
        if kind != name or struct.unpack_from(">I", data, at + 8 + length)[0] != zlib.crc32(kind + body):
            raise ValueError
        found.append(body)
        at += 12 + length
    return found, at


def colours(pixels: Pixels) -> dict[str, list[int]]:
    """By the names of an event's fields: mean of the picture, mean and deviation of its 8 x 8 parts, in thousandths of a byte."""
    high, wide = pixels.height // PARTS, pixels.width // PARTS
    sums = [_sums(part) for part in _parts(pixels, high, wide)]
    count = high * wide
    return {
        "mean_milli": [_thousandths(sum(one for one, _ in sums[colour::3]), count * PARTS**2) for colour in range(3)],
        "grid_milli": [_thousandths(one, count) for one, _ in sums],
        "spread_milli": [(isqrt(4 * 10**6 * (count * square - one**2)) // count + 1) // 2 for one, square in sums],
    }


def _parts(pixels: Pixels, high: int, wide: int) -> Iterator[bytes]:
    """Red, then green, then blue of each part, parts by rows."""
    stride = 3 * pixels.width + 1
    lines = [pixels.rows[at + 1 : at + stride] for at in range(0, len(pixels.rows), stride)]
    for top in range(0, high * PARTS, high):
        planes = [[line[colour::3] for line in lines[top : top + high]] for colour in range(3)]
        for left in range(0, wide * PARTS, wide):
            yield from (b"".join(line[left : left + wide] for line in plane) for plane in planes)


def _sums(values: bytes) -> tuple[int, int]:
    """Sum of the bytes and of their squares."""
    return sum(values), sum(values.translate(LOW)) + 256 * sum(values.translate(HIGH))


def _thousandths(whole: int, parts: int) -> int:
    return (2000 * whole + parts) // (2 * parts)


def plain(told: Told) -> bool:
    """Whether its parts have few colours."""
    return len(set(told.grid_milli)) <= PLAIN


def twins(told: Sequence[Told]) -> list[tuple[int, int]]:
    """Pictures that have all colours of an earlier one; plain ones (black, where a model gives nothing else) may be alike."""
    first: dict[tuple[int, ...], int] = {}
    pairs = [(first.setdefault((*one.grid_milli, *one.spread_milli), one.picture), one.picture) for one in told if not plain(one)]
    return [(other, mine) for other, mine in pairs if other != mine]


def kept(where: str, side: int, told: Sequence[Told], evidence: Evidence, folder: str) -> Iterator[Finding]:
    """What is wrong with the pictures of `side` pixels that lie in an attempt's folder, one for each event."""
    names = [f"picture-{number}.png" for number in range(len(told))]
    if [picture.file for picture in told] != [f"{FOLDER}/{name}" for name in names]:
        yield error("text_to_image.kept", where, f"pictures in {FOLDER}/{names[0]} and so on", [picture.file for picture in told])
        return
    if (there := evidence.names(f"{folder}/{FOLDER}")) != sorted(names):
        yield error("text_to_image.kept", f"{folder}/{FOLDER}", f"{len(names)} pictures that events name, and no others", there)
        return
    for picture in told:
        yield from _one(f"{folder}/{picture.file}", side, picture, evidence)


def _one(path: str, side: int, told: Told, evidence: Evidence) -> Iterator[Finding]:
    data = evidence.read(path, _most_bytes(side))
    if evidence.seen[path].sha256 != told.sha256:
        yield error("text_to_image.kept", path, f"the digest that its event says: {told.sha256}", evidence.seen[path].sha256)
        return
    try:
        pixels = decode(data, side)
    except ValueError:
        yield error("text_to_image.pixels", path, "a PNG picture of the case's side, as the suite writes them", "another file")
        return
    if pixels[:2] != (side, side):
        yield error("text_to_image.pixels", path, f"{side} x {side} pixels", f"{pixels.width} x {pixels.height}")
        return
    for name, values in colours(pixels).items():
        said: list[int] = getattr(told, name)
        far = [place for place, value in enumerate(values) if abs(said[place] - value) > ROUNDING_MILLI]
        if far:
            expected, found = values[far[0]], f"{said[far[0]]}; {len(far)} of {len(values)} differ"
            yield error("text_to_image.pixels", path, f"{name}[{far[0]}] = {expected}, as its pixels are", found)


def _most_bytes(side: int) -> int:
    """More than deflate makes of rows that it cannot make smaller: 5 bytes for every 16 KiB, and the chunks' own."""
    return side * (3 * side + 1) * 1001 // 1000 + 2**12
