"""The report's software tables: code bases that suites follow, what they ran on, and the libraries that ranks really mapped."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from kit.report.blocks import Column, Table
from kit.report.source import Source
from kit.report.words import Words

STACK = ("InternLM", "Bert-Pytorch", "Alpaca-Lora", "LLaMa", "Stable-Diffusion")
MEASURED = ("torch", "deepspeed", "transformers", "diffusers", "peft", "lmdeploy", "accelerate", "numpy")  # what suites run on
MB = 10**6


def tables(source: Source, words: Words) -> Iterator[Table]:
    """The table of software, and that of mapped libraries where the run tells them."""
    yield _software(source, words)
    if source.libraries:
        yield _libraries(source, words)


def versions(source: Source) -> dict[str, str]:
    """Name -> version of what the interpreter held, where it was asked; of packages with libraries by what ranks mapped."""
    found = (source.environment.get("packages") or {}).get("found", {})
    owners = (library["package"] for library in source.libraries if library["package"])
    mapped = {owner["name"].lower(): owner["version"] for owner in owners if owner["kind"] == "python"}
    return mapped | {name: str(package["version"]) for name, package in found.items()}


def _software(source: Source, words: Words) -> Table:
    """The report's five rows by the code bases that suites follow, further ones, then what the suites ran on."""
    packages = versions(source)
    known = {reference["name"]: reference for reference in source.environment.get("references", ())}
    named = dict.fromkeys([*STACK, *known])
    stack = [(name, _followed(known.get(name), packages.get(name.lower()), words)) for name in named]
    measured = [(name, packages[name]) for name in MEASURED if name in packages]
    differs = (source.environment.get("packages") or {}).get("differs", [])
    others = [(words.say("software.differs"), _differences(differs, words))] if differs else []
    rows = tuple((str(index), name, version) for index, (name, version) in enumerate([*stack, *measured, *others], start=1))
    columns = (Column(words.say("column.id"), number=True), Column(words.say("column.name")), Column(words.say("column.version")))
    notes = (words.say("software.followed"),) if known else ()
    return Table("table-software", words.bare("software"), columns, rows, notes=notes)


def _followed(reference: dict[str, Any] | None, installed: str | None, words: Words) -> str:
    """What is installed under this name, else the code base whose definition is followed."""
    if installed or reference is None:
        return installed or words.say("unknown")
    return " ".join(filter(None, (reference["repository"], reference["version"], reference["commit"] and f"@ {reference['commit']}")))


def _differences(differs: list[dict[str, Any]], words: Words) -> str:
    """`name locked -> found` for each package that is not the lock's."""
    return "; ".join(f"{item['name']} {item['locked']} -> {item['found'] or words.say('software.missing')}" for item in differs)


def _libraries(source: Source, words: Words) -> Table:
    """Mapped files by the package that brought them, the largest first; files of no package by their folder."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for library in source.libraries:
        groups.setdefault(_owner(library, words), []).append(library)
    sized = sorted(((sum(one["size_bytes"] or 0 for one in group), owner, group) for owner, group in groups.items()), key=_largest)
    rows = tuple((name, version, str(len(group)), f"{size / MB:.1f}", _digest(group)) for size, (name, version), group in sized)
    columns = (
        Column(words.say("column.name")),
        Column(words.say("column.version")),
        Column(words.say("software.files"), number=True),
        Column(words.say("software.megabytes"), number=True),
        Column(words.say("software.digest")),
    )
    return Table("table-libraries", words.say("software.libraries"), columns, rows, notes=(words.say("software.mapped"),))


def _largest(group: tuple[int, tuple[str, str], list[dict[str, Any]]]) -> tuple[int, tuple[str, str]]:
    return -group[0], group[1]


def _owner(library: dict[str, Any], words: Words) -> tuple[str, str]:
    package = library["package"]
    if package is None:
        return library["path"].rpartition("/")[0] or "/", "-"
    return (words.say("software.debian"), "-") if package["kind"] == "debian" else (package["name"], package["version"])


def _digest(group: list[dict[str, Any]]) -> str:
    """First characters of the SHA-256 over `<hex>  <path>` lines in the order of the paths; a dash where a file was not hashed."""
    lines = [f"{one['sha256']}  {one['path']}\n" for one in sorted(group, key=lambda one: str(one["path"]))]
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16] if all(one["sha256"] for one in group) else "-"
