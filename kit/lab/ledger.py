"""Writes the lab's ledger: one entry, one checkpoint, each on disk before anything that it tells of leaves the lab."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kit.errors import ENVIRONMENT, FAILED, KitError
from kit.files import sync_folder
from verify import ledger, notes
from verify.merkle import Frontier
from verify.strict import canonical


class Writer:
    """The ledger in LAB/ledger, locked against other writers; a ledger that does not hold together is never added to."""

    def __init__(self, folder: Path, lab: str, key: Ed25519PrivateKey) -> None:
        self.folder, self._origin, self._key = folder, ledger.ORIGIN + lab, key
        self._path = folder / ledger.ENTRIES
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file = self._path.open("ab", buffering=0)
        _lock(self._file.fileno(), folder)
        self._finish_checkpoints()
        self.known = ledger.read(folder)
        self._check(lab)

    def _check(self, lab: str) -> None:
        keys = [self._key.public_key()]
        faults = [*self.known.findings, *ledger.checkpoints(self.folder, self.known, lab, list(keys))]
        if faults:
            self.close()
            raise KitError(
                "the lab's ledger does not hold together",
                where=str(self.folder),
                why=str(faults[0]),
                next_step="sign with the lab's own --key; if it is, restore the ledger from a copy: it is never mended by hand",
                exit_code=FAILED,
            )

    def _finish_checkpoints(self) -> None:
        """After a crash: cut a torn last line of either file, sign what entries lack a checkpoint."""
        _cut(self._path)
        notes_path = self.folder / ledger.CHECKPOINTS
        notes_path.touch()
        _cut_notes(notes_path)
        have, frontier = notes_path.read_bytes().count(b"\n\n") // 2, Frontier()
        for number, line in enumerate(self._path.read_bytes().splitlines(), start=1):
            frontier.add(line)
            if number > have:
                self._checkpoint(number, frontier.root())

    def state(self, challenge: str) -> str:
        """How far a challenge has come."""
        return self.known.states.get(challenge, "new")

    def expect(self, challenge: str, entry: str, next_step: str) -> None:
        """Refuse a step that the challenge's state does not allow."""
        state = self.state(challenge)
        if state not in ledger.STEPS[entry]:
            wanted = " or ".join(sorted(ledger.STEPS[entry]))
            raise KitError(f"challenge is {state}, not {wanted}", where=challenge[:16], next_step=next_step, exit_code=FAILED)

    def append(self, kind: str, challenge: str, **fields: Any) -> None:
        """Add one entry and its checkpoint; both are on disk when this returns."""
        entry = {"n": len(self.known.entries), "type": kind, "wall_ns": time.time_ns(), "challenge": challenge, **fields}
        line = canonical(entry)
        made = ledger.parse(line, str(self.folder))
        for fault in ledger.faults(self.known, made):
            raise KitError("ledger refuses the entry", where=str(self.folder), why=str(fault), exit_code=FAILED)
        _write(self._file.fileno(), line + b"\n", self.folder)
        ledger.add(self.known, made, line)
        self._checkpoint(self.known.tree.size, self.known.tree.root())

    def _checkpoint(self, size: int, root: bytes) -> None:
        text = notes.body(self._origin, size, root)
        signature = notes.key_hash(self._origin, self._key.public_key().public_bytes_raw()) + self._key.sign(text.encode())
        note = f"{text}\n— {self._origin} {base64.b64encode(signature).decode()}\n\n"
        with (self.folder / ledger.CHECKPOINTS).open("ab", buffering=0) as file:
            _write(file.fileno(), note.encode(), self.folder)
        sync_folder(self.folder)

    def close(self) -> None:
        """Let go of the lock."""
        self._file.close()


@contextlib.contextmanager
def opened(folder: Path, lab: str, key: Ed25519PrivateKey) -> Iterator[Writer]:
    """The ledger below a lab's folder, closed at the end."""
    writer = Writer(folder / "ledger", lab, key)
    try:
        yield writer
    finally:
        writer.close()


def _lock(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise KitError("ledger is being written by another process", where=str(folder), next_step="wait for it, or stop it") from error


def _write(handle: int, data: bytes, folder: Path) -> None:
    """All bytes or none."""
    end = os.fstat(handle).st_size
    try:
        if os.write(handle, data) != len(data):
            raise OSError(28, os.strerror(28))  # noqa: TRY301 - a short write is a full disk
        os.fsync(handle)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.ftruncate(handle, end)
        raise KitError("ledger cannot be written", where=str(folder), why=error.strerror or "", exit_code=ENVIRONMENT) from error


def _cut(path: Path) -> None:
    data = path.read_bytes()
    if (end := data.rfind(b"\n") + 1) < len(data):
        os.truncate(path, end)


def _cut_notes(path: Path) -> None:
    """Notes end with an empty line after their signature; each holds one more before it."""
    data = path.read_bytes()
    parts = data.split(b"\n\n")
    whole = (len(parts) - 1) // 2 * 2
    end = sum(len(part) + 2 for part in parts[:whole])
    if end < len(data):
        os.truncate(path, end)
