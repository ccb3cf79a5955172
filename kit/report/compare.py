"""Several results side by side: what differs between them, scores, rows of the report, metrics of cases of one name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from kit.report.blocks import Block, Column, Heading, Page, Table, Text
from kit.report.source import Source
from kit.report.tables import number, state
from kit.report.words import Words
from verify.scoring.baseline import workload

FACTS = ("plan", "chip", "isolation", "kit", "started", "finished", "signer", "origin")


def page(given: list[Source], words: Words) -> Page:
    """The whole comparison in one language; other readings and baselines of a result stand as results of their own."""
    sources = [one for source in given for one in _readings(source)]
    blocks: list[Block] = [Text(words.say("compare.intro", count=len(sources)))]
    for key, make in (("differs", _differs), ("scores", _scores), ("tables", _rows), ("metrics", _metrics)):
        blocks += [Heading(1, words.say(f"compare.{key}"), key), make(sources, words)]
    labels = {key: words.say(key) for key in ("skip", "contents", "filter", "sort", "values")}
    return Page(words.say("language"), words.say("title.compare"), " · ".join(_names(sources)), tuple(blocks), labels)


def _readings(source: Source) -> list[Source]:
    return [source, *(replace(source, result=source.result | {"scoring": other, "against": []}) for other in source.result["against"])]


def _names(sources: list[Source]) -> list[str]:
    """Numbered names of the runs, with profile and baseline where one run stands there more than once."""
    names = [source.name for source in sources]
    return [
        f"{index}. {source.name}" + (f" ({reading(source.result['scoring'])})" if names.count(source.name) > 1 else "")
        for index, source in enumerate(sources, start=1)
    ]


def reading(scoring: dict[str, Any] | None) -> str:
    """Profile and baseline of a scoring."""
    return f"{scoring['profile']['name']} / {scoring['baseline']['name']}" if scoring else "-"


def _columns(first: tuple[str, ...], sources: list[Source], *last: str, numeric: bool) -> tuple[Column, ...]:
    values = [Column(name, number=numeric) for name in _names(sources)]
    return (*(Column(name) for name in first), *values, *(Column(name) for name in last))


def _differs(sources: list[Source], words: Words) -> Table:
    """Facts of run, image, environment, profile and plan that are not the same in all."""
    flat = [dict(_facts(source, words)) for source in sources]
    keys = list(dict.fromkeys(key for facts in flat for key in facts))
    rows = []
    for key in keys:
        values = [facts.get(key, words.say("missing")) for facts in flat]
        if len(set(values)) > 1:
            rows.append((key, *values))
    columns = _columns((words.say("column.item"),), sources, numeric=False)
    return Table("table-differs", words.say("compare.differs"), columns, tuple(rows))


def _facts(source: Source, words: Words) -> Iterator[tuple[str, str]]:
    run = source.result["run"]
    for name in FACTS:
        yield name, str(run.get(name, words.say("missing")))
    yield "verdict", words.say(f"verdict.{source.result['verdict']}")
    if scoring := source.result["scoring"]:
        yield "profile", scoring["profile"]["name"]
        yield "baseline", scoring["baseline"]["name"]
    yield from _flatten("image", run.get("image"))
    yield from _flatten("environment", source.environment)
    for case in source.result["cases"]:
        for path, value in _flatten("", case["fields"]):
            if path != "id":
                yield words.say("compare.plan_case", case=case["id"], field=path), value


def _flatten(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key in sorted(value):
            yield from _flatten(f"{name}.{key}" if name else str(key), value[key])
    else:
        yield name, str(value)


def _scores(sources: list[Source], words: Words) -> Table:
    """Totals of the tables that score a part of the report."""
    totals = [{table["id"]: table for table in (source.result["scoring"] or {"tables": []})["tables"]} for source in sources]
    first = next((found for found in totals if found), {})
    rows = tuple(
        (
            words.say(f"section.{table['section']}"),
            words.say(f"part_name.{table['part']}"),
            *(state(found[name]["total"], words) if name in found else words.say("missing") for found in totals),
        )
        for name, table in first.items()
        if table["total_kind"] != "none" or table["reuse"]
    )
    columns = _columns((words.say("column.section"), words.say("column.part")), sources, numeric=True)
    return Table("table-scores", words.say("compare.scores"), columns, rows)


def _rows(sources: list[Source], words: Words) -> Table:
    """Scores of the rows of the report that any of the results filled."""
    found: dict[tuple[str, str], list[str]] = {}
    labels: dict[tuple[str, str], str] = {}
    for index, source in enumerate(sources):
        for table in (source.result["scoring"] or {"tables": []})["tables"]:
            for row in table["rows"]:
                key = (f"{table['place']} {table['id']}", row["id"])
                if row["state"] in {"scored", "0", "no_baseline"}:
                    found.setdefault(key, [words.say("missing")] * len(sources))[index] = state(row, words)
                    labels[key] = " ".join(str(value) for value in row["label"].values())
    rows = tuple((table, labels[table, row], *values) for (table, row), values in found.items())
    columns = _columns((words.say("column.section"), words.say("column.item")), sources, numeric=True)
    return Table("table-rows", words.say("compare.tables"), columns, rows)


def _metrics(sources: list[Source], words: Words) -> Table:
    """Metrics of cases of one name; marked where their work, or the number of cards, is not the same."""
    cases = [{case["id"]: case for case in source.result["cases"]} for source in sources]
    rows = []
    for name in dict.fromkeys(name for one in cases for name in one):
        there = [one[name] for one in cases if name in one]
        mark = words.say("compare.one") if len(there) < 2 else ""
        if len({workload(case["fields"]) for case in there}) > 1:
            mark = f"{words.say('compare.mark')}: {words.say('compare.mark_why')}"
        for metric in dict.fromkeys(metric for case in there for metric in case["metrics"]):
            values = [one.get(name, {"metrics": {}})["metrics"].get(metric) for one in cases]
            unit = next(value["unit"] for value in values if value)
            shown = (number(value["value"], "") if value else words.say("missing") for value in values)
            rows.append((name, metric, unit, *shown, mark))
    first = tuple(words.say(f"column.{column}") for column in ("case", "metric", "unit"))
    columns = _columns(first, sources, words.say("row_note"), numeric=True)
    return Table("table-metrics", words.say("compare.metrics"), columns, tuple(rows))
