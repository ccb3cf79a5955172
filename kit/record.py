"""The run log: append-only entries, a Merkle tree over them, signed checkpoints, and recovery after a crash.

Every entry is one write and one fsync, so that what was said to have happened survives `kill -9` and power loss. A
torn last line is cut off on resume, kept in `torn-<n>`, and named by a `recovered` entry.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import hashlib
import os
import time
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kit.errors import ENVIRONMENT, KitError
from kit.files import sha256_file, sync_folder
from verify import notes
from verify.merkle import Frontier
from verify.strict import canonical, loads

ORIGIN = "chipassay.dev/run/"
Entry = dict[str, Any]


class RunLog:
    """Writer of RUN/runlog; holds an exclusive lock on it, so that two kits never write one run."""

    def __init__(self, run: Path, key: Ed25519PrivateKey) -> None:
        self.run = run
        self.folder = run / "runlog"
        self.folder.mkdir(exist_ok=True)
        self._key = key
        self._frontier = Frontier()
        self.entries: list[Entry] = []
        self._file = (self.folder / "entries.jsonl").open("ab", buffering=0)
        self._lock()
        self._read()
        self._mend_checkpoints()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise KitError("run is being written by another process", where=str(self.run), next_step="wait for it, or stop it") from error

    def _read(self) -> None:
        path = self.folder / "entries.jsonl"
        data = path.read_bytes()
        whole, torn = _split(data)
        for line in whole:
            self.entries.append(loads(line))
            self._frontier.add(line)
        if torn:
            self._recover(path, len(data) - len(torn), torn)

    def _recover(self, path: Path, keep: int, torn: bytes) -> None:
        name = f"torn-{sum(1 for _ in self.folder.glob('torn-*'))}"
        (self.folder / name).write_bytes(torn)
        os.truncate(path, keep)
        sync_folder(self.folder)
        self.append("recovered", torn=name, torn_sha256=hashlib.sha256(torn).hexdigest(), size_bytes=len(torn))

    def _mend_checkpoints(self) -> None:
        """Cut off a torn last note; notes end with an empty line."""
        path = self.folder / "checkpoints.txt"
        data = path.read_bytes() if path.exists() else b""
        keep = _end_of_last_note(data)
        if keep < len(data):
            self._recover(path, keep, data[keep:])

    @property
    def size(self) -> int:
        """Number of entries."""
        return len(self.entries)

    def root_base64(self) -> str:
        """RFC 6962 root over all entries, base64."""
        return base64.b64encode(self._frontier.root()).decode()

    @property
    def origin(self) -> str:
        return ORIGIN + self.run.name

    def append(self, kind: str, **fields: Any) -> Entry:
        """Write one entry and fsync it."""
        entry = {"n": self.size, "type": kind, "wall_ns": time.time_ns(), "monotonic_ns": time.monotonic_ns(), **fields}
        line = canonical(entry)
        self._write(line + b"\n")
        self.entries.append(entry)
        self._frontier.add(line)
        return entry

    def _write(self, line: bytes) -> None:
        """One line or nothing: a write that fails half-way is taken back."""
        end = os.fstat(self._file.fileno()).st_size
        try:
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, "no space left on device")  # noqa: TRY301 - a short write is the same fault
            os.fsync(self._file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file.fileno(), end)
            raise KitError(
                "run log cannot be written",
                where=str(self.folder),
                why=error.strerror or "",
                next_step="free space and go on with --resume",
                exit_code=ENVIRONMENT,
            ) from error

    def append_file(self, path: Path) -> Entry:
        """Name a closed file below evidence/ with its size and hash."""
        relative = path.relative_to(self.run / "evidence").as_posix()
        return self.append("file", path=relative, size_bytes=path.stat().st_size, sha256=sha256_file(path))

    def checkpoint(self) -> None:
        """Sign the tree as it stands (C2SP note) and append the note to checkpoints.txt."""
        text = notes.body(self.origin, self.size, self._frontier.root())
        public = self._key.public_key().public_bytes_raw()
        signature = notes.key_hash(self.origin, public) + self._key.sign(text.encode())
        note = f"{text}\n— {self.origin} {base64.b64encode(signature).decode()}\n\n"
        with (self.folder / "checkpoints.txt").open("ab") as file:
            file.write(note.encode())
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        self._file.close()


def _split(data: bytes) -> tuple[list[bytes], bytes]:
    """Whole lines without their newline, and the torn rest."""
    end = data.rfind(b"\n") + 1
    return data[:end].split(b"\n")[:-1], data[end:]


def _end_of_last_note(data: bytes) -> int:
    """Offset behind the last whole note: a note is body, empty line, signature line, empty line."""
    signature = data.rfind("\n\n— ".encode())
    while signature >= 0:
        end = data.find(b"\n\n", signature + 2)
        if end >= 0:
            return end + 2
        signature = data.rfind("\n\n— ".encode(), 0, signature)
    return 0


def attempts(entries: list[Entry]) -> dict[str, list[Entry]]:
    """Per case id its attempts in order: {"attempt", "state", "reason"}; an attempt without an end is `interrupted`."""
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry["type"] == "case-start":
            found.setdefault(entry["case"], []).append({"attempt": entry["attempt"], "state": "interrupted", "reason": "no end was logged"})
        elif entry["type"] == "case-end":
            found[entry["case"]][-1] |= {"state": entry["state"], "reason": entry["reason"]}
    return found


def open_attempts(entries: list[Entry]) -> list[tuple[str, int]]:
    """(case, attempt) that were started and never ended."""
    started = {(e["case"], e["attempt"]) for e in entries if e["type"] == "case-start"}
    ended = {(e["case"], e["attempt"]) for e in entries if e["type"] == "case-end"}
    return sorted(started - ended)
