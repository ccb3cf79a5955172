"""Shared libraries that this process really mapped: size and hash of each, and which package says that it brought it.

A wheel's RECORD promises a hash for every file (PyPA, "Recording installed projects"); dpkg lists the files of each package
(`/var/lib/dpkg/info/NAME.list`). What neither knows is told without an owner: the verifier judges it.
"""

from __future__ import annotations

import base64
import binascii
import csv
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HASHED_BYTES = 16 << 30  # what is hashed of one process at most, the smallest files first
CHUNK_BYTES = 1 << 20
THREADS = 4
GONE = " (deleted)"
DPKG = Path("/var/lib/dpkg")


def listed(paths: Iterable[str], *, hashed: bool, places: Iterable[str] | None = None, dpkg: Path = DPKG) -> list[dict[str, Any]]:
    """One entry a mapped file, by path. Only one process of a host hashes: libraries of an accelerator are gigabytes."""
    sizes = {path: _size(path) for path in paths}
    owners = {**_debian(set(sizes), dpkg), **_python(set(sizes), sys.path if places is None else places)}
    digests = _digests(sizes) if hashed else {}
    return [
        {"path": path, "size_bytes": size, "sha256": digests.get(path)} | owners.get(path, {"package": None, "recorded": None})
        for path, size in sorted(sizes.items())
    ]


def _size(path: str) -> int | None:
    """None for what is gone, or cannot be seen."""
    try:
        return None if path.endswith(GONE) else Path(path).stat().st_size
    except OSError:
        return None


def _digests(sizes: dict[str, int | None]) -> dict[str, str | None]:
    """Hashing lets other threads run: four at a time."""
    chosen, left = [], HASHED_BYTES
    for size, path in sorted((size, path) for path, size in sizes.items() if size is not None):
        left -= size
        chosen += [path] if left >= 0 else []
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        return dict(zip(chosen, pool.map(_sha256, chosen), strict=True))


def _sha256(path: str) -> str | None:
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
    except OSError:
        return None
    return digest.hexdigest()


def _python(wanted: set[str], places: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Owners by the RECORD files of the folders in which modules are looked for."""
    found: dict[str, dict[str, Any]] = {}
    for place in sorted({os.path.realpath(place) for place in places if place}):
        if any(path.startswith(f"{place}/") for path in wanted):
            for record in Path(place).glob("*.dist-info/RECORD"):
                found |= _recorded(record, place, wanted)
    return found


def _recorded(record: Path, place: str, wanted: set[str]) -> Iterable[tuple[str, dict[str, Any]]]:
    """The wanted ones among a RECORD's libraries; `NAME-VERSION.dist-info` says whose they are."""
    name, _, version = record.parent.name.removesuffix(".dist-info").partition("-")
    try:
        text = record.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for row in csv.reader(line for line in text.splitlines() if ".so" in line):
        path = os.path.normpath(f"{place}/{row[0]}")
        if len(row) == 3 and path in wanted:
            yield path, {"package": {"kind": "python", "name": name, "version": version}, "recorded": _promised(row[1])}


def _promised(text: str) -> str | None:
    """Hex of RECORD's `sha256=` and unpadded base64; None where it is none."""
    kind, _, digest = text.partition("=")
    try:
        raw = base64.urlsafe_b64decode(digest + "=" * (-len(digest) % 4)) if kind == "sha256" else b""
    except (binascii.Error, ValueError):
        return None
    return raw.hex() if len(raw) == hashlib.sha256().digest_size else None


def _debian(wanted: set[str], dpkg: Path) -> dict[str, dict[str, Any]]:
    """Owners by dpkg; its lists may name /lib where the kernel says /usr/lib, since one is a link to the other."""
    spelled = {alias: path for path in wanted for alias in (path, path.removeprefix("/usr")) if path.startswith("/")}
    found = {path: name for name, files in _lists(dpkg) for path in (spelled[file] for file in spelled.keys() & files)}
    versions = _versions(dpkg) if found else {}
    return {
        path: {"package": {"kind": "debian", "name": name, "version": versions.get(name, "")}, "recorded": None}
        for path, name in found.items()
    }


def _lists(dpkg: Path) -> Iterator[tuple[str, set[str]]]:
    for path in sorted((dpkg / "info").glob("*.list")):
        try:
            yield path.stem.partition(":")[0], set(path.read_text(encoding="utf-8", errors="replace").split("\n"))
        except OSError:
            continue


def _versions(dpkg: Path) -> dict[str, str]:
    """Name -> version of every package in dpkg's status file."""
    try:
        text = (dpkg / "status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    blocks = (dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and line[0] != " ") for block in text.split("\n\n"))
    return {block["Package"]: block.get("Version", "") for block in blocks if "Package" in block}
