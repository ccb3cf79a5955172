"""What this machine has for a run, what is missing, and the next step; never changes anything."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tabulate import tabulate

from kit import chip, engine, environment, image, keys
from kit.errors import ENVIRONMENT, KitError
from kit.files import cache_folder

WANTED_FREE_BYTES = 8 * 2**30
Row = tuple[str, str, str, str]


def _engine() -> Row:
    try:
        version = engine.connect().version()["Version"]
    except KitError as error:
        return "engine", "missing", str(error), "install and start Docker or Podman; plan smoke also runs without"
    return "engine", "ok", f"container engine {version}", ""


def _disk() -> Row:
    free = min(environment.free_bytes(Path.cwd()), environment.free_bytes(cache_folder()))
    state = "ok" if free >= WANTED_FREE_BYTES else "low"
    return (
        "disk",
        state,
        f"{free / 1e9:.1f} GB free here and in the cache",
        "" if state == "ok" else "8 GB are wanted for wheels and an image",
    )


def _clock() -> Row:
    source = environment.clock_source() or "unknown"
    good = source not in {"unknown", "jiffies", "hpet", "acpi_pm"}
    return (
        "clock",
        "ok" if good else "poor",
        f"clock source {source}",
        "" if good else "times will be coarse: prefer tsc, kvm-clock or arch_sys_counter",
    )


def _builder() -> Row:
    found = shutil.which("mmdebstrap")
    return (
        "base",
        "ok" if found else "missing",
        "mmdebstrap" if found else "mmdebstrap not found",
        "" if found else "apt-get install mmdebstrap, to build images without a registry",
    )


def _key() -> Row:
    path = keys.config_folder() / keys.KEY_NAME
    return (
        "key",
        "ok" if path.exists() else "new",
        "signing key exists" if path.exists() else "no signing key yet",
        "" if path.exists() else "made by the first run",
    )


def _chips() -> list[Row]:
    return [
        (
            "chip",
            product.status,
            f"{product.id}: {product.names['en']}",
            "" if image.is_built(product) else "image is built by the first run",
        )
        for product in map(chip.load, chip.chips())
    ]


CHECKS: tuple[Callable[[], Row], ...] = (_engine, _builder, _disk, _clock, _key)


def facts() -> dict[str, Any]:
    """Host facts and one row per check: {"check", "state", "found", "next"}."""
    rows = [check() for check in CHECKS] + _chips()
    return {
        "host": environment.host(),
        "checks": [dict(zip(("check", "state", "found", "next"), row, strict=True)) for row in rows],
    }


def show(*, as_json: bool) -> int:
    """Print the facts; exit code 3 when no run of any kind is possible here (no space), else 0."""
    found = facts()
    if as_json:
        print(json.dumps(found, sort_keys=True))
    else:
        print(tabulate([(k, v) for k, v in found["host"].items()], tablefmt="plain"))
        print(
            tabulate(
                [tuple(row.values()) for row in found["checks"]],
                headers=("check", "state", "found", "next step"),
                tablefmt="simple",
            )
        )
    full = any(row["check"] == "disk" and row["state"] == "low" for row in found["checks"])
    return ENVIRONMENT if full else 0
