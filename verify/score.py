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

from verify import challenge, events, metrics, telemetry, utilisation
from verify.data import has_schema, suites_own, violations
from verify.files import Evidence, Source
from verify.findings import Finding, Refused, capped, error
from verify.metrics import Series
from verify.plausibility import Traits, limits
from verify.plausibility.telemetry import check as plausible
from verify.reading import Reading, Segment, Task
from verify.statements import Statement
from verify.strict import loads

DIGITS = 9
FIRST_BYTES = 65536  # of a segment: more than its first line
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
    traits: Traits | None = None


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


def evaluate(evidence: Path | Evidence, *, fast: bool = True) -> list[CaseResult]:
    """Score every case of evidence/plan.json by the states in evidence/cases.json; Refused where these two cannot be read.

    Without `fast`, every line of events goes through the strict reader: the same results, many times slower.
    """
    source = evidence if isinstance(evidence, Evidence) else Evidence(evidence)
    plan = document(source, "plan.json", "resolved_plan")
    states = {case["id"]: case for case in document(source, "cases.json", "cases")["cases"]}
    asked = challenge.read(source)
    found = [_case(source, case, states.get(case["id"]), asked, fast=fast) for case in plan["cases"]]
    reading = Reading(source, [tasks for _, tasks in found])
    results = [
        _measured(source, challenge.effective(case, asked), result, tasks, reading) if tasks else result
        for case, (result, tasks) in zip(plan["cases"], found, strict=True)
    ]
    if not any(utilisation.RATE in result.metrics for result in results):
        return results
    try:
        return utilisation.add(results, document(source, "environment.json", "environment"))
    except Refused:
        return results  # replay refuses the document itself, and says why


def _case(
    source: Evidence, case: dict[str, Any], stated: dict[str, Any] | None, asked: Statement | None, *, fast: bool
) -> tuple[CaseResult, list[Task]]:
    """What is known of a case before its events are read, and which files of events those are."""
    name, suite = str(case["id"]), str(case["suite"])
    module = metrics.load(suite) if suite in metrics.suites() else None
    result = CaseResult(name, suite, "not_run", module.SECTION if module else None, module.PART if module else None, fields=case)
    if stated is None:
        return result, []
    if module is None:
        fault = error("plan.suite", name, f"one of {', '.join(metrics.suites())}", suite)
        return replace(result, state=stated["state"], findings=(fault,)), []
    result = replace(result, state=stated["state"], findings=tuple(_case_faults(case, module)))
    counted = next((attempt["attempt"] for attempt in stated["attempts"] if attempt["state"] == "done"), None)
    if counted is None or result.findings:
        return result, []
    try:
        return result, _tasks(source, case, counted, asked, fast=fast)
    except Refused as bad:
        return replace(result, findings=(bad.finding,)), []


def _case_faults(case: dict[str, Any], module: metrics.Suite) -> Iterator[Finding]:
    if has_schema(f"cases/{case['suite']}"):
        yield from violations(suites_own(case), f"cases/{case['suite']}", "plan.case", f"plan.json: {case['id']}")
    if case.get("section") != module.SECTION:
        yield error("plan.case", f"plan.json: {case['id']}", f"section {module.SECTION}", case.get("section"))


def _measured(source: Evidence, case: dict[str, Any], result: CaseResult, tasks: list[Task], reading: Reading) -> CaseResult:
    """The result with the metrics of the attempt that counts, or with what is wrong with it."""
    module, folder = metrics.load(result.suite), tasks[0].path.rpartition("/")[0]
    try:
        measured = module.measure(case, reading.blocks(tasks))
        faults = tuple(_faults(source, case, folder, module, measured))
        seen = telemetry.read(source, folder)
    except Refused as bad:
        return replace(result, findings=(bad.finding,))
    finally:
        reading.skip()
    if any(fault.severity == "error" for fault in faults):
        return replace(result, findings=faults)
    shown = {name: make(case, measured) for name in ("facts", "series", "traits") if (make := getattr(module, name, None))}
    shown["series"] = shown.get("series", {}) | telemetry.series(seen)
    values, said = _with_energy(source, case, folder, module, (measured, seen))
    return replace(result, metrics=values, findings=(*faults, *said), **shown)


def _faults(source: Evidence, case: dict[str, Any], folder: str, module: metrics.Suite, measured: Any) -> Iterator[Finding]:
    """What rules found in the events, and where these are right, in the files that they name."""
    found = list(capped(module.rules(case, measured)))
    yield from found
    if hasattr(module, "kept") and not any(fault.severity == "error" for fault in found):
        yield from capped(module.kept(case, measured, source, folder))


def _with_energy(
    source: Evidence, case: dict[str, Any], folder: str, module: metrics.Suite, found: tuple[Any, telemetry.Seen | None]
) -> tuple[dict[str, metrics.Metric], list[Finding]]:
    """The suite's metrics with the energy of its windows, and what there is to say about telemetry."""
    measured, seen = found
    values = module.metrics(case, measured)
    windows = module.windows(case, measured) if hasattr(module, "windows") else []
    origin_ns = _origin(source, folder) if windows else 0
    energy, said = telemetry.metrics(case, seen, windows, origin_ns) if windows else ({}, [])
    busy = [(origin_ns + window.begin_ns, origin_ns + window.end_ns) for window in windows]
    cards = seen.cards if seen and busy else {}
    for card in sorted(cards.keys() & range(case["cards"])):  # the host's other cards do what they like
        said += plausible(f"{case['id']}: card {card}", cards[card], busy, limits()["telemetry"])
    values |= energy
    return values | (module.derived(case, values) if hasattr(module, "derived") else {}), said


def _origin(source: Evidence, folder: str) -> int:
    """The monotonic clock at rank 0's case_start, in ns; the event itself was checked when it was read."""
    with Source(source.top, f"{folder}/events-00000.jsonl") as file:
        first = file.read(FIRST_BYTES).partition(b"\n")[0]
    return int(loads(first, folder)["monotonic_ns"])


def _check_handed(source: Evidence, expected: dict[str, Any], folder: str) -> None:
    """What the worker was given is the case of the plan, with the seed that a challenge gives it."""
    handed = loads(source.read(f"{folder}/case.json"), f"{folder}/case.json")
    if handed != expected:
        raise Refused("case.handed", f"{folder}/case.json", f"the plan's case as {expected}", handed)


def _tasks(source: Evidence, case: dict[str, Any], number: int, asked: Statement | None, *, fast: bool) -> list[Task]:
    """The attempt's segments in the order in which they are read: the first of every rank, then the second of every rank."""
    folder = f"cases/{case['id']}/attempt-{number}"
    _check_handed(source, challenge.handed(case, number, asked), folder)
    attempt = events.Attempt(folder, case["id"], case["suite"], number, case["processes"])
    found = events.segments(source, folder)
    if list(found) != list(range(case["processes"])):
        raise Refused("events.ranks", folder, f"events of ranks 0 to {case['processes'] - 1}", list(found))
    listed = [(index, rank, path) for rank, paths in found.items() for index, path in enumerate(paths)]
    asked_case = challenge.effective(case, asked)
    return [Task(path, Segment(attempt, asked_case, rank, index), fast, source.stops.get(path, ())) for index, rank, path in sorted(listed)]


def claims(results: list[CaseResult]) -> list[dict[str, Any]]:
    """Every metric of every case as the vendor claims it: case, metric, value (decimal text), unit."""
    return [
        {"case": result.id, "metric": name, "value": decimal_text(metric.value), "unit": metric.unit}
        for result in results
        for name, metric in sorted(result.metrics.items())
    ]
