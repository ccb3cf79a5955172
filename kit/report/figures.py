"""Charts of a result, each with its text alternative and its values as a table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from kit.report import charts
from kit.report.blocks import Column, Figure, Table
from kit.report.source import Source
from kit.report.tables import number, slug, state
from kit.report.words import Words

TELEMETRY = ("power_w", "temperature_c", "clock_mhz")
SHOWN_POINTS = 40  # of a series, in its table: enough to read a curve, small enough to print


def overview(source: Source, words: Words) -> Figure:
    """Scores of the parts of the report, as bars."""
    sections = source.result["sections"]
    entries = [
        (f"{words.say(f'section.{section}')} · {words.say(f'part_name.{part}')}", sections[section][part])
        for section in words.entries["section"]
        for part in words.entries["part_name"]
        if part in sections.get(section, {})
    ]
    found = [(label, entry["score"], part_state(entry, words)) for label, entry in entries]
    title = words.say("chart.overview")
    svg = charts.bars([(label, value if value else None, shown) for label, value, shown in found], title)
    table = _values("figure-overview", title, _columns(words, "part", "score"), ((label, shown) for label, _, shown in found), words)
    return Figure("figure-overview", title, words.say("chart.overview_alt", count=len(found)), svg, table)


def _columns(words: Words, first: str, *numbers: str) -> tuple[Column, ...]:
    """A text column `column.first`, then number columns by their keys."""
    return (Column(words.say(f"column.{first}")), *(Column(words.say(key), number=True) for key in numbers))


def _values(anchor: str, title: str, columns: tuple[Column, ...], rows: Iterable[tuple[str, ...]], words: Words) -> Table:
    """The table that folds below a chart."""
    return Table(f"{anchor}-values", f"{words.say('values')} · {title}", columns, tuple(rows))


def part_state(entry: dict[str, Any], words: Words) -> str:
    """NA, 0, the score, `no baseline`, or that what was measured fills no row of the report."""
    if entry["state"] == "NA":
        return "NA"
    if entry["state"] == "done" and entry["score"] is None and entry["share"] and not entry["share"]["submitted"]:
        return words.say("outside")
    return "0" if entry["state"] == "0" else number(entry["score"], words.say("none"))


def communication(source: Source, words: Words) -> Figure | None:
    """Throughput over the baseline's, one bar an operation and number of cards."""
    table = source.table("communication")
    rows = table["rows"] if table else []
    if not any(row["case"] for row in rows):
        return None
    entries = [
        (f"{row['label']['operation']} · {row['label']['cards']}", row["score"] if row["state"] == "scored" else None, state(row, words))
        for row in rows
    ]
    title = words.say("chart.communication")
    alt = words.say("chart.communication_alt", count=len(entries))
    cells = ((label, *_sides(row, "throughput_gbps", words), shown) for row, (label, _, shown) in zip(rows, entries, strict=True))
    columns = (Column(words.say("column.operation")), *_both("throughput_gbps", words), Column(words.say("score"), number=True))
    values = _values("figure-communication", title, columns, cells, words)
    return Figure("figure-communication", title, alt, charts.bars(entries, title), values)


def _both(metric: str, words: Words) -> tuple[Column, Column]:
    """Columns of a metric, of the baseline and of the test."""
    base, test = (Column(words.say(side), words.name("metric", metric), number=True) for side in ("baseline", "test"))
    return base, test


def _sides(row: dict[str, Any], metric: str, words: Words) -> tuple[str, str]:
    """The same for a row: `no baseline` and `missing` where there is no value."""
    value = row["values"][metric]
    return number(value["base"], words.say("none")), number(value["test"], words.say("missing"))


PACES = {  # metric -> word
    "save_gb_per_s": "save_rate",
    "raw_write_gb_per_s": "raw_write",
    "load_gb_per_s": "load_rate",
    "raw_read_gb_per_s": "raw_read",
}


def checkpoint(source: Source, words: Words) -> Figure | None:
    """The pace of saving and loading beside the raw disk of the same rounds, in GB/s."""
    cases = [case for case in source.result["cases"] if case["part"] == "checkpoint" and "save_gb_per_s" in case["metrics"]]
    if not cases:
        return None
    entries = []
    for case in cases:
        for metric, label in PACES.items():
            if metric in case["metrics"]:
                value = case["metrics"][metric]["value"]
                cards = f"{case['fields']['cards']} {words.say('column.cards')}"
                entries.append((f"{cards} · {words.say(f'chart.{label}')}", value, number(value, "")))
    title = words.say("chart.checkpoint")
    columns = (Column(words.say("column.item")), Column("GB/s", number=True))
    table = _values("figure-checkpoint", title, columns, ((label, shown) for label, _, shown in entries), words)
    svg = charts.bars(entries, title, mark=None)
    return Figure("figure-checkpoint", title, words.say("chart.checkpoint_alt", count=len(cases)), svg, table)


