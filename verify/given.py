"""Files that a command line names, looked at before any work: a wrong one is misuse (exit 2), and no refusal of anything."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from verify import chain, cosign, envelope, policy
from verify.files import Evidence
from verify.findings import Refused, Unchecked
from verify.plausibility import seen

STDOUT = "-"
NO_ACCESS = os.strerror(errno.EACCES)
MAX_COSIGNED_BYTES = 64 * 2**20
HELP = "name a file that can be read and a folder that can be written"


def trust(source: str | Path | None) -> None:
    """Unchecked where --policy names what cannot be a policy of any kind; who signed it, and whether it holds, is judged later."""
    if source is None or str(source) == policy.SELF:
        return
    path = Path(source)
    place = chain.newest(path) if path.is_dir() else path
    sealed(place, "policy", "name a signed policy like 1.dsse.json or its folder, or self")


def sealed(path: Path, what: str, next_step: str) -> None:
    """Unchecked where the file cannot be read or holds no envelope."""
    try:
        envelope.parse(Evidence(path.parent).read(path.name, envelope.MAX_BYTES), str(path))
    except Refused as bad:
        if not path.exists():
            raise Unchecked(f"{what} cannot be read", where=str(path), why="no such file", next_step=next_step) from None
        why = f"expected {bad.finding.expected}, found {bad.finding.found}"
        raise Unchecked(f"not a {what}", where=str(path), why=why, next_step=next_step) from None
    except (OSError, Unchecked) as fault:
        why = getattr(fault, "strerror", None) or NO_ACCESS
        raise Unchecked(f"{what} cannot be read", where=str(path), why=why, next_step=next_step) from None


def target(text: str | None, folders: Sequence[Path]) -> Path | None:
    """Where --json writes, None for nowhere or stdout; Unchecked where that cannot be, or is inside one of the sealed `folders`."""
    if text in {None, STDOUT}:
        return None
    path = Path(str(text))
    if any(path.resolve().is_relative_to(folder.resolve()) for folder in folders):
        raise Unchecked("--json would write into the sealed run", where=str(path), next_step="name a file outside of it")
    if not path.resolve().parent.is_dir():
        raise Unchecked("folder of --json does not exist", where=str(path), next_step="make it first")
    if path.is_dir():
        raise Unchecked("--json names a folder", where=str(path), next_step="name a file in it")
    if not os.access(path if path.exists() else path.resolve().parent, os.W_OK):
        raise Unchecked("--json cannot be written", where=str(path), why=NO_ACCESS, next_step="name a file that you may write")
    return path


def write(path: Path, text: str) -> None:
    """Write what --json asks for, or Unchecked."""
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as fault:
        step = "name a file on a disk that takes it"
        raise Unchecked("--json cannot be written", where=str(path), why=fault.strerror or "", next_step=step) from None


def cosigned(path: Path | None) -> tuple[cosign.Cosigned, ...]:
    """The checkpoints of --witness, none where it is not given; Unchecked where the file holds none."""
    if path is None:
        return ()
    step = "name the cosigned.txt that the witness keeps, or leave --witness out"
    try:
        with path.open("rb") as file:
            data = file.read(MAX_COSIGNED_BYTES + 1)
    except OSError as fault:
        raise Unchecked("--witness cannot be read", where=str(path), why=fault.strerror or "", next_step=step) from None
    try:
        found = cosign.split(data, str(path)) if len(data) <= MAX_COSIGNED_BYTES else []
    except Refused as bad:
        why = f"expected {bad.finding.expected}, found {bad.finding.found}"
        raise Unchecked("--witness holds no cosigned checkpoints", where=str(path), why=why, next_step=step) from None
    if not found:
        why = "it is empty" if not data else f"more than {MAX_COSIGNED_BYTES} bytes"
        raise Unchecked("--witness holds no cosigned checkpoints", where=str(path), why=why, next_step=step)
    return tuple(found)


def index(path: Path | None) -> None:
    """Unchecked where --seen names no index that can be read and added to."""
    if path is None:
        return
    seen.read(path)
    if not os.access(path, os.W_OK):
        raise Unchecked("index of seen runs cannot be written", where=str(path), why=NO_ACCESS, next_step="check its mode")
