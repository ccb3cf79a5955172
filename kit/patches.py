"""A vendor's source patches, images/<chip>/patches/*.patch: applied to the installed packages, and part of what is sealed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit import patching
from kit.errors import FAILED, KitError
from verify import patches as rule

FOLDER = "patches"


@dataclass(frozen=True, slots=True)
class Patch:
    """A patch file, read once: `changes` is what it does to each file."""

    name: str
    data: bytes
    changes: tuple[patching.Change, ...]

    def sealed(self) -> dict[str, Any]:
        """What a run states about it: its hash, and lines added and removed for each path."""
        return {
            "file": self.name,
            "sha256": hashlib.sha256(self.data).hexdigest(),
            "paths": [{"path": change.path, "added": change.added, "removed": change.removed} for change in self.changes],
        }


def of(folder: Path) -> tuple[Patch, ...]:
    """The patches in the `patches` folder of a chip, in the order of their names; KitError for a file that is none."""
    place = folder / FOLDER
    return tuple(_read(path) for path in sorted(place.iterdir())) if place.is_dir() else ()


def _read(path: Path) -> Patch:
    where = f"{path.parent.parent.name}/{FOLDER}/{path.name}"
    if path.suffix != ".patch" or path.is_symlink() or not path.is_file() or not patching.PATH.fullmatch(path.name):
        raise KitError("not a patch", where=where, next_step="keep nothing but NAME.patch files in this folder")
    data = path.read_bytes()
    try:
        return Patch(path.name, data, patching.parse(data))
    except patching.Bad as bad:
        raise KitError("patch cannot be read", where=where, why=str(bad), next_step="write it with git diff, or diff -u") from bad


def sealed(patches: tuple[Patch, ...]) -> list[dict[str, Any]]:
    """What a run states about all of them."""
    return [patch.sealed() for patch in patches]


def apply(patches: tuple[Patch, ...], folder: Path) -> None:
    """Apply them below a site-packages folder; KitError (exit 1), with nothing written, where one does not fit."""
    try:
        patching.apply(((patch.name, patch.data) for patch in patches), folder)
    except patching.Bad as bad:
        raise KitError("patch does not apply", where=str(folder), why=str(bad), exit_code=FAILED) from bad


def check(patches: tuple[Patch, ...], allowed: list[str], plan_name: str) -> None:
    """KitError where the plan lets none of its globs cover a touched path: verify would refuse the run."""
    for name, path in rule.outside(sealed(patches), allowed):
        raise KitError(
            f"plan does not allow a patch of {path}",
            where=f"{FOLDER}/{name}, plan {plan_name}",
            next_step="take the patch away, or use a plan whose allowed_patches covers it",
        )
