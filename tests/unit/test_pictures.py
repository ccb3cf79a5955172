"""Kept pictures: only what the worker writes is read, colours are exact, and what is sealed is what events say of it."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from pathlib import Path
from random import Random

import pytest

from kit.report.pictures import png as written
from tests.adversarial import pictures as built
from tests.taught import band
from verify import pictures, replay

SMALL = built.png(bytes(range(192)), 8)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def file_of(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file of chunks with true checksums."""
    return pictures.SIGNATURE + b"".join(chunk(*one) for one in chunks)


HEAD = struct.pack(">IIBBBBB", 8, 8, *pictures.RGB)
BODY = b"".join(b"\0" + bytes(range(at, at + 24)) for at in range(0, 192, 24))


def refused(data: bytes) -> bool:
    try:
        pictures.decode(data, 64)
    except ValueError:
        return True
    return False


def test_what_the_worker_writes_is_read() -> None:
    assert pictures.decode(SMALL, 64) == (8, 8, BODY)
    assert pictures.decode(file_of((b"IHDR", HEAD), (b"IDAT", zlib.compress(BODY)), (b"IEND", b"")), 8).rows == BODY


def test_no_other_byte_is() -> None:
    assert all(refused(SMALL[:size]) for size in range(len(SMALL)))
    assert all(refused(SMALL[:at] + bytes([SMALL[at] ^ 1 << at % 8]) + SMALL[at + 1 :]) for at in range(len(SMALL)))
    assert refused(SMALL + b"\0")


@pytest.mark.parametrize(
    "chunks",
    [
        ((b"IHDR", HEAD), (b"tEXt", b"a\0b"), (b"IDAT", zlib.compress(BODY)), (b"IEND", b"")),
        ((b"IHDR", HEAD), (b"IDAT", zlib.compress(BODY)), (b"IEND", b"x")),
        ((b"IHDR", HEAD + b"\0"), (b"IDAT", zlib.compress(BODY)), (b"IEND", b"")),
        ((b"IHDR", HEAD), (b"IDAT", zlib.compress(BODY) + b"x"), (b"IEND", b"")),
        ((b"IHDR", HEAD), (b"IDAT", zlib.compress(BODY)[:-1]), (b"IEND", b"")),
        ((b"IHDR", HEAD), (b"IDAT", zlib.compress(BODY[:-1])), (b"IEND", b"")),
        ((b"IHDR", HEAD), (b"IDAT", zlib.compress(b"\1" + BODY[1:])), (b"IEND", b"")),
        ((b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 3, 0, 0, 0)), (b"IDAT", zlib.compress(BODY)), (b"IEND", b"")),
        ((b"IHDR", struct.pack(">IIBBBBB", 65, 1, *pictures.RGB)), (b"IDAT", zlib.compress(bytes(196))), (b"IEND", b"")),
        ((b"IHDR", struct.pack(">IIBBBBB", 0, 8, *pictures.RGB)), (b"IDAT", zlib.compress(bytes(8))), (b"IEND", b"")),
    ],
    ids=[
        "text",
        "an end with a body",
        "a long head",
        "behind the data",
        "cut data",
        "a byte too few",
        "a filter",
        "a palette",
        "too wide",
        "no width",
    ],
)
def test_true_checksums_make_no_other_writing_a_picture(chunks: tuple[tuple[bytes, bytes], ...]) -> None:
    assert refused(file_of(*chunks))


def test_what_unpacks_to_far_more_than_it_says_is_not_unpacked() -> None:
    bomb = file_of((b"IHDR", HEAD), (b"IDAT", zlib.compress(BODY + bytes(10**8))), (b"IEND", b""))
    tracemalloc.start()
    try:
        assert refused(bomb)
        assert tracemalloc.get_traced_memory()[1] < 2 * 10**6
    finally:
        tracemalloc.stop()


def test_colours_worked_by_hand() -> None:
    """Each part is one pixel row of two: its red 0 and 3, its green 5 and 5, its blue 0 and 255."""
    rows = b"".join(b"\0" + bytes((0, 5, 0, 3, 5, 255)) * 8 for _ in range(8))
    found = pictures.colours(pictures.decode(written(16, 8, rows), 16))
    assert found == {"mean_milli": [1500, 5000, 127_500], "grid_milli": [1500, 5000, 127_500] * 64, "spread_milli": [1500, 0, 127_500] * 64}


def test_colours_are_those_of_the_formula() -> None:
    pixels = Random(7).randbytes(3 * built.SIDE**2)
    found, expected = pictures.colours(pictures.decode(built.png(pixels), built.SIDE)), band.features(pixels)
    for name, feature in (("grid_milli", "colour"), ("spread_milli", "texture")):
        assert max(abs(one - other) for one, other in zip(found[name], expected[feature], strict=True)) <= pictures.ROUNDING_MILLI


@pytest.mark.parametrize(("change", "verdict"), [(1, "verified"), (2, "refused")])
def test_a_colour_may_be_off_by_its_rounding(change: int, verdict: str, tmp_path: Path) -> None:
    def off(bench: built.Bench) -> None:
        built.of("picture", built.with_case(bench))[0]["spread_milli"][100] += change

    outcome = replay.replay(built.build(tmp_path, off), "self")
    assert outcome.verdict == verdict
    assert [(finding.rule, finding.found) for finding in outcome.findings] == (
        [("text_to_image.pixels", "2; 1 of 192 differ")] if change == 2 else []
    )


def test_noise_of_any_size_may_be_kept() -> None:
    """What deflate cannot make smaller is within the bytes that are read."""
    for side in (64, 512):
        assert len(built.png(Random(side).randbytes(3 * side**2), side)) < pictures._most_bytes(side)
