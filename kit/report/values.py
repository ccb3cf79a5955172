"""Values of several runs and baseline packs side by side: cells of the rows of the report, metrics of cases of one name."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from kit.report.blocks import Column, Table
from kit.report.source import Source
from kit.report.tables import number
from kit.report.words import Words
from verify.scoring.baseline import Baseline, workload

Found = dict[str, Any]


def names(sources: list[Source]) -> list[str]:
    """Numbered names of the runs, with profile and baseline where one run stands there more than once."""
    given = [source.name for source in sources]
    return [
        f"{index}. {source.name}" + (f" ({reading(source.result['scoring'])})" if given.count(source.name) > 1 else "")
        for index, source in enumerate(sources, start=1)
    ]


def reading(scoring: Found | None) -> str:
    """Profile and baseline of a scoring."""
    return f"{scoring['profile']['name']} / {scoring['baseline']['name']}" if scoring else "-"


def columns(first: tuple[str, ...], sources: list[Source], *last: str, numeric: bool) -> tuple[Column, ...]:
    """Columns before, one for each source, columns after."""
    middle = [Column(name, number=numeric) for name in names(sources)]
    return (*(Column(name) for name in first), *middle, *(Column(name) for name in last))


def of_rows(sources: list[Source], words: Words) -> Table:
    """Cells of the rows of the report that a run filled: its value (scaled to the baseline's cards), the pack's own."""
    asked: dict[tuple[str, str, str], tuple[str, str]] = {}
    for source in sources:
        for table, row, metric, value in _cells(source):
            if value["test"] is not None:
                label = " ".join(str(text) for text in row["label"].values())
                asked.setdefault((table["id"], row["id"], metric), (f"{table['place']} {table['id']}", label))
    columns_found = [_column(source) for source in sources]
    apart = _apart(sources, columns_found)
    rows = []
    for key, (place, label) in asked.items():
        there = [found.get(key) for found in columns_found]
        shown = (_shown(value, source, words) for value, source in zip(there, sources, strict=True))
        units = [unit for _, unit in filter(None, there)]
        mark = _mark(["", "apart"], "fabric_why", words) if key[:2] in apart else _mark(units, "unit_why", words)
        rows.append((place, label, key[2], units[0], *shown, mark))
    first = tuple(words.say(f"column.{column}") for column in ("section", "item", "metric", "unit"))
    return Table("table-values", words.say("compare.values"), columns(first, sources, words.say("row_note"), numeric=True), tuple(rows))


def _apart(sources: list[Source], columns_found: list[dict[tuple[str, str, str], tuple[float, str]]]) -> set[tuple[str, str]]:
    """Rows whose conditions (bandwidth between nodes) are further apart between two columns than the profile allows."""
    found = set()
    for source in sources:
        for table in (source.result["scoring"] or {"tables": []})["tables"]:
            for row, condition in ((row, condition) for row in table["rows"] for condition in table.get("conditions", ())):
                key = (table["id"], row["id"], condition["metric"])
                there = [column[key][0] for column in columns_found if key in column]
                if there and max(there) - min(there) > condition["tolerance"] * min(there):
                    found.add(key[:2])
    return found


def _cells(source: Source) -> Iterator[tuple[Found, Found, str, Found]]:
    for table in (source.result["scoring"] or {"tables": []})["tables"]:
        for row in table["rows"]:
            for metric, value in row["values"].items():
                yield table, row, metric, value


def _column(source: Source) -> dict[tuple[str, str, str], tuple[float, str]]:
    """Value and unit by table, row, metric."""
    if source.pack:
        kept = ((cell.key.split("/"), cell.value, cell.unit) for cell in source.pack.cells.values())
        return {
            (place[0], place[1], place[2]): (_plain(value), unit) for place, value, unit in kept if value is not None and place[0] != "case"
        }
    found = ((table["id"], row["id"], metric, value) for table, row, metric, value in _cells(source))
    return {(table, row, metric): (value["test"], value["unit"]) for table, row, metric, value in found if value["test"] is not None}


def _plain(value: Fraction) -> float:
    return int(value) if value.denominator == 1 else float(value)


def _shown(value: tuple[float, str] | None, source: Source, words: Words) -> str:
    if value is None:
        return words.say("none" if source.pack else "missing")
    return number(value[0], "")


def _mark(kinds: list[str], why: str, words: Words) -> str:
    """Only in one, or not comparable where the kinds of what is there are not the same."""
    if len(set(kinds)) > 1:
        return f"{words.say('compare.mark')}: {words.say(f'compare.{why}')}"
    return words.say("compare.one") if len(kinds) < 2 else ""


def of_cases(sources: list[Source], words: Words) -> Table:
    """Metrics of cases of one name; marked where their work, or the number of cards, is not the same."""
    asked = {workload(case["fields"]) for source in sources for case in source.result["cases"]}
    cases = [_packed(source.pack, asked) if source.pack else _run(source) for source in sources]
    rows = []
    for name in dict.fromkeys(name for one, source in zip(cases, sources, strict=True) for name in one if not source.pack):
        there = [one[name] for one in cases if name in one]
        mark = _mark([work for work, _ in there], "mark_why", words)
        for metric in dict.fromkeys(
            metric for one, source in zip(cases, sources, strict=True) if not source.pack and name in one for metric in one[name][1]
        ):
            found = [one[name][1].get(metric) if name in one else None for one in cases]
            shown = (_shown(value, source, words) for value, source in zip(found, sources, strict=True))
            rows.append((name, metric, next(value[1] for value in found if value), *shown, mark))
    first = tuple(words.say(f"column.{column}") for column in ("case", "metric", "unit"))
    return Table("table-metrics", words.say("compare.metrics"), columns(first, sources, words.say("row_note"), numeric=True), tuple(rows))


Cases = dict[str, tuple[str, dict[str, tuple[float, str]]]]


def _run(source: Source) -> Cases:
    """Workload and metrics of each case of a run."""
    return {
        case["id"]: (workload(case["fields"]), {name: (metric["value"], metric["unit"]) for name, metric in case["metrics"].items()})
        for case in source.result["cases"]
    }


def _packed(pack: Baseline, asked: set[str]) -> Cases:
    """The same of a pack; of two cases of one name the one whose work a run did."""
    found: Cases = {}
    named = (cell for cell in pack.document["cells"] if "case" in cell and cell["value"] is not None)
    for cell in sorted(named, key=lambda cell: cell["workload"] in asked):
        if cell["case"] not in found or found[cell["case"]][0] != cell["workload"]:
            found[cell["case"]] = (cell["workload"], {})
        found[cell["case"]][1][cell["metric"]] = (_plain(Fraction(cell["value"])), cell["unit"])
    return found
