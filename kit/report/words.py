"""The two languages as data: words/en.toml and words/zh.toml have the same keys (docs/decisions/0007)."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "words"
LANGUAGES = ("en", "zh")


NUMBER = re.compile(r"^\W*[0-9][0-9.]*\W\s*")


@dataclass(frozen=True, slots=True)
class Words:
    """The words of one language."""

    language: str
    entries: dict[str, Any]

    def say(self, key: str, **slots: object) -> str:
        """The text at `a.b`, its slots filled in; KeyError where there is none, which a test keeps from happening."""
        found: Any = self.entries
        for name in key.split("."):
            found = found[name]
        return str(found).format_map(slots) if slots else str(found)

    def bare(self, heading: str) -> str:
        """A heading without its number, for the caption of a table below it."""
        return NUMBER.sub("", self.say(f"heading.{heading}"))

    def name(self, group: str, key: str) -> str:
        """The word for a name that comes out of a run, or the name itself."""
        return str(self.entries[group].get(key, key))


@cache
def load(language: str) -> Words:
    """Words of `en` or `zh`."""
    return Words(language, tomllib.loads((FOLDER / f"{language}.toml").read_text(encoding="utf-8")))
