"""Walks evidence/ without trusting it, has every file hashed that scoring did not read, and compares with SHA256SUMS.

Only regular files with one link, plain ASCII names, no two that differ by case, no empty folders. A file that changes
between the walk and the end of its reading is refused. `sums` and `sha256sum -c` agree byte for byte.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from verify.files import FOLDER, Evidence, Identity, identity
from verify.findings import Finding, Refused, Unchecked, error
from verify.reading import Task, answers

SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+=@-]{0,127}")
LINE = re.compile(rb"[0-9a-f]{64}  [!-~]{1,4000}")
MAX_LEVELS = 16


class Walk:
    """What was found below a folder: path -> identity of each regular file, and what is wrong with it."""

    def __init__(self, top: Path) -> None:
        self.files: dict[str, Identity] = {}
        self.linked: set[str] = set()
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
            status = os.stat(name, dir_fd=handle, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                below = os.open(name, FOLDER, dir_fd=handle)
                try:
                    self._folder(below, path + "/")
                finally:
                    os.close(below)
            elif stat.S_ISREG(status.st_mode):
                self._file(status, path)
            else:
                self.findings.append(error("tree.type", path, "a regular file", stat.filemode(status.st_mode)))
        except PermissionError as fault:
            raise Unchecked("file cannot be read", where=path, why=str(fault.strerror), next_step="check its mode") from None
        except OSError as fault:
            self.findings.append(error("tree.type", path, "a file that can be read", fault.strerror))

    def _file(self, status: os.stat_result, path: str) -> None:
        self.files[path] = identity(status)
        if status.st_nlink != 1:
            self.linked.add(path)
            self.findings.append(error("tree.link", path, "one link", f"{status.st_nlink} links"))

    def sizes(self) -> dict[str, int]:
        """Path -> size in bytes."""
        return {path: found[2] for path, found in self.files.items()}


def hashed(walk: Walk, evidence: Evidence) -> Iterator[Finding]:
    """Hash every file that was not read yet; what could not be read, and what changed since the walk."""
    for answer in answers(evidence, _left(walk, evidence)):
        if answer.seen is not None:
            evidence.note(answer.path, answer.seen)
        if answer.refused is not None:
            yield answer.refused
    for path, found in walk.files.items():
        seen = evidence.seen.get(path)
        if seen is not None and not seen.before == seen.after == found:
            yield error("tree.changed", path, "a file at rest", "one that changed while it was read")


def _left(walk: Walk, evidence: Evidence) -> list[Task]:
    paths = (path for path in walk.files if path not in evidence.seen and path not in walk.linked)
    return [Task(path, stops=evidence.stops.get(path, ())) for path in paths]


def render(digests: dict[str, str]) -> bytes:
    """SHA256SUMS for path -> hex digest, sorted by the paths' bytes."""
    return b"".join(f"{digests[path]}  {path}\n".encode() for path in sorted(digests, key=str.encode))


def sums(evidence: Path | Evidence) -> bytes:
    """The bytes of SHA256SUMS over every file below a folder; Refused where a file may not be sealed."""
    source = evidence if isinstance(evidence, Evidence) else Evidence(evidence)
    walk = Walk(source.top)
    for fault in (*walk.findings, *hashed(walk, source)):
        raise fault.refusal()
    return render({path: source.seen[path].sha256 for path in walk.files})


def parse_sums(data: bytes) -> dict[str, str]:
    """Path -> hex digest as SHA256SUMS lists them; Refused where the file is not exactly as `sums` writes it."""
    lines = data.split(b"\n")
    if lines.pop() or not lines or not all(LINE.fullmatch(line) for line in lines):
        raise Refused("tree.sums", "SHA256SUMS", "lines `<hex>  <path>`, each with its newline", "another form")
    listed = {line[66:].decode(): line[:64].decode() for line in lines}
    if render(listed) != data:
        raise Refused("tree.sums", "SHA256SUMS", "paths sorted by bytes, each once", "another order, or a path twice")
    return listed


def compare(listed: dict[str, str], walk: Walk, evidence: Evidence) -> Iterator[Finding]:
    """Every file that differs, is missing, or is not listed."""
    for path in sorted(listed.keys() | walk.files.keys()):
        seen = evidence.seen.get(path)
        if path not in walk.files:
            yield error("tree.missing", path, "the file that SHA256SUMS lists", "none")
        elif path not in listed:
            yield error("tree.extra", path, "only files that SHA256SUMS lists", "an unlisted file")
        elif seen is not None and listed[path] != seen.sha256:
            yield error("tree.digest", path, listed[path], seen.sha256)
