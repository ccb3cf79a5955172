"""All plausibility rules over one run: what it takes from evidence, log and results, in one place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from verify import events
from verify.files import Evidence
from verify.findings import Finding, Refused, warning
from verify.plausibility import Limits, Traits, clocks, limits, rates, series
from verify.runlog import Log
from verify.score import CaseResult


def judge(evidence: Evidence, log: Log, cases: list[CaseResult], environment: Mapping[str, Any]) -> Iterator[Finding]:
    """Every finding of the rules that need no other run."""
    known = limits()
    found = clocks.timeline(log.entries)
    yield from clocks.between(found, known)
    tried = log.attempts()
    for case in cases:
        number = next((attempt["attempt"] for attempt in tried.get(case.id, []) if attempt["state"] == "done"), None)
        span = found.spans.get((case.id, number or 0))
        if case.traits is not None and span is not None:
            yield from _case(evidence, log, span, case.traits, known)
    yield from _series(durations(cases), known)
    yield from _rates(cases, environment, known)


def durations(cases: list[CaseResult]) -> dict[str, Any]:
    """`case: series` -> durations in ns, of every case that has some."""
    return {f"{case.id}: {name}": values for case in cases if case.traits for name, values in case.traits.durations.items()}


def _case(evidence: Evidence, log: Log, span: clocks.Span, traits: Traits, known: Limits) -> Iterator[Finding]:
    try:
        paths = events.segments(evidence, f"cases/{span.case}/attempt-{span.attempt}")
    except Refused:
        return
    ranks = {rank: ends for rank, listed in paths.items() if (ends := clocks.ends(evidence, listed)) is not None}
    yield from clocks.inside(span, ranks, known)
    yield from clocks.accounted(span, ranks, traits, known)
    for rank, ends in ranks.items():
        stops = [(path, stop.size_bytes, stop.monotonic_ns) for path in paths[rank] for stop in log.prefixes.get(path, [])]
        yield from clocks.future(evidence, span, ends, stops, known)
    yield from _twins(span.case, traits, known)


def _twins(case: str, traits: Traits, known: Limits) -> Iterator[Finding]:
    """Ranks whose durations are the same to the nanosecond, where they are many and differ among themselves."""
    values = next(iter(traits.durations.values()), ())
    if len(values) < known["smooth"]["least_values"] or len(set(values)) < known["repeated"]["least_distinct"]:
        return
    first: dict[str, int] = {}
    for rank, digest in sorted(traits.ranks.items()):
        if (other := first.setdefault(digest, rank)) != rank:
            yield warning("plausible.ranks", f"{case}: rank {rank}", "durations of its own", f"those of rank {other}")


def _series(named: dict[str, Any], known: Limits) -> Iterator[Finding]:
    yield from series.repeated(named, known["repeated"])
    yield from series.scaled(named, known["repeated"])
    yield from series.lattice(named, known["lattice"])
    yield from series.smooth(named, known["smooth"])


def _rates(cases: list[CaseResult], environment: Mapping[str, Any], known: Limits) -> Iterator[Finding]:
    devices = {name for case in cases if case.traits for name in case.traits.devices}
    if len(devices) > 1:
        yield warning("plausible.devices", "all ranks of all cases", "one device name", sorted(devices))
    measured = [rates.Rate(case.id, name, metric.value, metric.unit) for case in cases for name, metric in case.metrics.items()]
    sheet = rates.ceilings(environment["chip"].get("peaks", []), devices)
    done = {case.id: case.traits.work for case in cases if case.traits and case.traits.work}
    yield from rates.peaks(measured, sheet, known["ceiling"]["over_peak"])
    large = {case.id for case in cases if _largest(case) >= known["ceiling"]["least_dimension"]}
    yield from rates.work(done, sheet, [rate for rate in measured if rate.case in large], known["ceiling"])


def _largest(case: CaseResult) -> int:
    """The smallest dimension of the largest product that a case measures; 0 where it measures none."""
    return max((min(shape) for shape in case.fields.get("shapes", []) if shape), default=0)
