"""Libraries that the ranks of a case mapped, held against what explains them: the lock, the base, mounted drivers, one another.

A wheel promises a hash for each of its files, the kit hashed the drivers that it mounted, and one image holds one file under a
name. A library that none of them explains was brought some other way (attack row 32).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from verify.data import root
from verify.findings import Finding, error, warning
from verify.places import GONE, below, driver, within

Document = dict[str, Any]
LOCK = re.compile(r"images/[a-z0-9-]+/(?:[a-z0-9.-]+/)?[a-z0-9.-]+\.lock")
PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)", re.MULTILINE)


def check(ranks: Iterable[tuple[str, Document]], environment: Document) -> Iterator[Finding]:
    """Every rank that tells its libraries: runs of earlier versions do not."""
    kind, seen = environment["isolation"]["kind"], dict[str, Document]()
    pins = locked(environment["lock"]) if kind != "none" else None
    for where, said in ranks:
        for library in said.get("libraries", ()):
            yield from promised(library, kind, where)
            yield from alike(library, seen, kind, where)
            yield from pinned(library, said, environment, pins, where)
            if kind == "container":
                yield from mounted(library, environment, where)
                yield from explained(library, said, environment, where)


def promised(library: Document, kind: str, where: str) -> Iterator[Finding]:
    """A package's library is the one that the package brought; outside of what the kit made, sites may have changed theirs."""
    found, expected = library["sha256"], library["recorded"]
    if found and expected and found != expected:
        say = warning if kind == "none" else error
        yield say("inside.libraries", f"{where}: {library['path']}", f"{_named(library)} with {expected}", found)


def alike(library: Document, seen: dict[str, Document], kind: str, where: str) -> Iterator[Finding]:
    """One path is one library for all ranks: in a container always; hosts of a bare process may differ."""
    known = seen.setdefault(library["path"], library)
    for key in ("size_bytes", "sha256"):
        if None not in (known[key], library[key]) and known[key] != library[key]:
            say = error if kind == "container" else warning
            yield say("inside.libraries", f"{where}: {library['path']}", f"{key} {known[key]} as in another rank", library[key])


def pinned(library: Document, said: Document, environment: Document, pins: dict[str, str] | None, where: str) -> Iterator[Finding]:
    """A package that the kit installed is in the lock, at this version; what a vendor's base holds, its digest says."""
    package = library["package"]
    if not pins or not package or package["kind"] != "python" or not _ours(library["path"], said, environment):
        return
    expected = pins.get(canonical_name(package["name"]))
    if expected != package["version"].lower():
        asked = f"{package['name']} {expected or 'not in the lock'}"
        yield error("inside.libraries", f"{where}: {library['path']}", asked, package["version"])


def _ours(path: str, said: Document, environment: Document) -> bool:
    """Whether the kit put the file there: in an image on Debian all of it, in an environment what is below its own folders."""
    if environment["isolation"]["kind"] == "container":
        return _on_debian(environment)
    return any(below(path, place) for place in said["roots"])


def _on_debian(environment: Document) -> bool:
    return bool((environment["image"] or {}).get("base", {}).get("kind") == "debian")


def mounted(library: Document, environment: Document, where: str) -> Iterator[Finding]:
    """A driver's library is the one that the kit hashed on the host before it mounted it."""
    expected = (environment.get("inventory") or {}).get("libraries", {}).get(library["path"])
    if expected and library["sha256"] and expected != library["sha256"]:
        yield error("inside.libraries", f"{where}: {library['path']}", f"the mounted driver's {expected}", library["sha256"])


def explained(library: Document, said: Document, environment: Document, where: str) -> Iterator[Finding]:
    """In an image on Debian, each file has a package, is the chip's own driver, or was compiled by the process itself."""
    path, grants = library["path"], environment.get("grants") or {}
    if library["package"] or path.endswith(GONE) or below(path, said["temporary"]) or not _on_debian(environment):
        return
    expected, known = driver(grants)
    if not within(path, expected):
        say = error if known else warning
        yield say("inside.libraries", f"{where}: {path}", "a library of lock, base or mounted driver", _size(library))


def _size(library: Document) -> str:
    return f"{library['size_bytes']} bytes, sha256 {library['sha256']}, of no package"


def _named(library: Document) -> str:
    package = library["package"]
    return f"{package['name']} {package['version']}" if package else "a package"


def locked(lock: Document | None) -> dict[str, str] | None:
    """Canonical name -> version of the run's lock, where this checkout holds the same file; None where it does not."""
    if lock is None or not LOCK.fullmatch(lock["file"]):
        return None
    return _pins(lock["file"], lock["sha256"])


@cache
def _pins(file: str, sha256: str) -> dict[str, str] | None:
    try:
        data = (root() / file).read_bytes()
    except OSError:
        return None
    if hashlib.sha256(data).hexdigest() != sha256:
        return None
    return {canonical_name(name): version.lower() for name, version in PIN.findall(data.decode("utf-8", "replace"))}


def canonical_name(name: str) -> str:
    """PEP 503: case and runs of ._- do not tell packages apart."""
    return re.sub(r"[-_.]+", "-", name).lower()
