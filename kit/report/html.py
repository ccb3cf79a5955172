"""A page as one HTML file: opens from disk, works without script, allows nothing but its own style and script by their hashes."""

from __future__ import annotations

import base64
import hashlib
import itertools
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from kit.report.blocks import Block, Column, Figure, Heading, Items, Page, Picture, Table, Text

ASSETS = Path(__file__).parent / "assets"
ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"})
SHORT = 24  # characters up to which a cell is kept on one line
FILTER_FROM = 16  # rows from which a filter is worth its place


def safe(text: str) -> str:
    """Text from a run as text: no markup, control and direction-changing characters shown by number, long words breakable."""
    return visible(text).translate(ESCAPES)


def visible(text: str) -> str:
    """Every character that is not printable as U+XXXX, newlines and spaces kept."""
    return "".join(c if c.isprintable() or c in "\n " else f"[U+{ord(c):04X}]" for c in text)


@cache
def asset(name: str) -> str:
    """A file of the page's own."""
    return (ASSETS / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


def render(page: Page) -> str:
    """The whole file."""
    style, script = asset("report.css"), asset("report.js")
    policy = f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; img-src data:; base-uri 'none'; form-action 'none'"
    body = "\n".join(_blocks(page))
    return f"""<!doctype html>
<html lang="{safe(page.language)}">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{safe(page.title)}</title>
<style>{style}</style>
</head>
<body>
<a class="skip" href="#report">{safe(page.labels["skip"])}</a>
<header><h1>{safe(page.title)}</h1><p>{safe(page.subtitle)}</p></header>
<nav aria-label="{safe(page.labels["contents"])}">{_contents(page)}</nav>
<main id="report" tabindex="-1">
{body}
</main>
<script>{script}</script>
</body>
</html>
"""


def _contents(page: Page) -> str:
    links = [block for block in page.blocks if isinstance(block, Heading) and block.level <= 3]
    items = "".join(f'<li class="level{link.level}"><a href="#{safe(link.anchor)}">{safe(link.text)}</a></li>' for link in links)
    return f"<details><summary>{safe(page.labels['contents'])}</summary><ol>{items}</ol></details>"


def _blocks(page: Page) -> Iterator[str]:
    """Every block; charts of half the width that follow each other in one grid."""
    for half, group in itertools.groupby(page.blocks, key=lambda block: isinstance(block, Figure) and block.half):
        made = [_block(block, page.labels) for block in group]
        yield '<div class="pair">' + "".join(made) + "</div>" if half else "\n".join(made)


def _block(block: Block, labels: dict[str, str]) -> str:
    match block:
        case Heading():
            tag = f"h{block.level + 1}"
            return f'<{tag} id="{safe(block.anchor)}">{safe(block.text)}</{tag}>'
        case Text():
            return (
                f"<pre>{safe(block.text)}</pre>" if block.kind == "code" else f'<p class="{block.kind}" dir="auto">{safe(block.text)}</p>'
            )
        case Items():
            return "<ul>" + "".join(f'<li dir="auto">{safe(line)}</li>' for line in block.lines) + "</ul>"
        case Figure():
            return _figure(block, labels)
        case Picture():
            data = base64.b64encode(block.png).decode()
            caption = f"<figcaption><strong>{safe(block.title)}</strong> {safe(block.alt)}</figcaption>"
            return f'<figure id="{safe(block.anchor)}"><img src="data:image/png;base64,{data}" alt="{safe(block.alt)}">{caption}</figure>'
        case Table():
            return _table(block, labels)


def _figure(figure: Figure, labels: dict[str, str]) -> str:
    values = f"<details><summary>{safe(labels['values'])}</summary>{_table(figure.values, labels)}</details>" if figure.values else ""
    caption = f"<figcaption><strong>{safe(figure.title)}</strong> {safe(figure.alt)}</figcaption>"
    return f'<figure id="{safe(figure.anchor)}"><div class="chart">{figure.svg}</div>{caption}{values}</figure>'


def _table(table: Table, labels: dict[str, str]) -> str:
    rows = "\n".join(_row(row, table.columns) for row in table.rows)
    foot = ""
    if table.foot:
        name, value = (safe(text) for text in table.foot)
        head = f'<th scope="row" colspan="{len(table.columns) - 2}">{name}</th>'
        foot = f'<tfoot><tr>{head}<td class="n" colspan="2">{value}</td></tr></tfoot>'
    notes = "".join(f'<p class="tablenote">{safe(note)}</p>' for note in table.notes)
    wants = f' data-filter="{safe(labels["filter"])}"' if len(table.rows) >= FILTER_FROM else ""
    caption = safe(table.caption)
    return (
        f'<div class="table"{wants} data-sort="{safe(labels["sort"])}">'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{caption}">'
        f'<table id="{safe(table.anchor)}"><caption>{caption}</caption>'
        f"<thead>{_head(table.columns)}</thead><tbody>\n{rows}\n</tbody>{foot}</table></div>{notes}</div>"
    )


def _head(columns: tuple[Column, ...]) -> str:
    if not any(column.group for column in columns):
        return "<tr>" + "".join(f'<th scope="col"{_class(column)}>{safe(column.name)}</th>' for column in columns) + "</tr>"
    top, bottom = [], []
    for group, members in itertools.groupby(columns, key=lambda column: column.group):
        listed = list(members)
        if group:
            top.append(f'<th scope="colgroup" class="group" colspan="{len(listed)}">{safe(group)}</th>')
            bottom += [f'<th scope="col"{_class(column)}>{safe(column.name)}</th>' for column in listed]
        else:
            top += [f'<th scope="col" rowspan="2"{_class(column)}>{safe(column.name)}</th>' for column in listed]
    return f"<tr>{''.join(top)}</tr><tr>{''.join(bottom)}</tr>"


def _class(column: Column) -> str:
    return ' class="n"' if column.number else ""


def _row(row: tuple[str, ...], columns: tuple[Column, ...]) -> str:
    cells = []
    for text, column in zip(row, columns, strict=True):
        kinds = [kind for kind, holds in (("n", column.number), ("s", len(text) <= SHORT), ("na", text == "NA")) if holds]
        cells.append(
            f'<td{_classes(kinds)} dir="auto">{safe(text)}</td>' if not column.number else f"<td{_classes(kinds)}>{safe(text)}</td>"
        )
    return f"<tr>{''.join(cells)}</tr>"


def _classes(kinds: list[str]) -> str:
    return f' class="{" ".join(kinds)}"' if kinds else ""
