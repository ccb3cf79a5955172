"""Writes a report, or a comparison of several results, in the formats and languages asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kit.errors import KitError
from kit.files import make_folder, write_atomic
from kit.report import body, compare, docx, html, pdf
from kit.report.blocks import Page
from kit.report.source import Source, read, with_papers
from kit.report.words import LANGUAGES, load

FORMATS = ("html", "pdf", "docx")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to write, and what of the vendor's and the lab's own goes into it."""

    out: Path
    formats: tuple[str, ...] = FORMATS
    languages: tuple[str, ...] = LANGUAGES
    introduction: Path | None = None
    audit: Path | None = None
    template: Path | None = None


def write(results: list[Path], wanted: Wanted) -> list[Path]:
    """report*.html, .pdf, .docx of the first run; compare*.html where there are several; returns the paths."""
    if wanted.out.exists() and not wanted.out.is_dir():
        raise KitError("output folder is a file", where=str(wanted.out), next_step="name a folder with --out DIR")
    if wanted.template and not wanted.template.is_file():
        raise KitError("template does not exist", where=str(wanted.template), next_step="name a DOCX file")
    if wanted.template and "docx" not in wanted.formats:
        raise KitError("no DOCX is asked for, which a template is for", where=str(wanted.template), next_step="add --format docx")
    sources = [read(path) for path in results]
    first = next((index for index, source in enumerate(sources) if source.pack is None), None)
    if first is None:
        raise KitError("no run to report on", why="only baselines were named", next_step="name a RUN too, or: kit baseline diff A B")
    sources[first] = with_papers(sources[first], wanted.introduction, wanted.audit)
    made = list(_files(sources, sources[first], wanted))
    make_folder(wanted.out, "output folder", "name a folder with --out DIR")
    for path, data in made:
        write_atomic(path, data)
    return [path for path, _ in made]


def _files(sources: list[Source], reported: Source, wanted: Wanted) -> Iterator[tuple[Path, bytes]]:
    for language in wanted.languages:
        words = load(language)
        ending = "" if language == "en" else f"_{language}"
        page = body.page(reported, words)
        makers: dict[str, Callable[[Page], bytes]] = {
            "html": lambda page: html.render(page).encode(),
            "pdf": pdf.render,
            "docx": lambda page: docx.render(page, reported, wanted.template),
        }
        for name in wanted.formats:
            yield wanted.out / f"report{ending}.{name}", makers[name](page)
        if len(sources) > 1:
            yield wanted.out / f"compare{ending}.html", html.render(compare.page(sources, words)).encode()
