"""Baseline packs: what a chip is compared with, a value a cell, each with its source and status.

A cell belongs to a row of the report (`table`, `row`), or to a case of another plan (`case`, `workload`). A cell whose
value is not public is there and empty; no value is ever made up.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from verify.data import root, violations
from verify.findings import Refused, Unchecked
from verify.strict import canonical, loads

FOLDER = "baselines"
FILE = "baseline.json"
MAX_BYTES = 32 * 2**20
# A baseline of the same work may use another layout or engine: the lab's repository leaves to the vendor how a fixed global batch
# is made and fitted into memory (docs/design/training.md, "What the vendor chooses").
LAYOUT = frozenset(
    {"id", "time_limit_s", "nodes", "processes", "engine", "zero_stage", "tensor_parallel", "pipeline_parallel", "micro_batch"}
    | {"checkpoint_activations", "offload", "loss_chunks", "compile", "attention"}
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One value of a pack: exact, with unit, status (printed, inferred, measured, empty), source and spread."""

    key: str
    value: Fraction | None
    unit: str
    status: str
    source: str
    spread: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Baseline:
    """A pack and where it came from."""

    name: str
    title: dict[str, str]
    source: str
    sha256: str
    document: dict[str, Any]
    cells: dict[str, Cell]
    curves: dict[str, tuple[Fraction, ...]]

    def row(self, table: str, row: str, metric: str) -> Cell | None:
        """The cell of a row of the report that has a value."""
        return self._filled(f"{table}/{row}/{metric}")

    def curve(self, table: str, row: str, series: str) -> tuple[Fraction, ...]:
        """Values over steps for a row of the report, from step 0; empty where nothing is public."""
        return self.curves.get(f"{table}/{row}/{series}", ())

    def spikes(self, table: str, row: str, series: str) -> tuple[int, ...]:
        """Steps at which this curve spikes, as the pack says."""
        curves = self.document.get("curves", ())
        return next(
            (tuple(curve.get("spikes", ())) for curve in curves if (curve["table"], curve["row"], curve["series"]) == (table, row, series)),
            (),
        )

    def case(self, workload: str, metric: str) -> Cell | None:
        """The cell of a case that did the same work."""
        return self._filled(f"case/{workload}/{metric}")

    def _filled(self, key: str) -> Cell | None:
        cell = self.cells.get(key)
        return cell if cell is not None and cell.value is not None else None


def workload(case: dict[str, Any]) -> str:
    """SHA-256 of what a case asks for, its name and layout left out."""
    asked = {name: value for name, value in case.items() if name not in LAYOUT}
    return hashlib.sha256(canonical(asked)).hexdigest()


def names() -> list[str]:
    """Sorted names of the packs that are shipped."""
    return sorted(path.parent.name for path in (root() / FOLDER).glob(f"*/{FILE}"))


def load(name: str) -> Baseline:
    """The shipped pack of this name, or Unchecked."""
    if name not in names():
        raise Unchecked(f"unknown baseline '{name}'", next_step=f"known: {', '.join(names())}; or give a file: --baseline FILE")
    return read(root() / FOLDER / name / FILE)


def read(path: Path) -> Baseline:
    """The pack in a file, or Unchecked."""
    try:
        data = path.read_bytes()
    except OSError as fault:
        raise Unchecked("baseline cannot be read", where=str(path), why=fault.strerror or "", next_step="name a baseline.json") from fault
    try:
        document = loads(data, str(path)) if len(data) <= MAX_BYTES else None
    except Refused as fault:
        raise Unchecked("baseline cannot be used", where=str(path), why=str(fault), next_step="make it again") from None
    for broken in violations(document, "baseline", "schema", str(path)):
        raise Unchecked("baseline cannot be used", where=broken.where, why=broken.found, next_step="make it again")
    assert isinstance(document, dict)
    cells = [_cell(cell) for cell in document["cells"]]
    if len(twins := {cell.key for cell in cells}) != len(cells):
        raise Unchecked("baseline has two cells of one name", where=str(path), why=f"{len(cells)} cells, {len(twins)} names")
    return Baseline(
        document["name"],
        document["title"],
        document["source"],
        hashlib.sha256(data).hexdigest(),
        document,
        {cell.key: cell for cell in cells},
        {
            f"{curve['table']}/{curve['row']}/{curve['series']}": tuple(map(Fraction, curve["values"] or ()))
            for curve in document.get("curves", ())
        },
    )


def _cell(document: dict[str, Any]) -> Cell:
    place = f"{document['table']}/{document['row']}" if "table" in document else f"case/{document['workload']}"
    value = document["value"]
    return Cell(
        f"{place}/{document['metric']}",
        None if value is None else Fraction(value),
        document["unit"],
        document["status"],
        document["source"],
        document.get("spread"),
    )
