"""How far a claim may lie above the lab's value: a table in TOML, named by its digest in the challenge.

Each row holds the run-to-run coefficient of variation (CV) that repeats of a case showed, and which way a metric is
better. Numbers are read as decimals and never pass through a float.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fnmatch import fnmatchcase
from typing import Any, Literal

from verify.data import violations
from verify.findings import Refused

MAX_BYTES = 2**20
MAX_EXPONENT = 30
Better = Literal["higher", "lower", "equal"]


@dataclass(frozen=True, slots=True)
class Row:
    """One metric of the cases of a suite that fit a glob; `in_mean`: it counts in the mean log ratio, too."""

    suite: str
    metric: str
    case: str
    better: Better
    cv: Decimal
    in_mean: bool


@dataclass(frozen=True, slots=True)
class Table:
    """Rows, first fit first; `factor` times CV is tolerated; `reruns` more runs confirm a failure; `quantile` of alpha."""

    name: str
    provisional: bool
    factor: Decimal
    reruns: int
    alpha: Decimal
    quantile: Decimal
    rows: tuple[Row, ...]

    def rows_of(self, case: str, suite: str) -> list[Row]:
        """The row of each metric of a case that is audited, in the table's order."""
        found: dict[str, Row] = {}
        for row in self.rows:
            if row.suite == suite and fnmatchcase(case, row.case):
                found.setdefault(row.metric, row)
        return list(found.values())


def parse(data: bytes, where: str) -> Table:
    """The table in these bytes, or Refused."""
    document = _document(data, where)
    for fault in violations(document, "tolerances", "tolerances.schema", where):
        raise Refused(fault.rule, fault.where, fault.expected, fault.found)
    rows = tuple(
        Row(row["suite"], row["metric"], row["case"], row["better"], Decimal(row["cv"]), row["in_mean"]) for row in document["row"]
    )
    test = document["test"]
    return Table(
        name=document["name"],
        provisional=document["provisional"],
        factor=Decimal(test["factor"]),
        reruns=test["reruns"],
        alpha=Decimal(test["alpha"]),
        quantile=Decimal(test["quantile"]),
        rows=rows,
    )


def _finite(text: str) -> Decimal:
    value = Decimal(text)
    if not value.is_finite() or abs(value.adjusted()) > MAX_EXPONENT:
        raise ValueError(f"number out of range: {text[:20]}")
    return value


def _document(data: bytes, where: str) -> dict[str, Any]:
    if len(data) > MAX_BYTES:
        raise Refused("tolerances.size", where, f"at most {MAX_BYTES} bytes", f"{len(data)} bytes")
    try:
        return tomllib.loads(data.decode("utf-8"), parse_float=_finite)
    except (ValueError, InvalidOperation, RecursionError) as bad:
        raise Refused("tolerances.syntax", where, "a TOML document", str(bad)) from None
