"""A page as PDF by typst, from the same blocks as the HTML; Chinese needs a font of the system."""

from __future__ import annotations

import itertools
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kit.errors import ENVIRONMENT, KitError
from kit.report.blocks import Block, Figure, Heading, Items, Page, Picture, Table, Text
from kit.report.html import asset, visible

CHINESE_FONTS = ("Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Zen Hei")
LONG, PIECE, ZERO_WIDTH_SPACE = re.compile(r"\S{41,}"), re.compile(r".{1,16}"), "\u200b"
FLIPPED_COLUMNS, FLIPPED_ROWS = 12, 20  # a table this wide and long gets pages of its own, sideways
FIRST_CJK, LAST_CJK = "\u3400", "\u9fff"


def render(page: Page) -> bytes:
    """The PDF; KitError (3) where typst is missing, or a font for Chinese text is."""
    try:
        import typst
    except ImportError:
        raise KitError("typst is missing", next_step="use: nox -s report -- RUN", exit_code=ENVIRONMENT) from None
    data = _data(page)
    fonts = typst.Fonts(include_system_fonts=True, include_embedded_fonts=True)
    families = set(fonts.families())
    data["fonts"] = ["DejaVu Sans", "Libertinus Serif"] if not (found := [f for f in CHINESE_FONTS if f in families]) else found
    if not found and any(FIRST_CJK <= character <= LAST_CJK for character in json.dumps(data, ensure_ascii=False)):
        raise KitError(
            "no font with Chinese characters",
            why=f"none of {', '.join(CHINESE_FONTS)}",
            next_step="apt-get install fonts-noto-cjk",
            exit_code=ENVIRONMENT,
        )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "data.json").write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
        for block in page.blocks:
            if isinstance(block, Picture):
                (folder / f"{block.anchor}.png").write_bytes(block.png)
        (folder / "report.typ").write_text(asset("report.typ"), encoding="utf-8")
        try:
            return bytes(typst.compile(str(folder / "report.typ"), root=str(folder), font_paths=fonts))
        except typst.TypstError as fault:
            raise KitError("typst could not set the report", why=str(fault), next_step="use --format html", exit_code=1) from None


def _data(page: Page) -> dict[str, Any]:
    return {
        "language": page.language.partition("-")[0],
        "title": visible(page.title),
        "subtitle": page.subtitle,
        "blocks": list(_blocks(page)),
    }


def _blocks(page: Page) -> Iterator[dict[str, Any]]:
    """Every block; charts of half the width that follow each other together."""
    for half, group in itertools.groupby(page.blocks, key=lambda block: isinstance(block, Figure) and block.half):
        made = [block for entry in group for block in _block(entry)]
        if half:
            yield {"kind": "figures", "figures": made}
        else:
            yield from made


def _block(block: Block) -> list[dict[str, Any]]:
    match block:
        case Heading():
            return [{"kind": "heading", "level": block.level, "text": visible(block.text)}]
        case Text():
            return [{"kind": block.kind, "text": visible(block.text)}]
        case Items():
            return [{"kind": "items", "lines": [visible(line) for line in block.lines]}]
        case Figure():
            style = f"<style>{asset('print.css')}</style>"
            svg = visible(block.svg).replace("</svg>", "") + "</svg>"
            return [{"kind": "figure", "title": visible(block.title), "alt": visible(block.alt), "svg": svg.replace(">", ">" + style, 1)}]
        case Picture():
            return [{"kind": "picture", "title": visible(block.title), "alt": visible(block.alt), "file": f"{block.anchor}.png"}]
        case Table():
            return [_table(block)]


def breakable(text: str) -> str:
    """Places at which a word of more than 40 characters (a digest) or a name with underscores may break."""
    pieces = LONG.sub(lambda found: ZERO_WIDTH_SPACE.join(PIECE.findall(found.group())), text)
    return pieces.replace("_", f"_{ZERO_WIDTH_SPACE}")


def _table(table: Table) -> dict[str, Any]:
    columns = [{"name": column.name, "group": column.group, "number": column.number} for column in table.columns]
    return {
        "kind": "table",
        "flipped": len(table.columns) >= FLIPPED_COLUMNS and len(table.rows) >= FLIPPED_ROWS,
        "caption": visible(table.caption),
        "columns": columns,
        "rows": [[breakable(visible(cell)) for cell in row] for row in table.rows],
        "foot": list(table.foot) if table.foot else None,
        "notes": list(table.notes),
    }
