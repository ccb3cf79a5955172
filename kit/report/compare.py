"""Several results side by side: what differs between them, scores, rows of the report, metrics of cases of one name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from kit.report import values
from kit.report.blocks import Block, Heading, Page, Table, Text
from kit.report.source import Source
from kit.report.tables import state
from kit.report.words import Words

FACTS = ("plan", "chip", "isolation", "kit", "started", "finished", "signer", "origin")


def page(given: list[Source], words: Words) -> Page:
    """The whole comparison in one language; other readings and baselines of a result stand as results of their own."""
    sources = [one for source in given for one in _readings(source)]
    blocks: list[Block] = [Text(words.say("compare.intro", count=len(sources)))]
    if packs := [name for name, source in zip(values.names(sources), sources, strict=True) if source.pack]:
        blocks.append(Text(words.say("compare.packs", names=", ".join(packs)), "note"))
    parts = {"differs": _differs, "scores": _scores, "tables": _rows, "values": values.of_rows, "metrics": values.of_cases}
    for key, make in parts.items():
        blocks += [Heading(1, words.say(f"compare.{key}"), key), make(sources, words)]
    labels = {key: words.say(key) for key in ("skip", "contents", "filter", "sort", "values")}
    return Page(words.say("language"), words.say("title.compare"), " · ".join(values.names(sources)), tuple(blocks), labels)


def _readings(source: Source) -> list[Source]:
    return [source, *(replace(source, result=source.result | {"scoring": other, "against": []}) for other in source.result["against"])]


def _differs(sources: list[Source], words: Words) -> Table:
    """Facts of run, image, environment, profile and plan that are not the same in all."""
    flat = [dict(_facts(source, words)) for source in sources]
    keys = list(dict.fromkeys(key for facts in flat for key in facts))
    rows = []
    for key in keys:
        told = [facts.get(key, words.say("missing")) for facts in flat]
        compared = [text for text, source in zip(told, sources, strict=True) if not source.pack or key in dict(_facts(source, words))]
        if len(set(compared)) > 1:
            rows.append((_named(key, words), *told))
    columns = values.columns((words.say("column.item"),), sources, numeric=False)
    return Table("table-differs", words.say("compare.differs"), columns, tuple(rows))


def _named(key: str, words: Words) -> str:
    """The word for a fact; of one inside another (image.config) the word for the outer."""
    outer, dot, inner = key.partition(".")
    return words.name("fact", outer) + (f" {inner}" if dot else "") if outer in words.entries["fact"] else key


def _facts(source: Source, words: Words) -> Iterator[tuple[str, str]]:
    run = source.result["run"]
    if source.pack:
        yield "chip", str(source.pack.document["chip"]["id"])
        yield "baseline", source.pack.name
        return
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
    columns = values.columns((words.say("column.section"), words.say("column.part")), sources, numeric=True)
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
    rows = tuple((table, labels[table, row], *scores) for (table, row), scores in found.items())
    columns = values.columns((words.say("column.section"), words.say("column.item")), sources, numeric=True)
    return Table("table-rows", words.say("compare.tables"), columns, rows)
