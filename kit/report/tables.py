"""Tables of the report from the scored tables of result.json; layout.toml says which columns stand where."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from kit.report.blocks import Column, Table
from kit.report.words import Words

Row = dict[str, Any]
BYTES_PER_ELEMENT = 4
UNMEASURED = {"NA": "NA", "0": "0", "shown": "NA"}  # state of a row -> what stands where nothing was measured


@cache
def layout() -> dict[str, list[str]]:
    """Columns of each table."""
    return tomllib.loads((Path(__file__).parent / "layout.toml").read_text(encoding="utf-8"))


def number(value: float | None, none: str) -> str:
    """Six significant digits, everywhere in a report; integers of any size whole."""
    if value is None:
        return none
    return str(value) if isinstance(value, int) else _plain(f"{value:.6g}")


def short(value: float) -> str:
    """Four significant digits, for a spread."""
    return _plain(f"{value:.4g}")


def _plain(text: str) -> str:
    """A large number without an exponent; nobody reads 1.394e+04."""
    return f"{float(text):.0f}" if "e+" in text else text


def state(found: Row, words: Words) -> str:
    """NA, 0, `no baseline`, or the score."""
    if found["state"] in {"NA", "0"}:
        return str(found["state"])
    return words.say("none") if found["state"] == "no_baseline" else number(found["score"], words.say("missing"))


def table(scored: Row, words: Words, cards: dict[str, int], part: str | None = None) -> Table:
    """One table; of a table that is split (by input length, by model) the part whose label has this value."""
    rows = [row for row in scored["rows"] if part is None or str(row["label"][scored["split"]]) == part]
    columns = _columns(scored, rows, words, cards)
    cells = tuple(tuple(_cell(column, row, scored, words, cards) for column in columns) for row in rows)
    return Table(
        anchor=f"table-{scored['id']}" + (f"-{slug(part)}" if part else ""),
        caption=caption(scored, words, part),
        columns=tuple(_column(column, scored, words) for column in columns),
        rows=cells,
        foot=None if scored["total_kind"] == "none" else (words.say("total"), state(scored["total"], words)),
        notes=_notes(scored, words),
    )


def _columns(scored: Row, rows: list[Row], words: Words, cards: dict[str, int]) -> list[str]:
    """Columns of the layout; one that ends in `?` only where a row has a value for it."""
    there = []
    for column in layout()[scored["id"]]:
        name = column.removesuffix("?")
        if name == column or any(_cell(name, row, scored, words, cards) != words.say("missing") for row in rows):
            there.append(name)
    return there + (["why"] if any(row["reason"] or row["notes"] for row in rows) else [])


def slug(text: str) -> str:
    """A text as part of an anchor."""
    return "".join(character if character.isalnum() and character.isascii() else "-" for character in text.lower())


def caption(scored: Row, words: Words, part: str | None = None) -> str:
    """What a table is of, without the number of its section."""
    name = words.bare(scored["id"] if scored["id"] in words.entries["heading"] else scored["part"])
    if scored["section"] in words.entries["section"] and scored["section"] != "inference":
        return f"{words.say('section.' + scored['section'])} · {name}"
    if part is None:
        return name
    return f"{name} · {part}" if scored["split"] == "model" else f"{name} · {words.say('column.input_tokens')} {part}"


def _notes(scored: Row, words: Words) -> tuple[str, ...]:
    """Share, formula and weights of a table with a total; what its gates and conditions say."""
    if scored["total_kind"] == "none":
        return tuple(_judged(scored, words))
    weights = sorted({row["provenance"] for row in scored["rows"]} | {part["provenance"] for part in scored["parts"]})
    named = words.say("comma").join(words.say(f"provenance.{name}") for name in weights)
    formula = words.say("formula", formula=scored["formula"], provenance=words.say(f"provenance.{scored['provenance']}"), weights=named)
    share = words.say("share", **{key: scored["total"][key] for key in ("rows", "counted", "submitted")})
    return (share, formula, *_judged(scored, words))


def _judged(scored: Row, words: Words) -> Iterator[str]:
    """Gates that rows were put to, and how many rows stand apart from the baseline's conditions."""
    gates: dict[str, list[Row]] = {}
    for gate in (gate for row in scored["rows"] for gate in row.get("gates", ())):
        gates.setdefault(gate["id"], []).append(gate)
    for name, found in gates.items():
        passed = sum(gate["state"] == "passed" for gate in found)
        values = sorted(gate["value"] for gate in found if gate["value"] is not None)
        shown = f"{number(values[0], '')} ~ {number(values[-1], '')}" if values else words.say("missing")
        facts = {key: found[0][key] for key in ("ruling", "low", "high")} | {"passed": passed, "count": len(found), "values": shown}
        yield words.say("gate.passed", name=words.name("gate", name), **facts)
    if scored["total"].get("apart"):
        yield words.say("gate.apart", count=scored["total"]["apart"], ruling=scored["conditions"][0]["ruling"])


