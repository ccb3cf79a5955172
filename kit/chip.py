"""Chips as data: one folder holds everything that the kit knows about a chip.

Folders come with the kit (images/), from --chips or CHIPASSAY_CHIPS, and from installed packages (entry points of the group
chipassay.chips, each naming a folder of chip folders). A chip that two of them describe is refused.
"""

from __future__ import annotations

import importlib.metadata
import os
import shlex
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.errors import KitError
from kit.schema import check, closest
from verify.data import root

DEVICE, IMPORT, COLLECTIVE, LACKS = "CHIPASSAY_DEVICE", "CHIPASSAY_IMPORT", "CHIPASSAY_COLLECTIVE", "CHIPASSAY_LACKS"
FOLDERS = "CHIPASSAY_CHIPS"
GROUP = "chipassay.chips"
STATUSES = ("proven", "documented", "field", "seen")
PARTS = ("detection", "torch", "container", "kubernetes", "apptainer", "supports")


@dataclass(frozen=True, slots=True)
class Chip:
    """A chip as its chip.toml describes it."""

    document: dict[str, Any]
    folder: Path

    @property
    def id(self) -> str:
        return str(self.document["id"])

    @property
    def names(self) -> dict[str, str]:
        return dict(self.document["names"])

    @property
    def parts(self) -> dict[str, str]:
        """How sure each part of the description is."""
        return {part: self.document[part]["status"] for part in PARTS if part in self.document}

    @property
    def status(self) -> str:
        """How sure the least sure part is without which nothing runs."""
        return max((str(self.document[part]["status"]) for part in ("torch", "container")), key=STATUSES.index)

    @property
    def option(self) -> str:
        """What a command needs beside `--chip` to find this one: ` --chips DIR`, or nothing."""
        return f" --chips {shlex.quote(str(self.folder.parent))}" if self.folder.parent in _named() else ""

    @property
    def detection(self) -> dict[str, Any]:
        return dict(self.document.get("detection", {}))

    @property
    def torch(self) -> dict[str, Any]:
        return dict(self.document["torch"])

    @property
    def peaks(self) -> list[dict[str, Any]]:
        """What the data sheet names; empty where chip.toml has none."""
        return list(self.document.get("peaks", []))

    @property
    def container(self) -> dict[str, Any]:
        """What a container of this chip is given beyond the common."""
        return dict(self.document["container"])

    def section(self, name: str) -> dict[str, Any]:
        """A part that may be missing."""
        return dict(self.document.get(name, {}))

    def worker_environment(self) -> dict[str, str]:
        """What the worker is told about the chip, however it is isolated."""
        seen = self.torch
        told = {DEVICE: str(seen["device"])}
        if not seen.get("autoload", True):
            told[IMPORT] = seen["package"]
        if "collective" in seen:
            told[COLLECTIVE] = seen["collective"]
        if lacks := self.section("supports").get("lacks"):
            told[LACKS] = ",".join(lacks)
        return told

    def visible(self, numbers: Sequence[int]) -> dict[str, str]:
        """The variables that show a bare process these cards only."""
        return {name: filled(text, numbers) for name, text in self.torch.get("visible", {}).items()}


def filled(text: str, numbers: Sequence[int]) -> str:
    """The text with {cards} replaced by the numbers."""
    return text.replace("{cards}", ",".join(map(str, numbers)))


def folders() -> dict[str, Path]:
    """Chip id -> folder, from the kit, the option and the plug-ins."""
    found: dict[str, Path] = {}
    for place in [root() / "images", *_named(), *_plugged()]:
        for path in sorted(place.glob("*/chip.toml")):
            if path.parent.name in found:
                raise KitError(
                    f"chip '{path.parent.name}' is described twice",
                    where=f"{found[path.parent.name]} and {path.parent}",
                    next_step="rename or remove one",
                )
            found[path.parent.name] = path.parent
    return found


def _named() -> list[Path]:
    """Folders that --chips or CHIPASSAY_CHIPS names."""
    named = [Path(text) for text in os.environ.get(FOLDERS, "").split(os.pathsep) if text]
    for path in named:
        if not path.is_dir():
            raise KitError("folder of chips does not exist", where=str(path), next_step="name a folder that holds <chip>/chip.toml")
    return named


def _plugged() -> list[Path]:
    """Folders that installed packages bring; one that does not load ends the command."""
    return [_load_plugin(entry) for entry in importlib.metadata.entry_points(group=GROUP)]


def _load_plugin(entry: importlib.metadata.EntryPoint) -> Path:
    try:
        folder = Path(entry.load())
    except Exception as error:
        raise KitError(
            "plug-in of chips cannot be loaded", where=f"{entry.name} = {entry.value}", why=repr(error), next_step="mend or uninstall it"
        ) from error
    if not folder.is_dir():
        raise KitError("plug-in names no folder of chips", where=f"{entry.name} = {entry.value}", why=f"{folder} is no folder")
    return folder


def chips() -> list[str]:
    """Ids of the chips that are described here."""
    return sorted(folders())


def load(chip_id: str) -> Chip:
    """The chip of that id; KitError when there is none or its file does not fit the schema."""
    known = folders()
    if chip_id not in known:
        raise KitError(f"unknown chip '{chip_id}'", next_step=f"one in a folder of your own needs --chips DIR; {closest(chip_id, known)}")
    document = read_toml(known[chip_id] / "chip.toml", "chip")
    if document["id"] != chip_id:
        raise KitError(f"chip is named '{document['id']}'", where=str(known[chip_id]), next_step="name it as its folder")
    return Chip(document, known[chip_id])


def shown(path: Path) -> str:
    """A path as people know it: from the kit's own root, else from the folder of chips that holds it."""
    return str(path.relative_to(root() if path.is_relative_to(root()) else path.parent.parent))


def read_toml(path: Path, schema: str) -> dict[str, Any]:
    """A TOML file that fits a schema of manifests/schemas."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise KitError("file cannot be read", where=str(path), why=error.strerror or "") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise KitError("not valid TOML", where=str(path), why=str(error), next_step="correct the file") from error
    check(document, schema, str(path))
    return document
