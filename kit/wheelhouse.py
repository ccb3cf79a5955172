"""Wheelhouses: every file of a lock, fetched once by pip through whatever mirror it knows, checked against its hash.

A package that exists only as source is locked by the source's hash; its wheel is built here and that wheel's hash recorded.
The result serves a build without network and an isolated environment alike.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit import lock
from kit.chip import shown
from kit.errors import ENVIRONMENT, KitError
from kit.files import cache_folder, sha256_file, write_atomic
from verify.data import root
from verify.libraries import canonical_name

Say = Callable[[str], None]
BUILD_LOCK = "requirements/build.lock"
EPOCH = "1767225600"  # 2026-01-01: dates in wheels built here
OLDEST_GLIBC = 17
UNAVAILABLE = ("No matching distribution found", "Could not find a version")


@dataclass(frozen=True, slots=True)
class Target:
    """For which Python a wheelhouse is made: version like 3.11, glibc like 2.28, machine like x86_64."""

    python: str
    glibc: str
    machine: str

    def pip_options(self) -> list[str]:
        """Pip's description of the target, so that any host Python can fetch for it."""
        digits = self.python.replace(".", "")
        newest = int(self.glibc.split(".")[1])
        tags = [f"manylinux_2_{minor}_{self.machine}" for minor in range(newest, OLDEST_GLIBC - 1, -1)]
        tags += [f"manylinux2014_{self.machine}", f"manylinux2010_{self.machine}", f"manylinux1_{self.machine}"]
        platforms = [part for tag in tags for part in ("--platform", tag)]
        return [
            "--python-version",
            self.python,
            "--implementation",
            "cp",
            "--abi",
            f"cp{digits}",
            "--abi",
            "abi3",
            "--abi",
            "none",
            *platforms,
        ]


@dataclass(frozen=True, slots=True)
class Wheelhouse:
    """A complete folder: wheels/ and install.lock; `built` maps a package built from source to its wheel's SHA-256."""

    folder: Path
    lock_file: str
    lock_sha256: str
    built: dict[str, str]

    def sealed(self) -> dict[str, Any]:
        """What a run states about it."""
        return {"file": self.lock_file, "sha256": self.lock_sha256, "built": self.built}


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """One process at a time makes `folder`."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def prepare(locks: Sequence[Path], source_only: Sequence[str], target: Target, say: Say) -> Wheelhouse:
    """The wheelhouse of the first lock whose packages this machine can get; made once."""
    for index, path in enumerate(locks):
        try:
            return _prepare(path, source_only, target, say)
        except _UnavailableError as error:
            if index + 1 == len(locks):
                raise
            say(f"lock {path.name} cannot be had here ({error.why}); trying {locks[index + 1].name}")
    raise KitError("image names no lock")


class _UnavailableError(KitError):
    """pip reaches its mirrors, and they lack a package of the lock."""


def _prepare(path: Path, source_only: Sequence[str], target: Target, say: Say) -> Wheelhouse:
    pins = lock.read(path)
    name = shown(path)
    folder = cache_folder() / "wheelhouse" / sha256_file(path)[:16]
    with exclusive(folder):
        if not (folder / "record.json").is_file():
            say(f"fetching {len(pins)} packages of {name}")
            shutil.rmtree(folder, ignore_errors=True)
            (folder / "wheels").mkdir(parents=True)
            _fetch(folder, pins, source_only, target)
            _finish(folder, pins, source_only)
        record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    return Wheelhouse(folder, name, sha256_file(path), record["built"])


def _fetch(folder: Path, pins: dict[str, lock.Pin], source_only: Sequence[str], target: Target) -> None:
    binary, source = folder / "binary.lock", folder / "source.lock"
    binary.write_text(lock.render(pin for name, pin in pins.items() if name not in source_only), encoding="utf-8")
    source.write_text(lock.render(pin for name, pin in pins.items() if name in source_only), encoding="utf-8")
    common = ["--quiet", "--require-hashes", "--no-deps"]
    pip(["download", *common, "--only-binary=:all:", *target.pip_options(), "--dest", str(folder / "wheels"), "--requirement", str(binary)])
    if source_only:
        tools = _build_tools()
        environment = {"PYTHONPATH": str(tools), "SOURCE_DATE_EPOCH": EPOCH, "DS_BUILD_OPS": "0"}
        pip(
            [
                "wheel",
                *common,
                "--no-cache-dir",
                "--no-build-isolation",
                "--wheel-dir",
                str(folder / "wheels"),
                "--requirement",
                str(source),
            ],
            environment,
        )


def _build_tools() -> Path:
    """What building from source needs, from a lock of its own."""
    path = root() / BUILD_LOCK
    folder = cache_folder() / "tools" / sha256_file(path)[:16]
    with exclusive(folder):
        if not (folder / "complete").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            pip(["install", "--quiet", "--require-hashes", "--no-deps", "--target", str(folder), "--requirement", str(path)])
            (folder / "complete").touch()
    return folder


def _finish(folder: Path, pins: dict[str, lock.Pin], source_only: Sequence[str]) -> None:
    """Record what was built, and write the lock from which a target installs: the same pins, built wheels by their hash."""
    wheels = {canonical_name(path.name.split("-")[0]): path for path in (folder / "wheels").glob("*.whl")}
    built = {name: sha256_file(wheels[name]) for name in source_only}
    final = [lock.Pin(pin.name, pin.version, (built[name],)) if name in built else pin for name, pin in pins.items()]
    (folder / "install.lock").write_text(lock.render(final), encoding="utf-8")
    write_atomic(folder / "record.json", json.dumps({"built": built}, sort_keys=True).encode() + b"\n")


def pip(arguments: Sequence[str], environment: dict[str, str] | None = None) -> None:
    """Run pip of this interpreter; KitError with its last error line (exit 3)."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", *arguments],
        check=False,
        text=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"} | (environment or {}),
    )
    if done.returncode == 0:
        return
    lines = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
    why = lines[-1] if lines else (done.stderr.strip().splitlines() or ["no message"])[-1]
    kind = _UnavailableError if any(mark in done.stderr for mark in UNAVAILABLE) and "Errno" not in done.stderr else KitError
    raise kind(
        f"pip {arguments[0]} failed",
        why=why,
        exit_code=ENVIRONMENT,
        next_step="check that a package index can be reached: pip download pip",
    )
