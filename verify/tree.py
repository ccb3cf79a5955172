"""Walks evidence/ without trusting it, hashes every file once, and compares with SHA256SUMS.

Only regular files with one link, plain ASCII names, no two that differ by case, no empty folders. A file that changes
while it is read is refused. `sums` and `sha256sum -c` agree byte for byte.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from verify.files import FILE, FOLDER
from verify.findings import Finding, Refused, Unchecked, error

SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+=@-]{0,127}")
LINE = re.compile(rb"[0-9a-f]{64}  [!-~]{1,4000}")
CHUNK_BYTES = 2**20
MAX_LEVELS = 16


class Walk:
    """What was found below a folder: path -> hex SHA-256, and what is wrong with it."""

    def __init__(self, top: Path) -> None:
        self.digests: dict[str, str] = {}
        self.sizes: dict[str, int] = {}
        self.findings: list[Finding] = []
        try:
            handle = os.open(top, FOLDER)
        except OSError as fault:
            self.findings.append(error("tree.type", top.name, "a plain folder", fault.strerror))
            return
        try:
            self._folder(handle, "")
        finally:
            os.close(handle)

    def _folder(self, handle: int, prefix: str) -> None:
        names = sorted(os.listdir(handle))
        if not names:
            self.findings.append(error("tree.empty", prefix or ".", "no empty folder", "one"))
        self._twins(names, prefix)
        for name in names:
            if SEGMENT.fullmatch(name) is None or prefix.count("/") >= MAX_LEVELS:
                self.findings.append(
                    error("tree.path", prefix + name, "a name of letters, digits and ._+=@-, at most 16 levels deep", name)
                )
            else:
                self._entry(handle, name, prefix + name)

    def _twins(self, names: list[str], prefix: str) -> None:
        folded: dict[str, str] = {}
        for name in names:
            if (other := folded.setdefault(name.lower(), name)) != name:
                self.findings.append(error("tree.case", prefix + name, "names that differ by more than case", other))

    def _entry(self, handle: int, name: str, path: str) -> None:
        try:
            kind = os.stat(name, dir_fd=handle, follow_symlinks=False).st_mode
            if stat.S_ISDIR(kind):
                below = os.open(name, FOLDER, dir_fd=handle)
                try:
                    self._folder(below, path + "/")
                finally:
                    os.close(below)
            elif stat.S_ISREG(kind):
                self._file(os.open(name, FILE, dir_fd=handle), path)
            else:
                self.findings.append(error("tree.type", path, "a regular file", stat.filemode(kind)))
        except PermissionError as fault:
            raise Unchecked("file cannot be read", where=path, why=str(fault.strerror), next_step="check its mode") from None
        except OSError as fault:
            self.findings.append(error("tree.type", path, "a file that can be read", fault.strerror))

    def _file(self, handle: int, path: str) -> None:
        with os.fdopen(handle, "rb", buffering=0) as file:
            before = os.fstat(handle)
            if before.st_nlink != 1:
                self.findings.append(error("tree.link", path, "one link", f"{before.st_nlink} links"))
            digest = hashlib.sha256()
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
            after = os.fstat(handle)
        if _identity(before) != _identity(after):
            self.findings.append(error("tree.changed", path, "a file at rest", "one that changed while it was read"))
        self.digests[path], self.sizes[path] = digest.hexdigest(), after.st_size


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_ino, status.st_dev, status.st_size, status.st_mtime_ns, status.st_ctime_ns, stat.S_IFMT(status.st_mode)


def render(digests: dict[str, str]) -> bytes:
    """SHA256SUMS for path -> hex digest, sorted by the paths' bytes."""
    return b"".join(f"{digests[path]}  {path}\n".encode() for path in sorted(digests, key=str.encode))


def sums(evidence: Path) -> bytes:
    """The bytes of SHA256SUMS over every file below `evidence`; Refused where a file may not be sealed."""
    walk = Walk(evidence)
    if walk.findings:
        first = walk.findings[0]
        raise Refused(first.rule, first.where, first.expected, first.found)
    return render(walk.digests)


def parse_sums(data: bytes) -> dict[str, str]:
    """Path -> hex digest as SHA256SUMS lists them; Refused where the file is not exactly as `sums` writes it."""
    lines = data.split(b"\n")
    if lines.pop() or not lines or not all(LINE.fullmatch(line) for line in lines):
        raise Refused("tree.sums", "SHA256SUMS", "lines `<hex>  <path>`, each with its newline", "another form")
    listed = {line[66:].decode(): line[:64].decode() for line in lines}
    if render(listed) != data:
        raise Refused("tree.sums", "SHA256SUMS", "paths sorted by bytes, each once", "another order, or a path twice")
    return listed


def compare(listed: dict[str, str], walk: Walk) -> Iterator[Finding]:
    """Every file that differs, is missing, or is not listed."""
    for path in sorted(listed.keys() | walk.digests.keys()):
        if path not in walk.digests:
            yield error("tree.missing", path, "the file that SHA256SUMS lists", "none")
        elif path not in listed:
            yield error("tree.extra", path, "only files that SHA256SUMS lists", "an unlisted file")
        elif listed[path] != walk.digests[path]:
            yield error("tree.digest", path, listed[path], walk.digests[path])
