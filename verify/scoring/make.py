"""Makes a baseline pack from replayed runs: the mean of each metric over the runs, its spread, and where it came from."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Context, Decimal
from fractions import Fraction
from typing import Any

from verify import profile
from verify.findings import Unchecked
from verify.result import Result
from verify.score import decimal_text
from verify.scoring import formulas
from verify.scoring.attach import score
from verify.scoring.baseline import workload

_SQRT = Context(prec=40)
Key = tuple[tuple[str, str], ...]


def pack(results: list[Result], name: str, origins: list[dict[str, Any]]) -> dict[str, Any]:
    """The pack as an object; Unchecked where the runs are not of one chip, gave no number, or did the same work in two cases."""
    chips = sorted({str(result.run.get("chip")) for result in results})
    if len(chips) != 1:
        raise Unchecked("runs are not of one chip", why=", ".join(chips), next_step="make a baseline for each chip")
    values: dict[Key, list[tuple[Fraction, str]]] = {}
    chosen = profile.load(profile.DEFAULT)
    for result in results:
        for key, value, unit in _measured(result, chosen):
            values.setdefault(key, []).append((value, unit))
    if not values:
        raise Unchecked("runs hold no number", next_step="name runs with a case that is done")
    _one_case_a_work([dict(key) for key in sorted(values)])
    source = ", ".join(origin["run"] for origin in origins)
    return {
        "schemaVersion": 1,
        "name": name,
        "title": {"en": f"{chips[0]}, {len(results)} sealed runs", "zh": f"{chips[0]}，{len(results)} 次已封存的运行"},
        "source": f"measured in sealed runs: {source}",
        "chip": {"id": chips[0], "description": ""},
        "runs": origins,
        "cells": [_cell(dict(key), found) for key, found in sorted(values.items())],
    }


def _one_case_a_work(places: list[dict[str, str]]) -> None:
    """Cases that differ only in what the vendor chose have one name in a pack: which of them is the baseline, nobody could say."""
    named: dict[tuple[str, str], str] = {}
    for place in places:
        if "workload" in place:
            other = named.setdefault((place["workload"], place["metric"]), place["case"])
            if other != place["case"]:
                raise Unchecked(
                    "runs did the same work in two cases", why=f"{other}, {place['case']}", next_step="name runs of one of them"
                )


def _measured(result: Result, chosen: profile.Profile) -> Iterator[tuple[Key, Fraction, str]]:
    """Metrics of rows of the report under their row, of every other case under its workload."""
    scoring = score(result, chosen, None)
    placed = set()
    for name, table in scoring.tables.items():
        for row in table.rows:
            if row.case is not None:
                placed.add(row.case)
                for metric, value in row.values.items():
                    placed.update(value.cases)
                    if value.test is not None:
                        yield (("table", name), ("row", row.row.id), ("metric", metric)), value.test, value.unit
    for case in result.cases:
        if case.id not in placed:
            for metric, found in case.metrics.items():
                place = (("case", case.id), ("workload", workload(case.fields)), ("suite", case.suite), ("metric", metric))
                yield place, found.value, found.unit


def _cell(place: dict[str, str], found: list[tuple[Fraction, str]]) -> dict[str, Any]:
    values = [value for value, _ in found]
    spread = {"runs": len(values)} | {
        name: decimal_text(value) for name, value in (("min", min(values)), ("max", max(values)), ("stdev", deviation(values)))
    }
    numbers = {"value": decimal_text(formulas.mean(values)), "unit": found[0][1], "status": "measured"}
    return place | numbers | {"source": f"mean of {len(values)} sealed runs", "spread": spread}


def deviation(values: list[Fraction]) -> Fraction:
    """Sample standard deviation, correctly rounded to 40 digits; 0 for one value."""
    if len(values) < 2:
        return Fraction(0)
    centre = formulas.mean(values)
    variance = sum(((value - centre) ** 2 for value in values), Fraction(0)) / (len(values) - 1)
    return Fraction(_SQRT.sqrt(_SQRT.divide(Decimal(variance.numerator), Decimal(variance.denominator))))
