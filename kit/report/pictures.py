"""Pictures that cases kept, small, for the report. They come out of a run that was replayed, and out of nothing else.

A picture is decoded and written anew before it goes into a page: what the run holds is bytes of a stranger. Only what the
worker's own writer makes is read.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.report.blocks import Block, Picture, Text
from kit.report.words import Words
from verify.pictures import SIGNATURE, decode

NAME = re.compile(r"picture-(0|[1-9][0-9]{0,3})\.png")
MOST_BYTES, MOST_SIDE = 64 * 2**20, 4096
SHOWN_SIDE = 256
SHOWN_OF_A_CASE = 4


@dataclass(frozen=True, slots=True)
class Kept:
    """A picture of a case; `png` is empty where the file is not one."""

    case: str
    file: str
    weights: str
    png: bytes = b""
    width: int = 0
    height: int = 0
    step: int = 1


def read(run: Path, document: dict[str, Any]) -> tuple[Kept, ...]:
    """The first pictures of the last attempt of every case that is done, at most 256 pixels wide and high."""
    return tuple(kept for case in document["cases"] if case["state"] == "done" for kept in _of_case(run, case))


def _of_case(run: Path, case: dict[str, Any]) -> Iterator[Kept]:
    attempts = sorted((run / "evidence/cases" / case["id"]).glob("attempt-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    found = [path for path in attempts[-1].glob("artifacts/*") if NAME.fullmatch(path.name)] if attempts else []
    for path in sorted(found, key=lambda path: int(NAME.fullmatch(path.name)[1]))[:SHOWN_OF_A_CASE]:  # type: ignore[index]
        name, weights = f"artifacts/{path.name}", str(case["facts"].get("weights", ""))
        try:
            yield _small(path, Kept(case["id"], name, weights))
        except (OSError, ValueError):
            yield Kept(case["id"], name, weights)


def _small(path: Path, kept: Kept) -> Kept:
    """Every n-th pixel; ValueError where the file is not a picture as the worker writes them."""
    if path.stat().st_size > MOST_BYTES:
        raise ValueError
    width, height, pixels = decode(path.read_bytes(), MOST_SIDE)
    step = -(-max(width, height) // SHOWN_SIDE)
    rows = [pixels[at + 1 : at + 3 * width + 1] for at in range(0, len(pixels), (3 * width + 1) * step)]
    small = b"".join(b"\0" + b"".join(row[at : at + 3] for at in range(0, 3 * width, 3 * step)) for row in rows)
    return Kept(kept.case, kept.file, kept.weights, png(-(-width // step), len(rows), small), width, height, step)


def png(width: int, height: int, rows: bytes) -> bytes:
    """A PNG file of rows that begin with their filter byte."""
    parts = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b"")
    return SIGNATURE + b"".join(
        struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(kind + part)) for kind, part in parts
    )


def blocks(kept: tuple[Kept, ...], words: Words) -> Iterator[Block]:
    """Each picture with a text that says what it is; a warning for a file that is none."""
    for number, one in enumerate(kept):
        if not one.png:
            yield Text(words.say("picture.none", case=one.case, file=one.file), "warning")
            continue
        weights = words.say("reason.random_weights") if one.weights == "random" else words.say("picture.file_weights")
        facts = {"file": one.file, "width": one.width, "height": one.height, "step": one.step, "weights": weights}
        yield Picture(f"picture-{number}", words.say("picture.title", case=one.case), words.say("picture.alt", **facts), one.png)
