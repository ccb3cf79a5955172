"""`kit pack RUN`: a sealed run as one file for the lab. The same run gives the same bytes, whoever packs it, and when."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import zstandard

from kit.errors import FAILED, KitError, unusable
from kit.files import sync_folder, writable
from verify import archive, tree
from verify.replay import TOP

LEVEL = 6
CHUNK_BYTES = 2**20


def pack(run: Path, target: Path | None = None) -> Path:
    """Write RUN.tar.zst beside the run, or to `target`; a KitError where the run is not sealed or holds what may not be sealed."""
    for name in TOP:
        if not (run / name).exists():
            raise KitError("run is not sealed", where=str(run), why=f"{name} is missing", next_step=f"python -m kit seal {run}")
    files = _files(run)
    path = writable(target or run.resolve().with_name(run.resolve().name + archive.SUFFIX), "archive", "name a file with --out FILE")
    if path.resolve().is_relative_to(run.resolve()):
        raise KitError("archive would lie in the sealed run", where=str(path), next_step="name a file outside of it with --out FILE")
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as out:
            _write(run, files, out)
            os.fsync(out.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise unusable("archive cannot be written", error, str(path), "name another file with --out FILE") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _files(run: Path) -> dict[str, int]:
    """Path below the run -> size in bytes, in the archive's order."""
    walk = tree.Walk(run)
    if walk.findings:
        raise KitError("run cannot be packed", where=str(run), why=str(walk.findings[0]), next_step="verify the run", exit_code=FAILED)
    sizes = walk.sizes()
    return {path: sizes[path] for path in sorted(sizes, key=lambda path: path.split("/"))}


def _write(run: Path, files: dict[str, int], out: BinaryIO) -> None:
    window = archive.MAX_WINDOW_BYTES.bit_length() - 1
    parameters = zstandard.ZstdCompressionParameters.from_level(LEVEL, write_checksum=True, window_log=window)
    with zstandard.ZstdCompressor(compression_params=parameters).stream_writer(out, closefd=False) as packed:
        for path, size in files.items():
            packed.write(archive.member(f"{run.resolve().name}/{path}", size))
            for data in _read(run / path, size):
                packed.write(data)
            packed.write(archive.padding(size))
        packed.write(archive.END)


def _read(path: Path, size: int) -> Iterator[bytes]:
    left = size
    with path.open("rb") as file:
        while data := file.read(CHUNK_BYTES):
            left -= len(data)
            yield data
    if left:
        raise KitError("file changed while it was packed", where=str(path), next_step="stop what writes to the run", exit_code=FAILED)
