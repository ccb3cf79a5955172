"""A vendor's source patches: the plan says which files they may touch, and everything that was signed names the same ones."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from typing import Any

from verify.findings import Finding, error

Document = dict[str, Any]
BELOW = "**"


def fits(path: str, glob: str) -> bool:
    """Whether a glob covers a path: * and ? stay within one folder, a last segment ** stands for everything below."""
    names, wanted = path.split("/"), glob.split("/")
    below = wanted[-1] == BELOW
    if below:
        wanted.pop()
    as_deep = len(names) > len(wanted) if below else len(names) == len(wanted)
    return as_deep and all(map(fnmatch.fnmatchcase, names, wanted))


def outside(patches: list[Document], allowed: list[str]) -> Iterator[tuple[str, str]]:
    """(file, path) of every touched path that no glob covers."""
    for patch in patches:
        for touched in patch["paths"]:
            if not any(fits(touched["path"], glob) for glob in allowed):
                yield patch["file"], touched["path"]


def permitted(plan: Document, environment: Document) -> Iterator[Finding]:
    """Every path that a patch touches is one that the plan allows."""
    for file, path in outside(environment["patches"], plan["allowed_patches"]):
        yield error("patches.allowed", f"patch {file}", f"a path that fits {plan['allowed_patches']}", path)


def stated(environment: Document, said: Document | None) -> Iterator[Finding]:
    """Statement, environment and the image's record name the same patches; an interpreter that nobody made has none."""
    expected = environment["patches"]
    claims: dict[str, Any] = {}
    if environment["image"] is not None:
        claims["environment.json image.patches"] = environment["image"]["patches"]
    if environment["isolation"]["kind"] == "none":
        claims["environment.json isolation.kind none"] = []
    if said is not None:
        claims["statement patches"] = said["patches"]
    for where, found in claims.items():
        if found != expected:
            yield error("patches.stated", where, expected, found)
