"""A page as DOCX by docxtpl: the lab's own template where it has one, else a plain one made here.

A template may use {{p report }} (everything), {{p tables.NAME }} (one table by its anchor without `table-`), and the
facts {{ run.run }}, {{ run.chip }}, {{ verdict }}, {{ title }}.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from kit.errors import ENVIRONMENT, KitError
from kit.report.blocks import Block, Figure, Heading, Items, Page, Picture, Table, Text
from kit.report.html import visible
from kit.report.source import Source

EAST_ASIAN_FONT = "Noto Sans CJK SC"
WIDE = 8  # columns from which a table is set small


def render(page: Page, source: Source, template: Path | None = None) -> bytes:
    """The DOCX; KitError (3) where docxtpl is missing, (2) where the template cannot be used."""
    try:
        import docx
        from docxtpl import DocxTemplate
    except ImportError:
        raise KitError("docxtpl is missing", next_step="use: nox -s report -- RUN", exit_code=ENVIRONMENT) from None
    try:
        made = DocxTemplate(str(template) if template else _plain(docx, page))
        wanted = page.blocks if template else ()
        tables = {
            block.anchor.removeprefix("table-").replace("-", "_"): _part(made, [block]) for block in wanted if isinstance(block, Table)
        }
        facts = {name: visible(str(value)) for name, value in source.result["run"].items()}
        made.render(
            {
                "report": _part(made, list(page.blocks)),
                "tables": tables,
                "run": facts,
                "verdict": source.result["verdict"],
                "title": visible(page.title),
            },
            autoescape=True,
        )
    except KitError:
        raise
    except Exception as fault:
        where = str(template) if template else ""
        raise KitError(
            "template cannot be filled", where=where, why=str(fault)[:200], next_step="see kit/report/docx.py for the names"
        ) from fault
    stream = io.BytesIO()
    made.save(stream)
    return stream.getvalue()


def _plain(docx: Any, page: Page) -> io.BytesIO:
    """The template that is used where the lab brings none: A4, one placeholder."""
    document = docx.Document()
    section = document.sections[0]
    section.page_width, section.page_height = docx.shared.Mm(210), docx.shared.Mm(297)
    section.left_margin = section.right_margin = docx.shared.Mm(16)
    for name in ("Normal", "Heading 1", "Heading 2", "Heading 3", "Heading 4", "Title"):
        fonts = document.styles[name].element.get_or_add_rPr().get_or_add_rFonts()
        fonts.set(docx.oxml.ns.qn("w:eastAsia"), EAST_ASIAN_FONT)
    document.styles["Normal"].font.size = docx.shared.Pt(10)
    document.core_properties.title = visible(page.title)
    document.add_paragraph("{{ title }}", style="Title")
    document.add_paragraph("{{p report }}")
    stream = io.BytesIO()
    document.save(stream)
    stream.seek(0)
    return stream


def _part(made: Any, blocks: list[Block]) -> Any:
    part = made.new_subdoc()
    for block in blocks:
        _add(part, block)
    return part


def _add(part: Any, block: Block) -> None:
    match block:
        case Heading():
            part.add_heading(visible(block.text), level=min(block.level, 4))
        case Text():
            part.add_paragraph(visible(block.text))
        case Items():
            for line in block.lines:
                part.add_paragraph(visible(line), style="List Bullet")
        case Figure():
            part.add_paragraph(visible(f"{block.title}: {block.alt}"))
            if block.values:
                _table(part, block.values)
        case Picture():
            part.add_paragraph().add_run().add_picture(io.BytesIO(block.png))
            part.add_paragraph(visible(f"{block.title}: {block.alt}"))
        case Table():
            _table(part, block)


def _table(part: Any, block: Table) -> None:
    from docx.shared import Pt

    part.add_paragraph(visible(block.caption)).runs[0].bold = True
    size = Pt(6.5 if len(block.columns) >= WIDE else 8.5)
    rows = [tuple(f"{column.group} {column.name}".strip() for column in block.columns), *block.rows]
    if block.foot:
        rows.append((block.foot[0], *[""] * (len(block.columns) - 2), block.foot[1]))
    table = part.add_table(rows=len(rows), cols=len(block.columns), style="Table Grid")
    cells = iter(table._cells)  # one walk over the table: python-docx finds each cell anew otherwise
    for number, row in enumerate(rows):
        for text in row:
            paragraph = next(cells).paragraphs[0]
            run = paragraph.add_run(visible(text))
            run.font.size = size
            run.bold = number == 0
    for note in block.notes:
        part.add_paragraph(visible(note))
