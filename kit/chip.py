"""Chips as data: one folder below images/ holds everything that the kit knows about a chip."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.errors import KitError
from kit.schema import check, closest
from verify.data import root

DEVICE = "CHIPASSAY_DEVICE"


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
    def status(self) -> str:
        return str(self.document["status"])

    def worker_environment(self) -> dict[str, str]:
        """Variables that every worker of this chip gets, however it is isolated."""
        return {DEVICE: str(self.document["worker"]["device"]), **self.document["container"]["environment"]}

    @property
    def container(self) -> dict[str, Any]:
        """What a container of this chip is given beyond the common."""
        return dict(self.document["container"])


def chips() -> list[str]:
    """Ids of the chips that are described here."""
    return sorted(path.parent.name for path in (root() / "images").glob("*/chip.toml"))


def load(chip_id: str) -> Chip:
    """The chip of that id; KitError when there is none or its file does not fit the schema."""
    if chip_id not in chips():
        raise KitError(f"unknown chip '{chip_id}'", next_step=closest(chip_id, chips()))
    folder = root() / "images" / chip_id
    document = read_toml(folder / "chip.toml", "chip")
    if document["id"] != chip_id:
        raise KitError(f"chip is named '{document['id']}'", where=f"images/{chip_id}", next_step="name it as its folder")
    return Chip(document, folder)


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
