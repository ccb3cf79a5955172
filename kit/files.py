"""Files that survive a crash: atomic writes, fsync'ed folders, and one hash function."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

from kit.errors import KitError, unusable


def write_atomic(path: Path, data: bytes) -> None:
    """Write beside, fsync, rename, fsync the folder: a reader sees the old file or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def make_folder(path: Path, what: str, next_step: str, mode: int = 0o777) -> Path:
    """The folder, made where it is missing; KitError where a file is in its way or it cannot be made."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=mode)
    except OSError as fault:
        raise unusable(f"{what} cannot be made", fault, str(path), next_step) from fault
    return path


def writable(path: Path, what: str, next_step: str) -> Path:
    """The path, if a file can be written there; KitError (2) where folder or leave are missing, or something else is there."""
    folder, why = path.absolute().parent, ""
    if path.is_dir():
        why = "it is a folder"
    elif path.exists() and not path.is_file():
        why = "it is no plain file, and would be replaced"
    elif not folder.is_dir():
        why = "its folder does not exist"
    elif not os.access(path if path.exists() else folder, os.W_OK):
        why = os.strerror(errno.EACCES)
    if why:
        raise KitError(f"{what} cannot be written", where=str(path), why=why, next_step=next_step)
    return path


def sync_folder(folder: Path) -> None:
    """Fsync a folder, so that names made in it survive a power loss."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """$CHIPASSAY_CACHE, else chipassay under $XDG_CACHE_HOME or ~/.cache."""
    if own := os.environ.get("CHIPASSAY_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "chipassay"
