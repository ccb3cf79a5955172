"""Weights from a local folder that a lock file describes: nothing is read before its SHA-256 has been checked.

`$CHIPASSAY_WEIGHTS/<name>/weights.lock.json` holds {"schemaVersion": 1, "architecture": NAME, "files": {PATH: {"size_bytes", "sha256"}}}.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

FOLDER = "CHIPASSAY_WEIGHTS"
LOCK = "weights.lock.json"
TENSORS = ".safetensors"


class BadWeights(Exception):
    """Weights that are missing, changed, or of another architecture; one line with the next step."""


def folder(name: str) -> Path:
    """The folder of the weights called `name`."""
    top = os.environ.get(FOLDER)
    if not top:
        wanted = f"set {FOLDER} to a folder with {name}/{LOCK}"
        raise BadWeights(f"no folder of weights '{name}' was given; {wanted}, or use weights = \"random\"")
    path = Path(top) / name
    if not (path / LOCK).is_file():
        raise BadWeights(f"no {LOCK} in the folder of weights '{name}'; write one with the SHA-256 of every file")
    return path


def checked(name: str, architecture: str) -> tuple[Path, str]:
    """(folder, SHA-256 of its lock file) once every file is what the lock says; else BadWeights."""
    path = folder(name)
    data = (path / LOCK).read_bytes()
    lock: dict[str, Any] = json.loads(data)
    if lock.get("architecture") != architecture:
        raise BadWeights(f"weights '{name}' are of architecture {lock.get('architecture')}, the case asks for {architecture}")
    for file, expected in sorted(lock["files"].items()):
        _check(path / file, file, expected)
    for found in sorted(found.name for found in path.glob(f"*{TENSORS}")):
        if found not in lock["files"]:
            raise BadWeights(f"weights file {found} lies in the folder and not in {LOCK}; lock it, or take it away")
    return path, hashlib.sha256(data).hexdigest()


def locked(path: Path) -> list[str]:
    """Files that the lock of a folder names, sorted."""
    return sorted(json.loads((path / LOCK).read_bytes())["files"])


def _check(path: Path, name: str, expected: dict[str, Any]) -> None:
    if not path.is_file():
        raise BadWeights(f"weights file {name} is missing; fetch it again")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)
    if found != expected["sha256"] or path.stat().st_size != expected["size_bytes"]:
        raise BadWeights(f"weights file {name} is not the locked one: SHA-256 {found}, locked {expected['sha256']}; fetch it again")


def _digest(file: Any) -> str:
    """Python 3.10 has no file_digest."""
    digest = hashlib.sha256()
    while block := file.read(2**20):
        digest.update(block)
    return digest.hexdigest()
