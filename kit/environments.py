"""Isolated environments from a hash-pinned lock, for machines without a container engine; and what another interpreter holds."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import shutil
import sys
import sysconfig
import venv
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit import lock, patches, recipe, wheelhouse
from kit.chip import Chip
from kit.errors import ENVIRONMENT, KitError
from kit.files import cache_folder, sha256_file, write_atomic
from verify.libraries import canonical_name

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Environment:
    """An interpreter with exactly the packages of a lock."""

    python: Path
    lock: dict[str, Any]
    patches: list[dict[str, Any]]


def python_path(chip: Chip) -> Path:
    """Where the interpreter of the chip's environment is, or will be."""
    return _folder(chip) / "bin/python"


def _folder(chip: Chip) -> Path:
    return cache_folder() / "environments" / f"{chip.id}-{recipe.load(chip).sha256()[:12]}"


def prepare(chip: Chip, say: Say) -> Environment:
    """Make the environment of the chip's lock, once; KitError (exit 3) where this Python or machine is not the image's."""
    made = recipe.load(chip)
    _check_host(made)
    house = wheelhouse.prepare(made.locks, made.source_only, made.target, say)
    folder = _folder(chip)
    with wheelhouse.exclusive(folder):
        marker = folder / "complete"
        if not marker.is_file() or marker.read_text(encoding="utf-8") != house.lock_sha256:
            say(f"making an isolated environment from {house.lock_file}")
            shutil.rmtree(folder, ignore_errors=True)
            _make(folder, house)
            patches.apply(made.patches, _packages(folder))
            write_atomic(marker, house.lock_sha256.encode())
    return Environment(folder / "bin/python", house.sealed(), patches.sealed(made.patches))


def _check_host(made: recipe.Recipe) -> None:
    if made.needs_base:
        raise KitError(
            "no environment can be made from the lock alone",
            where=f"{made.folder.name}/image.toml",
            why="torch comes with the image's base",
            next_step="start a container engine, or run in the vendor's own environment: --isolation none",
            exit_code=ENVIRONMENT,
        )
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if here != made.target.python or platform.machine() != made.target.machine:
        raise KitError(
            f"the lock is for Python {made.target.python} on {made.target.machine}",
            where=f"this is Python {here} on {platform.machine()}",
            next_step="start nox with that Python, or start a container engine",
            exit_code=ENVIRONMENT,
        )


def _make(folder: Path, house: wheelhouse.Wheelhouse) -> None:
    try:
        venv.EnvBuilder(symlinks=True, with_pip=False).create(folder)
    except OSError as error:
        raise KitError("environment cannot be made", where=str(folder), why=error.strerror or "", exit_code=ENVIRONMENT) from error
    wheelhouse.pip(
        [
            "--python",
            str(folder / "bin/python"),
            "install",
            "--quiet",
            "--no-index",
            "--find-links",
            str(house.folder / "wheels"),
            "--require-hashes",
            "--no-deps",
            "--requirement",
            str(house.folder / "install.lock"),
        ]
    )


def _packages(folder: Path) -> Path:
    """Where the packages of an environment are."""
    return Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))


def compare(chip: Chip) -> dict[str, Any]:
    """Every package of this interpreter with the SHA-256 over its files, and what differs from the chip's first lock."""
    made = recipe.load(chip)
    distributions = {canonical_name(dist.metadata["Name"]): dist for dist in importlib.metadata.distributions() if dist.metadata["Name"]}
    with ThreadPoolExecutor() as pool:
        digests = dict(zip(distributions, pool.map(_distribution_sha256, distributions.values()), strict=True))
    found = {name: dist.version for name, dist in sorted(distributions.items())}
    locked = {name: pin.version for name, pin in lock.read(made.locks[0]).items()}
    return {
        "lock": made.locks[0].name,
        "found": {name: {"version": version, "sha256": digests[name]} for name, version in found.items()},
        "differs": [
            {"name": name, "locked": version, "found": found.get(name)}
            for name, version in sorted(locked.items())
            if found.get(name) != version
        ],
    }


def _distribution_sha256(dist: importlib.metadata.Distribution) -> str:
    """SHA-256 over `<hex>  <path>` lines of the files that the package installed, compiled ones left out."""
    lines = []
    for file in sorted(dist.files or [], key=str):
        path = Path(str(dist.locate_file(file)))
        if path.suffix != ".pyc" and path.is_file():
            lines.append(f"{sha256_file(path)}  {file}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()
