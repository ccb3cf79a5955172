"""Paths that workers tell: what a glob or a folder covers, and what a chip's driver explains."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from verify.patches import fits

GONE = " (deleted)"


def within(path: str, globs: Iterable[str]) -> bool:
    """Whether any glob covers the path."""
    return any(fits(path, glob) for glob in globs)


def below(path: str, root: str) -> bool:
    """Whether the path is below the folder."""
    return path.startswith(root.rstrip("/") + "/")


def driver(grants: dict[str, Any]) -> tuple[list[str], bool]:
    """Globs of what the kit or the chip's own runtime mounts, and whether that is all: a runtime may mount what nobody listed."""
    injected = grants.get("injected")
    mounted = [glob for path in grants.get("mounts", []) for glob in (path, f"{path}/**")]
    return [*mounted, *(injected or [])], injected is not None or grants.get("way", "nodes") == "nodes"
