"""Scoring profiles: how the report is read, as data in baselines/profiles/NAME.toml.

A profile has tables as the report prints them; a row names the case that fills it by values of the case's fields, its
parts name metric, formula and weight. A profile may extend another by a list of changes: then the file is the list of
everything in which the two readings differ.
"""

from __future__ import annotations

import fnmatch
import hashlib
import itertools
import re
import tomllib
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from typing import Any

from verify.data import root, violations
from verify.findings import Unchecked

DEFAULT = "report-0.2.1"
FOLDER = "baselines/profiles"
NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")
ONE = Fraction(1)


@dataclass(frozen=True, slots=True)
class Part:
    """One scored metric of a row: formula by kind, weight within the row; `provenance` of the weight and reading.

    A part with a `select` is a column of its own: a second case fills it, which has these values too, with its metric `of`;
    of such columns one scores the row (ruling 23).
    """

    id: str
    metric: str
    unit: str
    kind: str
    formula: str
    provenance: str
    weight: Fraction = ONE
    tolerance: Fraction = Fraction(0)
    limit: Fraction = Fraction(0)
    per_card: bool = False
    optional: bool = False
    series: str = ""
    note: str = ""
    of: str = ""
    select: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the report: which case fills it, what is printed at its left, its weight, group, and own metric."""

    id: str
    label: dict[str, Any]
    select: dict[str, Any]
    group: str
    weight: Fraction | None
    provenance: str
    cards: int | None
    metric: str | None = None


@dataclass(frozen=True, slots=True)
class Where:
    """Where a fact is measured: the case of the plan with these values that has `same` fields in common; empty: the row's own."""

    select: dict[str, Any] = field(default_factory=dict)
    same: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Gate:
    """What a case with the values `when` must fulfil, or its row is 0 (ruling 10): a metric from `low` to `high`, fields declared."""

    id: str
    ruling: int
    provenance: str
    when: dict[str, Any]
    metric: str
    unit: str
    low: Fraction
    high: Fraction
    declared: tuple[str, ...]
    where: Where


@dataclass(frozen=True, slots=True)
class Condition:
    """What must be alike for a row to be comparable (ruling 25): a metric within a relative `tolerance` of the baseline's.

    It is asked of cases whose fields are at least those of `least` (of more than one node).
    """

    id: str
    ruling: int
    provenance: str
    least: dict[str, int]
    metric: str
    unit: str
    tolerance: Fraction
    where: Where


