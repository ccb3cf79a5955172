"""Scoring profiles: how the report is read, as data in baselines/profiles/NAME.toml."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from typing import Any

from verify.data import root
from verify.findings import Unchecked

DEFAULT = "report-0.2.1"
FOLDER = "baselines/profiles"
NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile as its file states it; `rows` are the metrics that the report asks for."""

    name: str
    source: str
    digits: int
    rows: tuple[dict[str, Any], ...]


def names() -> list[str]:
    """Sorted names of the profiles that are shipped."""
    return sorted(path.stem for path in (root() / FOLDER).glob("*.toml"))


def load(name: str) -> Profile:
    """The shipped profile of this name, or Unchecked."""
    if NAME.fullmatch(name) is None or name not in names():
        raise Unchecked(f"unknown profile '{name}'", next_step=f"known: {', '.join(names())}")
    path = root() / FOLDER / f"{name}.toml"
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        return Profile(document["name"], document["source"], document["rounding"]["significant_digits"], tuple(document["row"]))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError) as fault:
        raise Unchecked("profile cannot be used", where=str(path), why=str(fault), next_step="restore the shipped file") from None
