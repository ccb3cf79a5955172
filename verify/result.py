"""The verdict on a run and result.json, which kit and reports read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from verify.findings import Finding
from verify.score import CaseResult, decimal_text

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
        return {
            "schemaVersion": SCHEMA_VERSION,
            "verdict": self.verdict,
            "findings": [finding.to_dict() for finding in self.findings],
            "sections": {name: {part: _part(self.cases, name, part) for part in parts} for name, parts in PARTS.items()},
            "cases": [_case(case) for case in self.cases],
            "run": self.run,
        }


def _case(case: CaseResult) -> dict[str, Any]:
    return {
        "id": case.id,
        "suite": case.suite,
        "section": case.section,
        "part": case.part,
        "state": case.state,
        "metrics": {
            name: {"value": _number(decimal_text(metric.value)), "unit": metric.unit, "formula": metric.formula}
            for name, metric in case.metrics.items()
        },
        "baseline": case.baseline,
        "score": case.score,
    }


def _number(text: str) -> int | float:
    return float(text) if "." in text else int(text)


def _part(cases: list[CaseResult], section: str, part: str) -> dict[str, Any]:
    """Of one part of the report: `NA` when nothing was submitted, `0` when nothing submitted holds, else `done`."""
    mine = [case for case in cases if (case.section, case.part) == (section, part)]
    tried = [case for case in mine if case.state != "not_run"]
    state = "NA" if not tried else "done" if any(case.metrics for case in tried) else "0"
    return {"state": state, "score": None, "cases": [case.id for case in mine]}