@dataclass(frozen=True, slots=True)
class Table:
    """One table of the report; `total` is `weighted`, `mean` or `none`."""

    id: str
    section: str
    part: str
    place: str
    total: str
    formula: str
    provenance: str
    parts: tuple[Part, ...]
    shown: tuple[dict[str, Any], ...]
    rows: tuple[Row, ...]
    split: str | None = None
    reuse: str | None = None
    tiers: dict[str, Any] | None = None
    needs: dict[str, str] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    gates: tuple[Gate, ...] = ()
    conditions: tuple[Condition, ...] = ()
    alike: tuple[str, ...] = ()
    least: dict[str, int] = field(default_factory=dict)
    awaits: str | None = None


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile as its file states it; `metrics` score the cases that no row of the report names."""

    name: str
    title: dict[str, str]
    source: str
    sha256: str
    digits: int
    baseline: str
    metrics: tuple[dict[str, str], ...]
    tables: tuple[Table, ...]
    changes: tuple[dict[str, Any], ...]
    variants: dict[str, list[Any]] = field(default_factory=dict)

    def variant(self, fields: dict[str, Any]) -> bool:
        """Whether a case with these fields is a variant: shown by itself, never scored, filling no row."""
        return any(fields.get(name) in values for name, values in self.variants.items())


def names() -> list[str]:
    """Sorted names of the profiles that are shipped."""
    return sorted(path.stem for path in (root() / FOLDER).glob("*.toml"))


@cache
def load(name: str) -> Profile:
    """The shipped profile of this name, read and checked once, or Unchecked."""
    document, data = _document(name)
    changes = tuple(document.get("change", ()))
    if "extends" in document:
        base, below = _document(document["extends"])
        document, data = base | {key: document[key] for key in ("name", "title", "source")} | {"change": changes}, below + data
    for change in changes:
        _change(document, change, name)
    tables = tuple(_table(table) for table in document["table"])
    return Profile(
        document["name"],
        document["title"],
        document["source"],
        hashlib.sha256(data).hexdigest(),
        document["rounding"]["significant_digits"],
        document["baseline"],
        tuple(document["metric"]),
        tables,
        changes,
        document.get("variants", {}),
    )


def _document(name: str) -> tuple[dict[str, Any], bytes]:
    if NAME.fullmatch(name) is None or name not in names():
        raise Unchecked(f"unknown profile '{name}'", next_step=f"known: {', '.join(names())}")
    path = root() / FOLDER / f"{name}.toml"
    data = path.read_bytes()
    try:
        document = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as fault:
        raise Unchecked("profile cannot be used", where=str(path), why=str(fault), next_step="restore the shipped file") from None
    for broken in violations(document, "profile", "schema", str(path)):
        raise Unchecked("profile cannot be used", where=broken.where, why=broken.found, next_step="restore the shipped file")
    return document, data


def _change(document: dict[str, Any], change: dict[str, Any], name: str) -> None:
    """Set fields of one table, of its rows that fit a pattern, or of one of its parts."""
    table = next((table for table in document["table"] if table["id"] == change["table"]), None)
    touched: list[dict[str, Any]] = []
    if table is not None and "row" in change:
        touched = [row for row in table.get("row", ()) if fnmatch.fnmatchcase(row["id"], change["row"])]
    elif table is not None and "part" in change:
        touched = [part for part in table["parts"] if part["id"] == change["part"]]
    elif table is not None:
        touched = [table]
    if not touched:
        raise Unchecked("profile changes what is not there", where=name, why=str(change), next_step="restore the shipped file")
    for entry in touched:
        entry.update(deepcopy(change["set"]))


def _table(document: dict[str, Any]) -> Table:
    return Table(
        id=document["id"],
        section=document["section"],
        part=document["part"],
        place=document["place"],
        total=document["total"],
        formula=document.get("formula", ""),
        provenance=document["provenance"],
        parts=tuple(_part(part) for part in document.get("parts", ())),
        shown=tuple(document.get("shown", ())),
        rows=tuple(_row(row) for row in _rows(document)),
        split=document.get("split"),
        reuse=document.get("reuse"),
        tiers=document.get("tiers"),
        needs=document.get("needs", {}),
        without=tuple(document.get("without", ())),
        gates=tuple(_gate(gate) for gate in document.get("gate", ())),
        conditions=tuple(_condition(condition) for condition in document.get("condition", ())),
        alike=tuple(document.get("alike", ())),
        least=document.get("least", {}),
        awaits=document.get("awaits"),
    )


def _where(document: dict[str, Any]) -> Where:
    found = document.get("where", {})
    return Where(found.get("select", {}), tuple(found.get("same", ())))


def _gate(document: dict[str, Any]) -> Gate:
    plain = {key: document[key] for key in ("id", "ruling", "provenance", "when", "metric", "unit")}
    low, high = Fraction(document["low"]), Fraction(document["high"])
    return Gate(**plain, low=low, high=high, declared=tuple(document.get("declared", ())), where=_where(document))


def _condition(document: dict[str, Any]) -> Condition:
    plain = {key: document[key] for key in ("id", "ruling", "provenance", "least", "metric", "unit")}
    return Condition(**plain, tolerance=Fraction(document["tolerance"]), where=_where(document))


def _part(document: dict[str, Any]) -> Part:
    numbers = {key: Fraction(document[key]) for key in ("weight", "tolerance", "limit") if key in document}
    return Part(**(document | numbers))


def _row(document: dict[str, Any]) -> Row:
    return Row(
        id=document["id"],
        label=document["label"],
        select=document.get("select", {}),
        group=document.get("group", document["id"]),
        weight=Fraction(document["weight"]) if "weight" in document else None,
        provenance=document.get("provenance", "printed"),
        cards=document.get("cards"),
        metric=document.get("metric"),
    )


def _rows(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from document.get("row", ())
    blocks = [row for block in document.get("block", ()) for row in _block(block)]
    for number, row in enumerate(blocks, start=1):
        yield row | {"id": str(number)}


def _block(block: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Rows of a grid: every combination of the axes, the last axis fastest."""
    for combination in itertools.product(*(axis["values"] for axis in block["axes"])):
        fields = {
            name: value
            for axis, values in zip(block["axes"], combination, strict=True)
            for name, value in zip(axis["fields"], values, strict=True)
        }
        rest = {key: block[key] for key in ("cards", "group", "provenance") if key in block}
        yield rest | {"label": block["label"] | fields, "select": block["select"] | fields}


def expand(table: Table) -> dict[str, Row]:
    """Rows by id."""
    return {row.id: row for row in table.rows}
