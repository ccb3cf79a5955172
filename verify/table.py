"""Scores, rows, differences and findings, as text for a terminal; beside each number why it may be wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tabulate import tabulate

from verify.findings import Unchecked, show
from verify.profile import Profile

SHOWN_STATE = {"not_run": "NA", "failed": "0 (failed)", "interrupted": "0 (interrupted)"}
NO_BASELINE = "no baseline"
NAMES = {"verified": "VERIFIED", "refused": "REFUSED", "unchecked": "UNCHECKED"}
WIDE = 0.1  # pyperf's rule: a spread of ten per cent of the value makes a number worth doubting
DOUBTS = {
    "random_weights": "random weights: speed only, no quality",
    "incomplete_groups": "a group of cases lacks an output length and does not count",
    "not_submitted": "not submitted",
    "metric_missing": "the case gives no such metric",
    "below_the_bar": "does not meet the target",
    "no_group_in_tier": "no group is fast enough for the tier",
    "no_baseline": "nothing public to compare with",
    "needs_weights_file": "needs the frozen weights, ran with random ones",
    "not_measured": "the case did not measure it, or the device has it not",
    "needs_rehearsal_no": "a rehearsal: faults were put in on purpose",
    "awaits_suite": "no suite measures this yet",
    "gate_failed": "does not pass the gate of its table",
    "gate_missing": "what the gate of its table asks for was not measured",
    "gate_undeclared": "the plan does not declare what the gate of its table asks for",
    "fabric_differs": "other bandwidth between nodes than the baseline's: not comparable",
    "fabric_unknown": "bandwidth between nodes of the baseline is not public",
    "fabric_not_measured": "bandwidth between nodes was not measured",
}
Document = dict[str, Any]
Rows = Sequence[tuple[str, ...]]


def render(document: Document, tables: list[str] | None = None) -> str:
    """result.json as lines of text: what was run, section scores, cases, rows of the named tables, findings, verdict."""
    parts = [_head(document["run"])]
    if document["scoring"]:
        parts.append(_sections(document))
    parts.append(_cases(document["cases"]))
    parts += [_rows_of(table) for table in _asked(document, tables or [])]
    parts += [_difference(document["scoring"], other) for other in document["against"]]
    doubts = list(_doubts(document))
    if doubts:
        parts.append("\n".join(["why a number may be wrong:", *(f"- {doubt}" for doubt in doubts)]))
    if document["findings"]:
        parts.append(_findings(document["findings"]))
    parts.append(f"verdict: {NAMES[document['verdict']]} ({_meaning(document)})")
    return "\n\n".join(parts)


def _head(run: Document) -> str:
    lines = [f"{name:<9} {show(run.get(name) or '-')}" for name in ("run", "plan", "chip", "isolation", "signer", "origin")]
    return "\n".join([*lines, f"{'witness':<9} {_window(run.get('unwitnessed'))}"])


def _window(window: Document | None) -> str:
    """What could have been rewritten unseen."""
    if window is None:
        return "-"
    seen = f"{window['cosignatures']} cosignatures by {show(', '.join(window['witnesses']))}" if window["witnesses"] else "none"
    return f"{seen}; longest unwitnessed stretch {window['seconds']} s, {window['entries']} log entries"


def text(value: float | str | None, none: str = "-") -> str:
    """Six significant digits, or the word for no value."""
    return none if value is None else value if isinstance(value, str) else f"{value:.6g}"


def _sections(document: Document) -> str:
    rows = [
        (section, part, _score(found), _share(found["share"]), {"report": "report", "cases": "own cases"}.get(found["basis"], "-"))
        for section, parts in document["sections"].items()
        for part, found in parts.items()
    ]
    scoring = document["scoring"]
    head = f"profile {scoring['profile']['name']}, baseline {scoring['baseline']['name']} ({scoring['baseline']['filled']} of "
    head += f"{scoring['baseline']['cells']} cells public)"
    return f"{head}\n{_grid(rows, ('section', 'part', 'score', 'rows with a baseline', 'basis'))}"


def _score(part: Document) -> str:
    if part["state"] == "NA":
        return "NA"
    if part["state"] == "done" and part["score"] is None and part["share"] and not part["share"]["submitted"]:
        return "outside the grid"
    return "0" if part["state"] == "0" else text(part["score"], NO_BASELINE)


def _share(share: Document | None) -> str:
    return "-" if share is None else f"{share['counted']} of {share['rows']}"


def _cases(cases: list[Document]) -> str:
    rows = [row for case in cases for row in _case_rows(case)]
    return _grid(rows, ("section", "case", "metric", "value", "spread", "unit", "baseline", "score"))


def _case_rows(case: Document) -> Rows:
    name = (case["section"] or "-", case["id"])
    if not case["metrics"]:
        return [(*name, "-", SHOWN_STATE.get(case["state"], "0 (refused)"), "-", "-", "-", "-")]
    return [_metric(case, name, metric, value) for metric, value in case["metrics"].items()]


def _metric(case: Document, name: tuple[str, str], metric: str, value: Document) -> tuple[str, ...]:
    spread = f"{value['least']:.4g} .. {value['most']:.4g}" if "least" in value else "-"
    scored = case["metric"] == metric
    return (
        *name,
        metric,
        text(value["value"]),
        spread,
        value["unit"],
        text(case["baseline"], NO_BASELINE) if scored or case["metric"] is None else "-",
        text(case["score"]) if scored else "-",
    )


def check(chosen: Profile, names: list[str]) -> None:
    """Unchecked where a name is no table with rows of the profile, nor `all`."""
    tables = [table.id for table in chosen.tables if table.rows]
    for name in names:
        if name not in {"all", *tables}:
            raise Unchecked(f"unknown table '{name}'", next_step=f"known: all, {', '.join(tables)}")


def _asked(document: Document, names: list[str]) -> Iterator[Document]:
    tables = {table["id"]: table for table in document["scoring"]["tables"] if table["rows"]} if document["scoring"] else {}
    yield from (table for name, table in tables.items() if "all" in names or name in names)


def _rows_of(table: Document) -> str:
    shown = [metric["metric"] for metric in (*table["parts"], *table["shown"])]
    headers = ["row", *(word for metric in shown for word in (metric, "baseline")), "weight", "score", "why"]
    rows = [
        (
            _label(row),
            *(word for metric in shown for word in (text(row["values"][metric]["test"]), text(row["values"][metric]["base"]))),
            "-" if row["weight"] is None else f"{text(row['weight'])} ({row['provenance']})",
            state(row),
            "; ".join(DOUBTS.get(word, word) for word in [row["reason"], *row["notes"]] if word) or "-",
        )
        for row in table["rows"]
    ]
    total = table["total"]
    foot = f"total {state(total)}, over {total['counted']} of {total['rows']} rows ({table['formula']}, {table['provenance']})"
    return f"{table['place']} {table['id']}\n{_grid(rows, tuple(headers))}\n{foot}"


def _label(row: Document) -> str:
    return " ".join(str(value) for value in row["label"].values()) or row["id"]


def state(found: Document) -> str:
    """NA, 0, `no baseline`, or the score."""
    if found["state"] in {"NA", "0"}:
        return str(found["state"])
    return text(found["score"], NO_BASELINE if found["state"] == "no_baseline" else "-")


def _difference(ours: Document, other: Document) -> str:
    """What another reading or baseline changes: totals that differ, and why the profile says so."""
    beside = {table["id"]: table["total"] for table in other["tables"]}
    rows = [
        (table["place"], table["id"], state(table["total"]), state(beside[table["id"]]), change(table["total"], beside[table["id"]]))
        for table in ours["tables"]
        if table["id"] in beside and (table["total_kind"] != "none" or table["reuse"])
    ]
    names = [f"{side['profile']['name']} / {side['baseline']['name']}" for side in (ours, other)]
    changes = [f"- {entry['table']}: {entry['note']['en']} (ruling {entry['ruling']})" for entry in other["profile"]["changes"]]
    grid = _grid(rows, ("place", "table", *names, "change"))
    return "\n".join([f"{names[0]} against {names[1]}", grid, *dict.fromkeys(changes)])


def change(ours: Document, other: Document) -> str:
    """Signed difference of two totals, `-` where one of them is not there."""
    if ours["score"] is None or other["score"] is None:
        return "-" if ours["score"] == other["score"] else "only one is compared"
    return "0" if ours["score"] == other["score"] else f"{other['score'] - ours['score']:+.6g}"


def _doubts(document: Document) -> Iterator[str]:
    run = document["run"]
    if run.get("isolation") in {"none", "environment"}:
        yield "not run in a container: what else was installed or running is known less well"
    if any(case["facts"].get("weights") == "random" for case in document["cases"]):
        yield DOUBTS["random_weights"]
    for case in document["cases"]:
        for name, metric in case["metrics"].items():
            if name == case["metric"] and "least" in metric and metric["most"] - metric["least"] > WIDE * abs(metric["value"]):
                yield f"{case['id']}: {name} spreads from {metric['least']:.4g} to {metric['most']:.4g}, over 10 % of its mean"
    if document["scoring"]:
        for section, parts in document["sections"].items():
            for part, found in parts.items():
                share = found["share"]
                if found["basis"] == "report" and share["counted"] < share["rows"]:
                    yield f"{section} {part}: only {share['counted']} of {share['rows']} rows have a baseline"


def _findings(findings: list[Document]) -> str:
    keys = ("severity", "rule", "where", "expected", "found")
    return _grid([tuple(finding[key] for key in keys) for finding in findings], keys)


def _grid(rows: Rows, headers: tuple[str, ...]) -> str:
    return tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True)


def _meaning(document: Document) -> str:
    if document["verdict"] == "verified":
        own = document["run"].get("origin") == "self"
        return "the record is whole and the numbers follow from it" + (
            "; under the run's own key, so its origin is not shown" if own else ""
        )
    if document["verdict"] == "refused":
        return f"{sum(finding['severity'] == 'error' for finding in document['findings'])} rules were broken"
    return "the record is whole, but no policy names its key; give --policy FILE, or --policy self for the record alone"
