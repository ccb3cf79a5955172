"""Reads table/*.toml: which row of the attack table is held by which rule and test."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "table"


@dataclass(frozen=True, slots=True)
class Held:
    """One entry: `test` is <module>.py::<function>, `row` 0 where the attack table has none, `rule` empty where the kit refuses."""

    file: str
    row: int
    name: str
    rule: str
    test: str


def read() -> list[Held]:
    """Every entry of every file."""
    return [Held(path.name, **entry) for path in sorted(FOLDER.glob("*.toml")) for entry in tomllib.loads(path.read_text())["attack"]]