def _column(column: str, scored: Row, words: Words) -> Column:
    kind, _, name = column.partition(".")
    if kind in {"base", "test", "actual"}:
        own = words.entries["metric_of"].get(scored["id"], {}).get(name)
        return Column(words.say({"base": "baseline"}.get(kind, kind)), own or words.name("metric", name), number=True)
    if kind in {"spread", "distance", "basespread"}:
        own = words.entries["metric_of"].get(scored["id"], {}).get(name)
        return Column(words.say(f"column.{kind}"), own or words.name("metric", name), number=True)
    if kind == "cards":
        return Column(words.say({"base": "baseline"}.get(name, name)), words.say("column.cards"), number=True)
    if kind == "label":
        return Column(words.name("column", name), number=name not in {"item", "unit", "model", "operation"})
    if kind == "part":
        return Column(words.name("part", name), number=True)
    named = {"score": "score", "weight": "weight", "why": "row_note"}
    text = words.say(named[kind]) if kind in named else words.say(f"column.{kind}")
    return Column(text, number=kind in {"score", "weight", "id", "batch"})


def _cell(column: str, row: Row, scored: Row, words: Words, cards: dict[str, int]) -> str:
    kind, _, name = column.partition(".")
    return CELLS[kind](name, row, scored, words, cards)


def _base(name: str, row: Row, _: Row, words: Words, __: dict[str, int]) -> str:
    value = row["values"].get(name)
    return words.say("missing") if value is None else number(value["base"], words.say("none"))


def _test(name: str, row: Row, _: Row, words: Words, __: dict[str, int]) -> str:
    value = row["values"].get(name)
    if value is None or value["test"] is None:
        return UNMEASURED.get(row["state"], words.say("missing")) if value is not None else words.say("missing")
    return number(value["test"], "")


def _actual(name: str, row: Row, _: Row, words: Words, __: dict[str, int]) -> str:
    return number(row["values"][name]["actual"], words.say("missing"))


def _spread(name: str, row: Row, _: Row, words: Words, __: dict[str, int]) -> str:
    spread = row["values"].get(name, {}).get("spread")
    return f"{short(spread[0])} ~ {short(spread[1])}" if spread else words.say("missing")


def _distance(name: str, row: Row, _: Row, words: Words, __: dict[str, int]) -> str:
    value = row["values"].get(name, {}).get("distance")
    return words.say("missing") if value is None else f"{value:+.4g}"


def _basespread(name: str, row: Row, _: Row, words: Words, __: dict[str, int]) -> str:
    spread = row["values"].get(name, {}).get("base_spread")
    return f"{float(spread['min']):.6g} ~ {float(spread['max']):.6g} ({spread['runs']})" if spread else words.say("missing")


def _cards(name: str, row: Row, _: Row, words: Words, cards: dict[str, int]) -> str:
    return number(row["cards"] if name == "base" else cards.get(str(row["case"])), words.say("missing"))


def _label(name: str, row: Row, _: Row, words: Words, __: dict[str, int]) -> str:
    value = row["label"].get(name, "")
    return words.name("item", str(value)) if name == "item" else str(value)


def _why(_: str, row: Row, __: Row, words: Words, ___: dict[str, int]) -> str:
    return words.say("comma").join(words.name("reason", reason) for reason in [row["reason"], *row["notes"]] if reason)


def _tier(_: str, row: Row, scored: Row, __: Words, ___: dict[str, int]) -> str:
    bounds = [0, *scored["tiers_ms"], None]
    low, high = bounds[row["label"]["tier"]], bounds[row["label"]["tier"] + 1]
    return f"({low}, +∞)" if high is None else f"({low}, {high}]"


def _size(_: str, row: Row, __: Row, ___: Words, ____: dict[str, int]) -> str:
    size = row["label"]["elements"] * BYTES_PER_ELEMENT
    return f"{size / 2**30:.6g} GiB" if size >= 2**30 else f"{size / 2**20:.6g} MiB"


def _id(_: str, row: Row, scored: Row, __: Words, ___: dict[str, int]) -> str:
    """Tiers are counted 0 to 7 in each of their tables, as in the report; cases from 1."""
    count = 4 * len({entry["label"]["model"] for entry in scored["rows"]}) if scored["tiers_ms"] else None
    return str((int(row["id"]) - 1) % count) if count else str(row["id"])


CELLS: dict[str, Callable[[str, Row, Row, Words, dict[str, int]], str]] = {
    "base": _base,
    "test": _test,
    "actual": _actual,
    "spread": _spread,
    "distance": _distance,
    "basespread": _basespread,
    "cards": _cards,
    "label": _label,
    "why": _why,
    "tier": _tier,
    "size": _size,
    "id": _id,
    "batch": lambda _, row, __, ___, ____: str(row["label"]["concurrency"]),
    "resolution": lambda _, row, __, ___, ____: f"{row['label']['side']}*{row['label']['side']}",
    "weight": lambda _, row, __, words, ____: words.say("missing") if row["weight"] is None else f"{row['weight'] * 100:.6g} %",
    "part": lambda name, row, _, words, __: state(row["parts"][name], words),
    "score": lambda _, row, __, words, ___: state(row, words),
}
