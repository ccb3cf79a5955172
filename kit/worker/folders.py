"""Local folders that a case names, described by a lock file: nothing in them is read before its SHA-256 has been checked.

`$CHIPASSAY_DATA/<name>/data.lock.json` holds {"schemaVersion": 1, "kind": KIND, "files": {PATH: {"size_bytes", "sha256"}}},
and for token files their "dtype". Weights have the same lock under another name (`weights`).
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

VARIABLE = "CHIPASSAY_DATA"
LOCK = "data.lock.json"


class BadData(Exception):
    """Data that is missing, changed, or of another kind; one line with the next step."""


def opened(name: str, kinds: set[str]) -> tuple[Path, dict[str, Any], str]:
    """(folder, its lock, SHA-256 of the lock) once every file is what the lock says; else BadData."""
    top = os.environ.get(VARIABLE)
    if not top:
        raise BadData(f"no folder of data '{name}' was given; set {VARIABLE} to a folder with {name}/{LOCK}")
    folder = Path(top) / name
    if not (folder / LOCK).is_file():
        raise BadData(f"no {LOCK} in the folder of data '{name}'; write one with the SHA-256 of every file")
    raw = (folder / LOCK).read_bytes()
    try:
        lock: dict[str, Any] = json.loads(raw)
        files = {str(path): (int(entry["size_bytes"]), str(entry["sha256"])) for path, entry in lock["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadData(f"{LOCK} of data '{name}' is no lock: {type(error).__name__} {error}; write it anew") from error
    if lock.get("kind") not in kinds:
        raise BadData(f"data '{name}' is of kind {lock.get('kind')}, the case needs {' or '.join(sorted(kinds))}")
    for path, expected in sorted(files.items()):
        _check(folder / path, path, expected)
    return folder, lock, hashlib.sha256(raw).hexdigest()


def _check(path: Path, name: str, expected: tuple[int, str]) -> None:
    if not path.is_file():
        raise BadData(f"data file {name} is missing; fetch it again")
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    if (path.stat().st_size, digest.hexdigest()) != expected:
        raise BadData(f"data file {name} is not the locked one: SHA-256 {digest.hexdigest()}, locked {expected[1]}; fetch it again")
