"""Reads evidence: regular files only, never through a link, and remembers the SHA-256 of what was read.

What was scored is thereby known to be what was hashed: `replay` compares `Evidence.digests` with SHA256SUMS.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from verify.findings import Refused, Unchecked

MAX_DOCUMENT_BYTES = 32 * 2**20
MAX_LINE_BYTES = 4 * 2**20
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


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
        raise Unchecked("file cannot be read", where=path, why=str(fault.strerror)) from None
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


class Evidence:
    """A folder of evidence; `digests` holds path -> hex SHA-256 of every file read to its end."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.digests: dict[str, str] = {}

    def read(self, path: str, limit: int = MAX_DOCUMENT_BYTES) -> bytes:
        """All bytes of a file of at most `limit` bytes."""
        with os.fdopen(open_beneath(self.top, path), "rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise Refused("file.size", path, f"at most {limit} bytes", "more")
        self.digests[path] = hashlib.sha256(data).hexdigest()
        return data

    def lines(self, path: str) -> Iterator[bytes]:
        """Each line without its newline; the last one must have one, too."""
        digest = hashlib.sha256()
        with os.fdopen(open_beneath(self.top, path), "rb") as file:
            while line := file.readline(MAX_LINE_BYTES + 1):
                if not line.endswith(b"\n"):
                    raise Refused(
                        "file.line", path, f"lines of at most {MAX_LINE_BYTES} bytes, each with its newline", "a longer or a cut one"
                    )
                digest.update(line)
                yield line[:-1]
        self.digests[path] = digest.hexdigest()

    def names(self, folder: str) -> list[str]:
        """Sorted names in a folder; none where it is missing."""
        path = self.top / folder
        return sorted(os.listdir(path)) if path.is_dir() else []
