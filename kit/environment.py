"""What this machine is: the facts of environment.json, read from the system and never from torch."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path
from typing import Any


def _first_value(path: str, key: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                name, _, value = line.partition(":")
                if name.strip() == key:
                    return value.strip()
    except OSError:
        return None
    return None


def _os_name() -> str | None:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME")
    except OSError:
        return None


def memory_bytes() -> int:
    """Physical memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def clock_source() -> str | None:
    """The kernel's clock source, which all event times hang on."""
    try:
        return Path("/sys/devices/system/clocksource/clocksource0/current_clocksource").read_text(encoding="ascii").strip()
    except OSError:
        return None


def host() -> dict[str, Any]:
    """Host facts; no host name, no user, no address: a run may be published."""
    return {
        "os": _os_name(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpu_model": _first_value("/proc/cpuinfo", "model name"),
        "cpu_count": os.cpu_count() or 1,
        "memory_bytes": memory_bytes(),
        "clock_source": clock_source(),
        "python": platform.python_version(),
    }


def free_bytes(folder: Path) -> int:
    """Free bytes on the file system of `folder` or its nearest existing parent."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
