"""The verdict on a run and result.json, which kit and reports read."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from verify.findings import Finding
from verify.metrics import Metric, Series
from verify.score import CaseResult, decimal_text
from verify.scoring.document import scoring as scoring_document

if TYPE_CHECKING:
    from verify.scoring.engine import Scoring

SCHEMA_VERSION = 1
EXIT = {"verified": 0, "refused": 1, "unchecked": 2}
PARTS = {
    "training": ("function", "compute", "communication", "checkpoint", "stability"),
    "finetuning": ("function", "compute", "communication", "checkpoint", "stability"),
    "inference": ("text_generation", "text_to_image"),
}


@dataclass(slots=True)
class Result:
    """What replay found out; `run` holds facts about the run for display."""

    cases: list[CaseResult] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    run: dict[str, Any] = field(default_factory=dict)
    scorings: list[Scoring] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """`refused` by any error, else `unchecked` where the origin is unknown, else `verified`."""
        if any(finding.severity == "error" for finding in self.findings):
            return "refused"
        return "unchecked" if any(finding.rule == "origin.unchecked" for finding in self.findings) else "verified"

    @property
    def exit_code(self) -> int:
        """0 verified, 1 refused, 2 unchecked."""
        return EXIT[self.verdict]

    def document(self) -> dict[str, Any]:
        """result.json as an object; metric values are JSON numbers of nine significant digits."""
        scored = [scoring_document(scoring, number) for scoring in self.scorings]
        return {
            "schemaVersion": SCHEMA_VERSION,
            "verdict": self.verdict,
            "findings": [finding.to_dict() for finding in self.findings],
            "sections": {name: {part: _part(self, name, part) for part in parts} for name, parts in PARTS.items()},
            "cases": [_case(case, self.scorings) for case in self.cases],
            "scoring": scored[0] if scored else None,
            "against": scored[1:],
            "run": self.run,
        }


def _case(case: CaseResult, scorings: list[Scoring]) -> dict[str, Any]:
    beside = scorings[0].cases[case.id] if scorings else None
    return {
        "id": case.id,
        "suite": case.suite,
        "section": case.section,
        "part": case.part,
        "state": case.state,
        "fields": case.fields,
        "facts": case.facts,
        "metrics": {
            name: {"value": number(metric.value), "unit": metric.unit, "formula": metric.formula} | _spread(metric)
            for name, metric in case.metrics.items()
        },
        "series": {name: _series(series) for name, series in case.series.items()},
        "metric": beside.metric if beside else None,
        "row": beside.row if beside else None,
        "baseline": number(beside.base) if beside and beside.base is not None else None,
        "score": number(beside.score) if beside and beside.score is not None else None,
    }


def _spread(metric: Metric) -> dict[str, Any]:
    if metric.least is None or metric.most is None:
        return {}
    return {"least": number(metric.least), "most": number(metric.most)}


def _series(series: Series) -> dict[str, Any]:
    return {"unit": series.unit, "every": series.every, "warmup": series.warmup, "values": [number(value) for value in series.values]}


def number(value: Fraction) -> int | float:
    """A JSON number of nine significant digits."""
    text = decimal_text(value)
    return float(text) if "." in text else int(text)


def _part(result: Result, section: str, part: str) -> dict[str, Any]:
    """Of one part of the report: `NA` when nothing was submitted, `0` when nothing submitted holds, else `done`."""
    mine = [case for case in result.cases if (case.section, case.part) == (section, part)]
    tried = [case for case in mine if case.state != "not_run"]
    state = "NA" if not tried else "done" if any(case.metrics for case in tried) else "0"
    plain = {"state": state, "score": None, "cases": [case.id for case in mine], "table": None, "share": None, "basis": None}
    found = result.scorings[0].part(section, part) if result.scorings else None
    if found is None:
        return plain
    name, total = found
    share = {"rows": total.rows, "counted": total.counted, "submitted": total.submitted}
    if total.submitted:
        score = None if total.score is None else number(total.score)
        return plain | {"state": "0" if total.state == "0" else "done", "score": score, "table": name, "share": share, "basis": "report"}
    return plain | {"table": name, "share": share} | _off_grid(result, mine)


def _off_grid(result: Result, mine: list[CaseResult]) -> dict[str, Any]:
    """Cases that no row of the report names: the mean of their own ratios, never the report's score."""
    scores = [beside.score for case in mine if (beside := result.scorings[0].cases[case.id]).score is not None and beside.row is None]
    return {"score": number(sum(scores, Fraction(0)) / len(scores)), "basis": "cases"} if scores else {}
