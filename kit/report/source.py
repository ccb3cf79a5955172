"""What a report is filled from: result.json, environment.json beside it, and the vendor's introduction of the chip."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kit.errors import KitError
from kit.report import pictures
from kit.schema import check
from verify.data import root
from verify.findings import Unchecked
from verify.replay import replay
from verify.scoring import baseline
from verify.scoring.attach import attach

MAX_INTRODUCTION_BYTES = 1 << 20
NAMES = {
    "result": "name a run folder, a RUN.result.json or a baseline",
    "audit": "make it: python -m verify audit RUN AUDIT --json FILE",
}  # the next step where a file of this kind cannot be read


@dataclass(frozen=True, slots=True)
class Source:
    """One result, its environment (empty where it does not lie beside it), the chip's introduction (Markdown), its audit, its pictures,
    and the libraries that first ranks mapped.

    The audit is what `python -m verify audit RUN AUDIT --json FILE` wrote; empty where none was given. A baseline pack of
    its own stands in a comparison as a column: then `pack` is set and the result holds nothing but its name.
    """

    result: dict[str, Any]
    environment: dict[str, Any]
    introduction: str = ""
    audit: dict[str, Any] = field(default_factory=dict)
    pack: baseline.Baseline | None = None
    pictures: tuple[pictures.Kept, ...] = ()
    libraries: tuple[dict[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """Name of the run."""
        return str(self.result["run"]["run"])

    def table(self, name: str) -> dict[str, Any] | None:
        """A scored table of the report, or None where the result was not scored."""
        scoring = self.result.get("scoring")
        return next((table for table in scoring["tables"] if table["id"] == name), None) if scoring else None


def read(path: Path) -> Source:
    """A result.json, a baseline pack, or a run folder: then its result is computed anew, under the run's own key."""
    if place := _place(path):
        return _pack(place)
    document, environment = (_replayed(path), path / "evidence/environment.json") if path.is_dir() else (_json(path, "result"), None)
    if "cells" in document and "run" not in document:
        return _pack(path)
    check(document, "result", str(path))
    if environment is None:
        environment = path.parent / str(document["run"]["run"]) / "evidence/environment.json"
    found = _json(environment, "environment") if environment.is_file() else {}
    if found:
        check(found, "environment", str(environment))
    whole = path.is_dir() and document["verdict"] != "refused"
    kept = pictures.read(path, document) if whole else ()
    return Source(document, found, pictures=kept, libraries=_libraries(environment.parent))


def _libraries(evidence: Path) -> tuple[dict[str, Any], ...]:
    """What the first rank of every attempt mapped, each path once; none where no run lies beside the result, or an earlier version's."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(evidence.glob("cases/*/attempt-*/inside-rank0000.json")):
        document = _json(path, "inside")
        check(document, "inside", str(path))
        found |= {library["path"]: library for library in document.get("libraries", ())}
    return tuple(found[path] for path in sorted(found))


def with_papers(source: Source, introduction: Path | None, audit: Path | None) -> Source:
    """The same with the vendor's introduction of the chip and the audit of the run, where they are given."""
    return replace(source, introduction=_introduction(introduction), audit=_audit(audit, source.name) if audit else {})


def _place(path: Path) -> Path | None:
    """The file of a pack named as a folder, or by the name of a shipped one that no file here has."""
    if not path.exists() and str(path) in baseline.names():
        return root() / baseline.FOLDER / path / baseline.FILE
    return path / baseline.FILE if (path / baseline.FILE).is_file() else None


def _pack(path: Path) -> Source:
    try:
        pack = baseline.read(path)
    except Unchecked as fault:
        raise KitError(str(fault)) from None
    return Source({"run": {"run": pack.name}, "cases": [], "scoring": None, "against": []}, {}, pack=pack)


def _audit(path: Path, run: str) -> dict[str, Any]:
    document = _json(path, "audit")
    missing = {"verdict", "run", "audit", "findings"} - document.keys()
    if missing:
        raise KitError(
            "not an audit", where=str(path), why=f"no {sorted(missing)[0]}", next_step="python -m verify audit RUN AUDIT --json FILE"
        )
    if document["run"] != run:
        raise KitError(
            "audit is of another run", where=str(path), why=f"{document['run']}, not {run}", next_step="name the audit of this run"
        )
    return document


def _replayed(run: Path) -> dict[str, Any]:
    try:
        result = replay(run, "self")
        attach(result)
    except Unchecked as fault:
        raise KitError(str(fault)) from None
    return result.document()


def _json(path: Path, what: str) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        step = NAMES.get(what, "name a file")
        raise KitError(f"{what} cannot be read", where=str(path), why=error.strerror or "", next_step=step) from error
    except (ValueError, RecursionError) as error:
        raise KitError(f"{what} is not JSON", where=str(path), next_step="make it again: python -m verify RUN --json FILE") from error
    if not isinstance(document, dict):
        raise KitError(f"{what} is not an object", where=str(path), next_step="make it again: python -m verify RUN --json FILE")
    return document


def _introduction(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        data = path.read_bytes()
        if len(data) > MAX_INTRODUCTION_BYTES:
            raise KitError("introduction is too long", where=str(path), next_step=f"at most {MAX_INTRODUCTION_BYTES} bytes")
        return data.decode()
    except OSError as error:
        raise KitError("introduction cannot be read", where=str(path), why=error.strerror or "", next_step="name a file") from error
    except UnicodeDecodeError as error:
        raise KitError("introduction is not UTF-8", where=str(path), next_step="save it as UTF-8") from error
