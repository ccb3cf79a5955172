"""Lock files: `name==version` with the SHA-256 of every file that may be installed for it, and no addresses."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kit.errors import KitError
from verify.libraries import canonical_name

PIN = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[^\s;\\]+)(?P<rest>.*)")
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})(?=\s|$)")


@dataclass(frozen=True, slots=True)
class Pin:
    """One package at one version; `sha256` are the files admitted."""

    name: str
    version: str
    sha256: tuple[str, ...]

    def __str__(self) -> str:
        return " \\\n    ".join([f"{self.name}=={self.version}", *(f"--hash=sha256:{digest}" for digest in self.sha256)])


def parse(text: str, where: str) -> dict[str, Pin]:
    """Canonical name -> pin; KitError for a line without a version, without a hash, or with an address."""
    pins: dict[str, Pin] = {}
    for line in text.replace("\\\n", " ").splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = PIN.fullmatch(line.strip())
        digests = HASH.findall(line)
        if match is None or not digests or HASH.sub("", match["rest"]).strip(" \\"):
            raise KitError(
                "lock holds a line that is not `name==version --hash=sha256:…`",
                where=f"{where}: {line.split()[0]}",
                next_step="make it again: python -m kit image lock CHIP",
            )
        pins[canonical_name(match["name"])] = Pin(match["name"], match["version"], tuple(digests))
    return pins


def read(path: Path) -> dict[str, Pin]:
    """The pins of a lock file."""
    try:
        return parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise KitError("lock cannot be read", where=str(path), why=str(error)) from error


def render(pins: Iterable[Pin]) -> str:
    """The text of a lock file."""
    return "".join(f"{pin}\n" for pin in pins)
