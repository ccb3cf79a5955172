"""What a report is made of, before it is HTML, PDF or DOCX: plain text in headings, paragraphs, tables, figures."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading; level 1 to 4."""

    level: int
    text: str
    anchor: str


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph; `kind` is plain, note, warning or code."""

    text: str
    kind: str = "plain"


@dataclass(frozen=True, slots=True)
class Items:
    """A list of short lines."""

    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Column:
    """A column; neighbours with the same `group` share a heading above theirs; numbers stand at the right."""

    name: str
    group: str = ""
    number: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text cells; `foot` is its total, `notes` stand below; a long one can be filtered."""

    anchor: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    foot: tuple[str, str] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart as SVG text with title, text alternative, and the values that it shows; two that are `half` stand side by side."""

    anchor: str
    title: str
    alt: str
    svg: str
    values: Table | None = None
    half: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """A small PNG picture that a case kept, with title and text alternative."""

    anchor: str
    title: str
    alt: str
    png: bytes


Block = Heading | Text | Items | Table | Figure | Picture


@dataclass(frozen=True, slots=True)
class Page:
    """A whole report in one language."""

    language: str
    title: str
    subtitle: str
    blocks: tuple[Block, ...]
    labels: dict[str, str] = field(default_factory=dict)
