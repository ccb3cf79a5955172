"""Charts of a result, each with its text alternative and its values as a table."""

from __future__ import annotations

from collections.abc import Iterator
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
    found = [
        (f"{words.say(f'section.{section}')} · {words.say(f'part_name.{part}')}", entry["score"], part_state(entry, words))
        for section, parts in source.result["sections"].items()
        for part, entry in parts.items()
    ]
    title = words.say("chart.overview")
    svg = charts.bars([(label, value if value else None, shown) for label, value, shown in found], title)
    return Figure("figure-overview", title, words.say("chart.overview_alt", count=len(found)), svg)


def part_state(entry: dict[str, Any], words: Words) -> str:
    """NA, 0, the score, or `no baseline`."""
    if entry["state"] == "NA":
        return "NA"
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
    return Figure("figure-communication", title, alt, charts.bars(entries, title))


def checkpoint(source: Source, words: Words) -> Figure | None:
    """Save and load times, beside what the raw disk would take where a case measured it."""
    cases = [case for case in source.result["cases"] if case["part"] == "checkpoint" and "save_total_s" in case["metrics"]]
    if not cases:
        return None
    entries = []
    for case in cases:
        for metric in ("save_total_s", "load_total_s", "raw_disk_save_s", "raw_disk_load_s"):
            if metric in case["metrics"]:
                value = case["metrics"][metric]["value"]
                label = words.say("chart.raw") if metric.startswith("raw") else words.name("metric", metric)
                entries.append((f"{case['fields']['cards']} · {label}", value, number(value, "")))
    title = words.say("chart.checkpoint")
    return Figure("figure-checkpoint", title, words.say("chart.checkpoint_alt", count=len(cases)), charts.bars(entries, title, mark=None))


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
    return Figure("figure-latency", title, words.say("chart.latency_alt", count=len(points)), svg)


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
            svg = charts.lines(values, 0, (words.say("chart.step"), "loss"), names, title)
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
    svg = charts.lines([values], found["warmup"], (axis, f"{name} ({found['unit']})"), [name], title)
    anchor = f"figure-{slug(case)}-{slug(name)}"
    every = max(1, -(-len(values) // SHOWN_POINTS))
    rows = tuple((str(index * found["every"]), number(values[index], "")) for index in range(0, len(values), every))
    notes = (words.say("thinned", every=every),) if every > 1 else ()
    columns = (Column(words.say("column.step"), number=True), Column(f"{name} ({found['unit']})", number=True))
    return Figure(anchor, title, alt, svg, Table(f"{anchor}-values", f"{words.say('values')} · {title}", columns, rows, notes=notes))
