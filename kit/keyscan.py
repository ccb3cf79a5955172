"""Looks for private keys before a run is sealed: evidence is handed to others, and what is in it is public for good."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from kit.errors import FAILED, KitError

HEADER = re.compile(rb"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----")
MARK = b"PRIVATE KEY-----"  # found fast; the pattern then decides
CHUNK_BYTES = 2**20
OVERLAP_BYTES = 128  # more than the longest header


def holds_key(path: Path) -> bool:
    """Whether a file has the first line of a private key in PEM or OpenSSH form."""
    before = b""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            window = before + chunk
            if MARK in window and HEADER.search(window):
                return True
            before = window[-OVERLAP_BYTES:]
    return False


def found(folder: Path) -> Iterator[Path]:
    """Files below a folder that hold a private key."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and holds_key(path):
            yield path


def check(evidence: Path) -> None:
    """Refuse to seal evidence with a private key in it."""
    for path in found(evidence):
        raise KitError(
            "evidence holds a private key",
            where=str(path),
            why="whoever gets the run would get the key",
            next_step="find out what wrote it, take the key out of use, and start a new run",
            exit_code=FAILED,
        )
