"""Scores a folder of evidence: which attempt counts, what its events say, and the numbers that a vendor may claim.

The first completed attempt counts, never the best. A case that was not tried (`not_run`, shown as NA) and a case that
failed (shown as 0) stay apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

from verify import events, metrics
from verify.data import has_schema, violations
from verify.files import Evidence
from verify.findings import Finding, Refused, error
from verify.metrics import Series
from verify.strict import loads

DIGITS = 9
_ROUND = Context(prec=DIGITS, rounding=ROUND_HALF_EVEN)


@dataclass(frozen=True, slots=True)
class CaseResult:
    """One case of the plan: its state, its metrics by name, and what rules found."""

    id: str
    suite: str
    state: str
    section: str | None = None
    part: str | None = None
    metrics: dict[str, metrics.Metric] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    fields: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    series: dict[str, Series] = field(default_factory=dict)


def decimal_text(value: Fraction) -> str:
    """Nine significant digits, half to even, plain notation, no trailing zeros."""
    rounded = _ROUND.divide(Decimal(value.numerator), Decimal(value.denominator))
    text = format(rounded.normalize(_ROUND), "f")
    return "0" if rounded == 0 else text


def document(evidence: Evidence, path: str, schema: str) -> Any:
    """A JSON document of the evidence that fits its schema, or Refused."""
    value = loads(evidence.read(path), path)
    for fault in violations(value, schema, f"{schema}.schema", path):
        raise Refused(fault.rule, fault.where, fault.expected, fault.found)
    return value


def evaluate(evidence: Path | Evidence) -> list[CaseResult]:
    """Score every case of evidence/plan.json by the states in evidence/cases.json; Refused where these two cannot be read."""
    source = evidence if isinstance(evidence, Evidence) else Evidence(evidence)
    plan = document(source, "plan.json", "resolved_plan")
    states = {case["id"]: case for case in document(source, "cases.json", "cases")["cases"]}
    return [_case(source, case, states.get(case["id"])) for case in plan["cases"]]


def _case(source: Evidence, case: dict[str, Any], stated: dict[str, Any] | None) -> CaseResult:
    name, suite = str(case["id"]), str(case["suite"])
    if stated is None:
        known = metrics.load(suite) if suite in metrics.suites() else None
        return CaseResult(name, suite, "not_run", known.SECTION if known else None, known.PART if known else None, fields=case)
    if suite not in metrics.suites():
        return CaseResult(
            name, suite, stated["state"], fields=case, findings=(error("plan.suite", name, f"one of {', '.join(metrics.suites())}", suite),)
        )
    module = metrics.load(suite)
    faults = tuple(_case_faults(case, module))
    counted = next((attempt["attempt"] for attempt in stated["attempts"] if attempt["state"] == "done"), None)
    result = CaseResult(name, suite, stated["state"], module.SECTION, module.PART, findings=faults, fields=case)
    return result if counted is None or faults else _attempt(source, result, counted, module)


def _case_faults(case: dict[str, Any], module: metrics.Suite) -> Iterator[Finding]:
    if has_schema(f"cases/{case['suite']}"):
        yield from violations(case, f"cases/{case['suite']}", "plan.case", f"plan.json: {case['id']}")
    if case.get("section") != module.SECTION:
        yield error("plan.case", f"plan.json: {case['id']}", f"section {module.SECTION}", case.get("section"))


def _attempt(source: Evidence, result: CaseResult, number: int, module: metrics.Suite) -> CaseResult:
    """The result with the metrics of the attempt that counts, or with what is wrong with it."""
    case, folder = result.fields, f"cases/{result.id}/attempt-{number}"
    try:
        _check_handed(source, case, number, folder)
        measured = module.measure(case, _ranks(source, case, number, folder, module))
        faults = tuple(module.rules(case, measured))
    except Refused as bad:
        return replace(result, findings=(bad.finding,))
    if any(fault.severity == "error" for fault in faults):
        return replace(result, findings=faults)
    shown = {name: make(case, measured) for name in ("facts", "series") if (make := getattr(module, name, None))}
    return replace(result, metrics=module.metrics(case, measured), findings=faults, **shown)


def _check_handed(source: Evidence, case: dict[str, Any], number: int, folder: str) -> None:
    """What the worker was given is the case of the plan."""
    handed = loads(source.read(f"{folder}/case.json"), f"{folder}/case.json")
    if handed != {"attempt": number, "case": case}:
        raise Refused("case.handed", f"{folder}/case.json", f"attempt {number} of the plan's case", handed)


def _ranks(source: Evidence, case: dict[str, Any], number: int, folder: str, module: metrics.Suite) -> dict[int, Iterator[events.Event]]:
    attempt = events.Attempt(folder, case["id"], case["suite"], number, case["processes"])
    found = events.segments(source, folder)
    if list(found) != list(range(case["processes"])):
        raise Refused("events.ranks", folder, f"events of ranks 0 to {case['processes'] - 1}", list(found))
    kind = events.union(module.EVENTS)
    return {rank: events.read(source, attempt, rank, paths, kind) for rank, paths in found.items()}


def claims(results: list[CaseResult]) -> list[dict[str, Any]]:
    """Every metric of every case as the vendor claims it: case, metric, value (decimal text), unit."""
    return [
        {"case": result.id, "metric": name, "value": decimal_text(metric.value), "unit": metric.unit}
        for result in results
        for name, metric in sorted(result.metrics.items())
    ]