def latency(source: Source, words: Words) -> Figure | None:
    """First-token latency against throughput, with the tier bounds; test and baseline in marks of their own."""
    grid, tiers = source.table("text_generation"), source.table("text_generation_tiers")
    if grid is None or tiers is None:
        return None
    models = sorted({row["group"] for row in grid["rows"]}, reverse=True)
    points = [
        charts.Point(values[0], values[1], 2 * models.index(row["group"]) + side, f"{row['id']}: {values[0]:.6g} ms, {values[1]:.6g}")
        for row in grid["rows"]
        for side, key in enumerate(("test", "base"))
        if all(values := [row["values"][metric][key] for metric in ("first_token_latency_mean_ms", "throughput")])
    ]
    if not points:
        return None
    legend = [f"{model} · {words.say(side)}" for model in models for side in ("test", "baseline")]
    axes = (words.say("chart.latency_x"), words.say("chart.latency_y"))
    title = words.say("chart.latency")
    svg = charts.scatter(points, tiers["tiers_ms"], axes, legend, title)
    table = _values("figure-latency", title, *_latency_cells(grid["rows"], words), words)
    return Figure("figure-latency", title, words.say("chart.latency_alt", count=len(points)), svg, table)


def _latency_cells(rows: list[dict[str, Any]], words: Words) -> tuple[tuple[Column, ...], list[tuple[str, ...]]]:
    """Columns and rows of the values: only cases that have a point."""
    metrics = ("first_token_latency_mean_ms", "throughput")
    columns = (Column(words.say("column.case")), *(column for metric in metrics for column in _both(metric, words)))
    drawn = [row for row in rows if any(all(row["values"][metric][side] for metric in metrics) for side in ("test", "base"))]
    cells = [(f"{row['id']} · {row['group']}", *(text for metric in metrics for text in _sides(row, metric, words))) for row in drawn]
    return columns, cells


def curves(source: Source, words: Words) -> Iterator[Figure]:
    """Loss against the baseline's curve with the difference, for the rows of stability that have one."""
    table = source.table("stability")
    for row in table["rows"] if table else []:
        if curve := row.get("curve"):
            label = " · ".join(str(value) for value in row["label"].values())
            title = words.say("chart.loss_base", case=label)
            names = [words.say(key) for key in ("test", "baseline", "chart.difference")]
            values = [curve[key] for key in ("test", "base", "difference")]
            unit = row["values"]["loss_variance"]["unit"]
            svg = charts.lines(values, 0, (words.say("chart.step"), f"{words.name('metric', 'loss')} (nat/token)"), names, title)
            variance = number(row["values"]["loss_variance"]["test"], "")
            alt = words.say("chart.loss_base_alt", steps=len(values[0]), variance=variance, unit=unit)
            anchor = f"figure-curve-{slug(row['id'])}"
            columns = (Column(words.say("column.step"), number=True), *(Column(name, number=True) for name in names))
            rows = tuple((str(step), *(number(value, "") for value in three)) for step, three in enumerate(zip(*values, strict=True)))
            yield Figure(anchor, title, alt, svg, Table(f"{anchor}-values", f"{words.say('values')} · {label}", columns, rows))


def series(source: Source, words: Words, part: tuple[str, str]) -> Iterator[Figure]:
    """Every series of the cases of a part: step times, losses, telemetry."""
    for case in source.result["cases"]:
        if (case["section"], case["part"]) == part:
            for name, found in case["series"].items():
                if found["values"]:
                    yield _series(case["id"], name, found, words)


def _series(case: str, name: str, found: dict[str, Any], words: Words) -> Figure:
    axis = words.say("chart.reading" if name in TELEMETRY else "chart.step")
    known = f"chart.{name}" if name in words.entries["chart"] else "chart.series"
    title = words.say(known, case=case, name=name)
    name = words.name("metric", name)
    values = found["values"]
    alt = words.say(
        "chart.series_alt",
        name=name,
        steps=len(values) * found["every"],
        least=number(min(values), ""),
        most=number(max(values), ""),
        unit=found["unit"],
        warmup=found["warmup"] * found["every"],
    )
    svg = charts.lines(
        [values], found["warmup"], (axis, f"{name} ({found['unit']})"), [name], title, every=found["every"], width=charts.HALF
    )
    anchor = f"figure-{slug(case)}-{slug(name)}"
    every = max(1, -(-len(values) // SHOWN_POINTS))
    rows = tuple((str(index * found["every"]), number(values[index], "")) for index in range(0, len(values), every))
    notes = (words.say("thinned", every=every),) if every > 1 else ()
    columns = (Column(words.say("column.step"), number=True), Column(f"{name} ({found['unit']})", number=True))
    table = Table(f"{anchor}-values", f"{words.say('values')} · {title}", columns, rows, notes=notes)
    return Figure(anchor, title, alt, svg, table, half=True)
