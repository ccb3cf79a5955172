"""The score table and the findings, as text for a terminal."""

from __future__ import annotations

from typing import Any

from tabulate import tabulate

SHOWN_STATE = {"not_run": "NA", "failed": "0 (failed)", "interrupted": "0 (interrupted)"}
NO_BASELINE = "no baseline"
NAMES = {"verified": "VERIFIED", "refused": "REFUSED", "unchecked": "UNCHECKED"}


def render(document: dict[str, Any]) -> str:
    """result.json as lines of text: what was run, the scores, the findings, the verdict."""
    parts = [_head(document["run"]), _scores(document["cases"])]
    if document["findings"]:
        parts.append(_findings(document["findings"]))
    parts.append(f"verdict: {NAMES[document['verdict']]} ({_meaning(document)})")
    return "\n\n".join(parts)


def _head(run: dict[str, Any]) -> str:
    return "\n".join(f"{name:<9} {run.get(name) or '-'}" for name in ("run", "plan", "chip", "isolation", "signer", "origin"))


def _scores(cases: list[dict[str, Any]]) -> str:
    rows = [row for case in cases for row in _rows(case)]
    return _grid(rows, ("section", "case", "metric", "value", "unit", "baseline", "score"))


def _rows(case: dict[str, Any]) -> list[tuple[str, ...]]:
    name = (case["section"] or "-", case["id"])
    if not case["metrics"]:
        return [(*name, "-", SHOWN_STATE.get(case["state"], "0 (refused)"), "-", "-", "-")]
    baseline = NO_BASELINE if case["baseline"] is None else str(case["baseline"])
    score = "-" if case["score"] is None else str(case["score"])
    return [(*name, metric, f"{value['value']:.6g}", value["unit"], baseline, score) for metric, value in case["metrics"].items()]


def _findings(findings: list[dict[str, Any]]) -> str:
    keys = ("severity", "rule", "where", "expected", "found")
    return _grid([tuple(finding[key] for key in keys) for finding in findings], keys)


def _grid(rows: list[tuple[str, ...]], headers: tuple[str, ...]) -> str:
    return tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True)


def _meaning(document: dict[str, Any]) -> str:
    if document["verdict"] == "verified":
        own = document["run"].get("origin") == "self"
        return "the record is whole and the numbers follow from it" + (
            "; under the run's own key, so its origin is not shown" if own else ""
        )
    if document["verdict"] == "refused":
        return f"{sum(finding['severity'] == 'error' for finding in document['findings'])} rules were broken"
    return "the record is whole, but no policy names its key; give --policy FILE, or --policy self for the record alone"
