"""The run log: append-only entries, a Merkle tree over them, signed checkpoints, and recovery after a crash.

Every entry is one write and one fsync, so that what was said to have happened survives `kill -9` and power loss. What
an earlier process left is looked at by `recovery` before anything is written; heartbeats are not kept in memory.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kit import recovery
from kit.errors import ENVIRONMENT, KitError
from kit.files import sha256_file, sync_folder
from kit.keys import public_pem
from verify import heartbeat, notes
from verify.strict import canonical

ORIGIN = "chipassay.dev/run/"
CLOCK_TRIES = 5
CLOCK_READ_NS = 10**6  # a read of both clocks that took longer was preempted, and is tried again
LEFTOVER = ".cosignatures.txt.tmp"  # of a copy that was killed
Entry = dict[str, Any]


def clocks() -> tuple[int, int]:
    """Wall and monotonic clock in nanoseconds, read as nearly at once as can be had."""
    for _ in range(CLOCK_TRIES):
        before = time.monotonic_ns()
        wall, after = time.time_ns(), time.monotonic_ns()
        if after - before <= CLOCK_READ_NS:
            break
    return wall, after


class RunLog:
    """Writer of RUN/runlog; holds an exclusive lock on it, so that two kits never write one run."""

    def __init__(self, run: Path, key: Ed25519PrivateKey, on_checkpoint: Callable[[str], None] = lambda _: None) -> None:
        self.run = run
        self.folder = run / "runlog"
        self.folder.mkdir(exist_ok=True)
        self.on_checkpoint = on_checkpoint
        self._key = key
        self._clocks: tuple[int, int] | None = None
        self._broken = False
        self.last_note: str | None = None
        path = self.folder / recovery.ENTRIES
        existed = path.exists()
        self._file = path.open("ab", buffering=0)
        self._lock()
        (self.folder / LEFTOVER).unlink(missing_ok=True)
        found = self._found() if existed else recovery.Found()
        self.entries, self.size, self._frontier = found.entries, found.size, found.frontier
        self.logged = {entry["path"] for entry in self.entries if entry["type"] == "file"}
        self._recover(found)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise KitError("run is being written by another process", where=str(self.run), next_step="wait for it, or stop it") from error

    def _found(self) -> recovery.Found:
        try:
            return recovery.inspect(self.folder, self.origin)
        except BaseException:
            self._file.close()
            raise

    def _recover(self, found: recovery.Found) -> None:
        """Keep each torn tail in a file of its own, on the disk before it is cut off, then name it in the log."""
        names = list(found.unnamed)
        for torn in found.torn:
            names.append(f"torn-{sum(1 for _ in self.folder.glob('torn-*'))}")
            with (self.folder / names[-1]).open("xb") as file:
                file.write(torn.data)
                file.flush()
                os.fsync(file.fileno())
            sync_folder(self.folder)
            os.truncate(self.folder / torn.name, torn.keep_bytes)
        for name in names:
            data = (self.folder / name).read_bytes()
            self.append("recovered", torn=name, torn_sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))

    def root_base64(self) -> str:
        """RFC 6962 root over all entries, base64."""
        return base64.b64encode(self._frontier.root()).decode()

    @property
    def origin(self) -> str:
        return ORIGIN + self.run.name

    def append(self, kind: str, **fields: Any) -> Entry:
        """Write one entry and fsync it; a `clock-step` before it where wall and monotonic clock went apart."""
        now = clocks()
        if self._clocks and kind != "resume":
            wall, monotonic = now[0] - self._clocks[0], now[1] - self._clocks[1]
            if heartbeat.step_ns(wall, monotonic, heartbeat.settings()):
                self._append("clock-step", now, {"step_ns": wall - monotonic})
        return self._append(kind, now, fields)

    def _append(self, kind: str, now: tuple[int, int], fields: Entry) -> Entry:
        entry = {"n": self.size, "type": kind, "wall_ns": now[0], "monotonic_ns": now[1], **fields}
        line = canonical(entry)
        self._write(self._file, line + b"\n", "run log cannot be written")
        self.size += 1
        self._clocks = now
        if kind != "heartbeat":
            self.entries.append(entry)
        if kind == "file":
            self.logged.add(fields["path"])
        self._frontier.add(line)
        return entry

    def _write(self, file: IO[bytes], data: bytes, failed: str) -> None:
        """All of `data` on the disk, or nothing: a write that fails is taken back; after a failed fsync nothing more is written."""
        if self._broken:
            raise _unwritable(failed, self.folder, "an earlier write to this disk failed")
        end = os.fstat(file.fileno()).st_size
        try:
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, "no space left on device")  # noqa: TRY301 - a short write is the same fault
            try:
                os.fsync(file.fileno())
            except OSError:
                self._broken = True  # the kernel may have dropped the pages: only reading the file again tells what is there
                raise
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(file.fileno(), end)
            raise _unwritable(failed, self.folder, error.strerror or "") from error

    def append_file(self, path: Path, sha256: str | None = None) -> Entry:
        """Name a closed file below evidence/ with its size and hash (`sha256` where it is known already)."""
        relative = path.relative_to(self.run / "evidence").as_posix()
        return self.append("file", path=relative, size_bytes=path.stat().st_size, sha256=sha256 or sha256_file(path))

    def checkpoint(self) -> None:
        """Sign the tree as it stands (C2SP note) and append the note to checkpoints.txt."""
        text = notes.body(self.origin, self.size, self._frontier.root())
        public = self._key.public_key().public_bytes_raw()
        signature = notes.key_hash(self.origin, public) + self._key.sign(text.encode())
        note = f"{text}\n— {self.origin} {base64.b64encode(signature).decode()}\n"
        with (self.folder / recovery.CHECKPOINTS).open("ab", buffering=0) as file:
            try:
                self._write(file, note.encode() + b"\n", "checkpoint cannot be written")
            except KitError:
                self._broken = True  # a log whose checkpoint is missing may only go on after a `resume`
                raise
        self.last_note = note
        self.on_checkpoint(note)

    def public_pem(self) -> bytes:
        """The key that signs checkpoints, SPKI PEM."""
        return public_pem(self._key)

    def close(self) -> None:
        self._file.close()


def _unwritable(what: str, folder: Path, why: str) -> KitError:
    return KitError(what, where=str(folder), why=why, next_step="free space and go on with --resume", exit_code=ENVIRONMENT)


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
