"""Scores as they stand in result.json: every number beside its formula, the cases it came from and the baseline's cell."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

from verify.profile import Condition, Part, Profile
from verify.scoring.baseline import Baseline
from verify.scoring.engine import Scoring, unofficial
from verify.scoring.rows import Judged, RowResult, Scored, TableResult, Total, Value

Number = Callable[[Fraction], int | float]


def scoring(found: Scoring, number: Number) -> dict[str, Any]:
    """One profile against one baseline; `number` rounds to nine significant digits."""
    return {
        "profile": _profile(found.profile),
        "baseline": _baseline(found.baseline) if found.baseline else None,
        "tables": [_table(table, number) for table in found.tables.values()],
        "unofficial": {name: _ratio(unofficial(found, name), number) for name in ("training", "finetuning", "inference")}
        | {"all": _ratio(unofficial(found), number)},
    } | ({"variants": list(found.variants)} if found.variants else {})


def _profile(profile: Profile) -> dict[str, Any]:
    return {"name": profile.name, "title": profile.title, "source": profile.source, "sha256": profile.sha256} | {
        "changes": [{key: change[key] for key in ("table", "row", "part", "ruling", "note") if key in change} for change in profile.changes]
    }


def _baseline(baseline: Baseline) -> dict[str, Any]:
    filled = sum(cell.value is not None for cell in baseline.cells.values())
    return {"name": baseline.name, "title": baseline.title, "source": baseline.source, "sha256": baseline.sha256} | {
        "cells": len(baseline.cells),
        "filled": filled,
    }


def _ratio(found: tuple[Fraction | None, int, int], number: Number) -> dict[str, Any]:
    value, counted, asked = found
    return {"ratio": None if value is None else number(value), "counted": counted, "asked": asked}


def _table(result: TableResult, number: Number) -> dict[str, Any]:
    table = result.table
    return {
        "id": table.id,
        "section": table.section,
        "part": table.part,
        "place": table.place,
        "total_kind": table.total,
        "formula": table.formula,
        "provenance": table.provenance,
        "split": table.split,
        "reuse": table.reuse,
        "tiers_ms": table.tiers["bounds_ms"] if table.tiers else None,
        "membership": table.tiers["membership"] if table.tiers else None,
        "awaits": table.awaits,
        "conditions": [_condition(condition, number) for condition in table.conditions],
        "parts": [_part(part, number) for part in table.parts],
        "shown": [{"metric": shown["metric"], "unit": shown["unit"]} for shown in table.shown],
        "rows": [_row(row, number) for row in result.rows],
        "total": _total(result.total, number),
    }


def _part(part: Part, number: Number) -> dict[str, Any]:
    named = {name: getattr(part, name) for name in ("id", "metric", "unit", "kind", "formula", "provenance", "note")}
    return named | {"weight": number(part.weight)}


def _condition(condition: Condition, number: Number) -> dict[str, Any]:
    named = {name: getattr(condition, name) for name in ("id", "ruling", "metric", "unit", "provenance")}
    return named | {"tolerance": number(condition.tolerance)}


def _row(result: RowResult, number: Number) -> dict[str, Any]:
    row = result.row
    return {
        "id": row.id,
        "label": row.label,
        "group": row.group,
        "weight": None if row.weight is None else number(row.weight),
        "provenance": row.provenance,
        "cards": row.cards,
        "case": result.case,
        "values": {metric: _value(value, number) for metric, value in result.values.items()},
        "parts": {name: _scored(part, number) for name, part in result.parts.items()},
        "notes": list(result.notes),
        "curve": _curve(result.curve, number) if result.curve else None,
        "gates": [_gate(judged, number) for judged in result.gates],
    } | _scored(result.result, number)


def _gate(judged: Judged, number: Number) -> dict[str, Any]:
    gate = judged.gate
    named = {"id": gate.id, "ruling": gate.ruling, "metric": gate.metric, "unit": gate.unit, "state": judged.state, "case": judged.case}
    return named | {"value": None if judged.value is None else number(judged.value), "low": number(gate.low), "high": number(gate.high)}


def _curve(curve: tuple[tuple[Fraction, ...], tuple[Fraction, ...]], number: Number) -> dict[str, list[int | float]]:
    test, base = curve
    differences = [ours - theirs for ours, theirs in zip(test, base, strict=True)]
    return {"test": [number(value) for value in test], "base": [number(value) for value in base]} | {
        "difference": [number(value) for value in differences]
    }


def _value(value: Value, number: Number) -> dict[str, Any]:
    numbers = {name: getattr(value, name) for name in ("test", "actual", "base")}
    apart = None if value.test is None or value.base is None else number(value.test - value.base)
    return {name: None if found is None else number(found) for name, found in numbers.items()} | {
        "unit": value.unit,
        "baseline": value.base_key,
        "status": value.base_status,
        "cases": list(value.cases),
        "spread": [number(edge) for edge in value.spread] if value.spread else None,
        "distance": apart,
        "base_spread": value.base_spread,
    }


def _scored(scored: Scored, number: Number) -> dict[str, Any]:
    return {"state": scored.state, "score": None if scored.score is None else number(scored.score), "reason": scored.reason}


def _total(total: Total, number: Number) -> dict[str, Any]:
    return {"state": total.state, "score": None if total.score is None else number(total.score)} | {
        "rows": total.rows,
        "counted": total.counted,
        "submitted": total.submitted,
        "apart": total.apart,
    }
