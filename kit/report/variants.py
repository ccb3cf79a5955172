"""Variants of training, as the profile names them: shown one a row, each beside the same work in 16 bits, and never scored."""

from __future__ import annotations

from typing import Any

from kit.report.blocks import Column, Table
from kit.report.source import Source
from kit.report.tables import number, short
from kit.report.words import Words
from verify.scoring.baseline import workload

Case = dict[str, Any]


def table(source: Source, words: Words) -> Table | None:
    """One row a variant; None where the run has none."""
    scoring = source.result["scoring"]
    named = set(scoring.get("variants", ())) if scoring else set()
    cases = source.result["cases"]
    rows = tuple(_row(case, [other for other in cases if other["id"] not in named], words) for case in cases if case["id"] in named)
    if not rows:
        return None
    plain = [Column(words.say(f"column.{name}")) for name in ("case", "model", "cards", "precision")]
    numbers = [
        words.say("metric.tgs"),
        words.say("column.spread"),
        words.say("column.beside"),
        words.say("metric.loss_last"),
        words.say("column.mfu"),
    ]
    columns = (*plain, *(Column(name, number=True) for name in numbers))
    return Table("table-variants", words.say("text.variants_caption"), columns, rows)


def _row(case: Case, others: list[Case], words: Words) -> tuple[str, ...]:
    fields, metrics, missing = case["fields"], case["metrics"], words.say("missing")
    model = fields.get("model", {})
    label = (
        case["id"],
        str(model.get("id") or model.get("architecture", missing)),
        str(fields.get("cards", missing)),
        str(fields.get("dtype", missing)),
    )
    if not metrics:
        state = (
            "NA" if case["state"] == "not_run" else f"0 ({words.name('reason', 'refused' if case['state'] == 'done' else case['state'])})"
        )
        return (*label, state, missing, missing, missing, missing)
    rate = metrics["tgs"]
    spread = f"{short(rate['least'])} ~ {short(rate['most'])}" if "least" in rate else missing
    shown = [number(metrics[name]["value"], missing) if name in metrics else missing for name in ("loss_last", "mfu")]
    return (*label, number(rate["value"], missing), spread, beside(case, others, words), *shown)


def beside(case: Case, others: list[Case], words: Words) -> str:
    """Rate of the first case of the run that does the same work in another precision, with that precision."""
    for other in others:
        if "tgs" in other["metrics"] and _work(other) == _work(case):
            return f"{number(other['metrics']['tgs']['value'], '')} ({other['fields']['dtype']})"
    return words.say("missing")


def _work(case: Case) -> str:
    """What a case asks for, without its layout, its precision and its name."""
    return workload({name: value for name, value in case["fields"].items() if name != "dtype"})
