"""How a chip's image is made, as its image.toml says: platform, Python, locks, base."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit import patches, patching
from kit.chip import Chip, read_toml
from kit.errors import KitError
from kit.wheelhouse import Target
from verify.data import root

MACHINES = {"linux/amd64": "x86_64", "linux/arm64": "aarch64"}
DOCKERFILE = "Dockerfile"
VENV = "python3 -m venv /opt/venv"


@dataclass(frozen=True, slots=True)
class Recipe:
    """An image.toml with its folder."""

    document: dict[str, Any]
    folder: Path

    @property
    def platform(self) -> str:
        """Like linux/amd64."""
        return str(self.document["platform"])

    @property
    def locks(self) -> list[Path]:
        """Lock files in the order in which they are tried."""
        return [self.folder / name for name in self.document["locks"]]

    @property
    def source_only(self) -> list[str]:
        return list(self.document["source_only"])

    @property
    def imports(self) -> list[str]:
        """`module` or `module:attribute` that must import in the image."""
        return list(self.document.get("imports", []))

    @property
    def dockerfile(self) -> str:
        """The one recipe; where the base brings torch, the environment made in it sees the base's packages."""
        text = (root() / DOCKERFILE).read_text(encoding="utf-8")
        return text.replace(VENV, VENV.replace("venv ", "venv --system-site-packages ", 1)) if self.needs_base else text

    @property
    def needs_base(self) -> bool:
        """Whether torch and SDK are the base's, and the lock holds only what is added."""
        return bool(self.document["python"].get("packages", "own") == "base")

    @property
    def target(self) -> Target:
        python = self.document["python"]
        return Target(python["version"], python["glibc"], MACHINES[self.platform])

    @property
    def base(self) -> dict[str, Any]:
        """`registry` and `debian`, either or both."""
        return dict(self.document["base"])

    @property
    def patches(self) -> tuple[patches.Patch, ...]:
        """The vendor's source patches, in the order in which they are applied."""
        return patches.of(self.folder)

    def inputs(self) -> list[Path]:
        """Every file that decides what the image holds."""
        locks = [*self.locks, *([self.folder / self.base["debian"]["lock"]] if "debian" in self.base else [])]
        patched = [self.folder / patches.FOLDER / patch.name for patch in self.patches]
        return [root() / DOCKERFILE, self.folder / "image.toml", *locks, *([Path(patching.__file__), *patched] if patched else [])]

    def sha256(self) -> str:
        """SHA-256 over `<hex>  <name>` lines of the inputs: two equal recipes ask for the same image."""
        lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in self.inputs() if path.is_file()]
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def exists(chip: Chip) -> bool:
    """Whether somebody has written how the chip's image is made."""
    return (chip.folder / "image.toml").is_file()


def load(chip: Chip) -> Recipe:
    """The recipe of a chip's image; KitError where there is none or its file does not fit the schema."""
    if not exists(chip):
        raise KitError(f"chip '{chip.id}' has no image yet", where=str(chip.folder), next_step="write image.toml: docs/bring-up.md")
    return Recipe(read_toml(chip.folder / "image.toml", "image"), chip.folder)
