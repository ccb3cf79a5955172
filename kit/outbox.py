"""Hands each checkpoint of a run to a witness by way of a folder, and takes home the cosignatures that it finds there.

The folder may lie on a mounted share. What goes wrong there is said and never stops a run: the window that nobody saw
grows, and verify states it.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

from kit.errors import KitError
from kit.files import make_folder, writable, write_atomic
from verify import cosign, notes
from verify.findings import Refused
from verify.merkle import consistency_proof, leaf_hash
from verify.runlog import COSIGNATURES, ENTRIES

REQUEST = "add-checkpoint"
ANSWER = "cosigned.txt"
SIGNER = "signer.pub.pem"
NOTE_END = b"==\n\n"


def check(folder: Path) -> None:
    """Make the folder of --witness, or KitError: what is wrong from the start is no fault of a share that comes and goes."""
    step = "name a folder that the witness sees, too, or leave --witness out"
    writable(make_folder(folder, "witness folder", step) / REQUEST, "witness folder", step)


class Outbox:
    """The witness folder of one run; called with each new checkpoint."""

    def __init__(self, folder: Path, run: Path, pem: bytes, say: Callable[[str], None]) -> None:
        self.place, self.run, self.say = folder / run.name, run, say
        self._pem = pem
        self._failing = False

    def __call__(self, note: str) -> None:
        """Collect what was cosigned, then ask for this checkpoint."""
        try:
            self.place.mkdir(parents=True, exist_ok=True)
            collect(self.place, self.run)
            self._ask(note)
        except (OSError, KitError) as error:
            if not self._failing:
                why = getattr(error, "strerror", None) or error
                self.say(f"witness folder {self.place} cannot be used: {why}; the run goes on unwitnessed")
            self._failing = True
        else:
            self._failing = False

    def _ask(self, note: str) -> None:
        kept = self.place / SIGNER
        if not kept.exists() or kept.read_bytes() != self._pem:
            write_atomic(self.place / SIGNER, self._pem)
        seen = last_size(answer(self.place))
        write_atomic(self.place / REQUEST, request(self.run / "runlog" / ENTRIES, seen, note))


def request(entries: Path, old: int, note: str) -> bytes:
    """Body of a C2SP add-checkpoint request: the size that was seen, the proof from there, the checkpoint."""
    size = notes.parse(note).size
    proof = _proof(entries, old, size) if 0 < old < size else []
    lines = [f"old {old}", *(base64.b64encode(node).decode() for node in proof), "", note]
    return "\n".join(lines).encode()


def _proof(entries: Path, old: int, size: int) -> list[bytes]:
    """The consistency proof between two sizes of the log, made from its lines."""
    with entries.open("rb") as file:
        hashes = [leaf_hash(line[:-1]) for line, _ in zip(file, range(size), strict=False)]
    return consistency_proof(hashes, old)


def answer(place: Path) -> bytes:
    """All whole cosigned notes that the witness left so far."""
    path = place / ANSWER
    data = path.read_bytes() if path.exists() else b""
    end = data.rfind(NOTE_END)
    return data[: end + len(NOTE_END)] if end >= 0 else b""


def last_size(data: bytes) -> int:
    """Size of the last cosigned note; 0 where there is none; KitError where they cannot be read."""
    try:
        found = cosign.split(data, ANSWER)
    except Refused as bad:
        raise KitError("cosignatures cannot be read", why=str(bad), next_step="ask the witness") from None
    return found[-1].note.size if found else 0


def collect(place: Path, run: Path) -> int:
    """Copy the cosigned notes into the run log; the last size that was seen."""
    data = answer(place)
    size = last_size(data)
    target = run / "runlog" / COSIGNATURES
    if data and not (target.exists() and target.read_bytes() == data):
        write_atomic(target, data)
    return size
