"""What workers said of themselves from inside, held against what was sealed: archive, variables, mounts, code, libraries.

It shows what was slipped into a container beside the worker (attack row 32). A worker that lies about itself is no longer the
one that was sealed: only a re-run shows that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from verify import libraries
from verify.data import table, violations
from verify.files import Evidence
from verify.findings import Finding, Refused, Unchecked, error, warning
from verify.places import GONE, below, driver, within
from verify.score import document

Document = dict[str, Any]
SETTINGS = "manifests/inside.toml"


@cache
def settings() -> Document:
    """manifests/inside.toml; Unchecked where it does not fit its schema."""
    found: Document = table(SETTINGS)
    for fault in violations(found, "inside_settings", "schema", SETTINGS):
        raise Unchecked("settings cannot be used", where=SETTINGS, why=str(fault), next_step="check out the file again")
    return found


def check(evidence: Evidence, plan: Document, states: Document, environment: Document) -> Iterator[Finding]:
    """Every rank of every attempt that counts."""
    processes = {case["id"]: case["processes"] for case in plan["cases"]}
    for case in states["cases"]:
        counted = next((attempt["attempt"] for attempt in case["attempts"] if attempt["state"] == "done"), None)
        ranks: list[tuple[str, Document]] = []
        for rank in range(processes.get(case["id"], 0) if counted else 0):
            path = f"cases/{case['id']}/attempt-{counted}/inside-rank{rank:04}.json"
            try:
                said = document(evidence, path, "inside")
            except Refused as bad:
                yield bad.finding
                if bad.finding.rule == "file.missing":
                    break
                continue
            yield from _rank(said, rank, environment, path)
            ranks.append((path, said))
        yield from libraries.check(ranks, environment)


def _rank(said: Document, rank: int, environment: Document, where: str) -> Iterator[Finding]:
    if said["rank"] != rank:
        yield error("inside.rank", where, rank, said["rank"])
    expected = environment["kit"]["worker"]["sha256"]
    if said["worker"]["sha256"] != expected:
        yield error("inside.worker", where, f"the sealed archive {expected}", said["worker"]["sha256"])
    yield from variables(said["variables"], environment, where)
    kind = environment["isolation"]["kind"]
    if kind == "container":
        yield from mounts(said["mounts"], environment.get("grants") or {}, where)
        yield from contained(said, where)
    elif kind == "environment":
        yield from installed(said, where)


def variables(found: dict[str, str], environment: Document, where: str) -> Iterator[Finding]:
    """Variables that put code before the worker's own are those that were granted."""
    granted = (environment.get("grants") or {}).get("environment", {})
    for name in settings()["variables"]["judged"]:
        if found.get(name, "") not in {"", granted.get(name)}:
            yield error("inside.variables", f"{where}: {name}", granted.get(name, "not set"), found[name])


def mounts(found: Iterable[Document], grants: Document, where: str) -> Iterator[Finding]:
    """Nothing is mounted but by the engine, the kit, or as the chip asks for it; temporary files are in fresh memory.

    Where the chip's own runtime puts driver libraries into containers and chip.toml does not say which, a mount is a warning.
    """
    known = settings()
    granted, listed = driver(grants)
    expected = [*known["engine"]["mounts"], *known["worker"]["mounts"], *granted]
    say = error if listed else warning
    for mount in found:
        if not within(mount["path"], expected):
            yield say("inside.mounts", where, "mounts of engine, kit and chip.toml", f"{mount['kind']} on {mount['path']}")
        elif within(mount["path"], known["worker"]["fresh"]) and mount["kind"] not in known["worker"]["fresh_kinds"]:
            yield error("inside.mounts", where, f"{known['worker']['fresh_kinds']} on {mount['path']}", mount["kind"])


def contained(said: Document, where: str) -> Iterator[Finding]:
    """Code in a container is the image's: not from places that are never of an image, and still there."""
    never = settings()["code"]["never"]
    for path in said["code"]:
        if within(path, never) or (path.endswith(GONE) and not below(path, said["temporary"])):
            yield error("inside.code", where, "code of the image", path)


def installed(said: Document, where: str) -> Iterator[Finding]:
    """Code in an environment is its own, its interpreter's or the system's; a site may have reasons for other places."""
    system, own = settings()["code"]["system"], [*said["roots"], said["temporary"]]
    for path in said["code"]:
        if not within(path, system) and not any(below(path, root) for root in own):
            yield warning("inside.code", where, "code of environment, interpreter and system", path)
