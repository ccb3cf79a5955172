"""Pictures of a run in its report: small, decoded and written anew, in every format; what is no picture is said and not shown."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import docx
import pytest

from kit.report import body, html, pdf, pictures, words
from kit.report import docx as word
from kit.report.blocks import Picture, Text
from kit.report.source import Source
from tests import synthetic

CASES = {"cases": [{"id": "a", "state": "done", "facts": {"weights": "random"}}, {"id": "b", "state": "failed", "facts": {}}]}


def rows(width: int, height: int) -> bytes:
    return b"".join(b"\0" + bytes((x % 251, y % 251, 7)[channel] for x in range(width) for channel in range(3)) for y in range(height))


def run(folder: Path, data: bytes, count: int = 1) -> Path:
    """A run folder whose case a kept pictures in its second attempt."""
    for case, number in (("a", 1), ("a", 2), ("b", 1)):
        kept = folder / f"evidence/cases/{case}/attempt-{number}/artifacts"
        kept.mkdir(parents=True)
        for picture in range(count):
            (kept / f"picture-{picture}.png").write_bytes(data if (case, number) == ("a", 2) else b"another attempt")
    return folder


def shown(data: bytes) -> tuple[int, int, bytes]:
    """Width, height and rows of a PNG."""
    assert data.startswith(pictures.SIGNATURE)
    at = data.index(b"IDAT")
    length = int.from_bytes(data[at - 4 : at], "big")
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big"), zlib.decompress(data[at + 4 : at + 4 + length])


def test_a_small_picture_comes_out_as_it_was(tmp_path: Path) -> None:
    [kept] = pictures.read(run(tmp_path, pictures.png(64, 32, rows(64, 32))), CASES)
    assert (kept.case, kept.file, kept.weights, kept.width, kept.height, kept.step) == ("a", "artifacts/picture-0.png", "random", 64, 32, 1)
    assert shown(kept.png) == (64, 32, rows(64, 32))


def test_a_large_one_is_every_nth_pixel(tmp_path: Path) -> None:
    [kept] = pictures.read(run(tmp_path, pictures.png(520, 260, rows(520, 260))), CASES)
    width, height, found = shown(kept.png)
    assert (width, height, kept.step) == (174, 87, 3)
    assert found[3 * width + 1 :][:7] == bytes((0, 0, 3, 7, 3, 3, 7))


def test_a_case_shows_its_first_four(tmp_path: Path) -> None:
    found = pictures.read(run(tmp_path, pictures.png(8, 8, rows(8, 8)), 12), CASES)
    assert [kept.file for kept in found] == [f"artifacts/picture-{number}.png" for number in range(4)]


GOOD = pictures.png(8, 8, rows(8, 8))
HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "text": b"<svg onload=alert(1)>" * 9,
    "cut": GOOD[:50],
    "other depth": GOOD[:24] + b"\x10" + GOOD[25:],
    "enormous": GOOD[:16] + b"\x7f\xff\xff\xff" * 2 + GOOD[24:],
    "too few rows": pictures.png(8, 9, rows(8, 8)),
    "filtered": pictures.png(8, 8, b"\1" + rows(8, 8)[1:]),
    "palette before the data": GOOD[:33] + b"\0\0\0\3PLTE123abcd" + GOOD[33:],
    "not deflated": GOOD.replace(b"IDAT\x78", b"IDAT\x79"),
    "unpacks to far more than it says": pictures.png(8, 8, rows(8, 8) + bytes(10**8)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_picture_is_said_and_not_shown(name: str, tmp_path: Path) -> None:
    found = pictures.read(run(tmp_path, HOSTILE[name]), CASES)
    [block] = pictures.blocks(found, words.load("en"))
    assert block == Text("a: artifacts/picture-0.png is not a picture as the suite writes them; it is not shown.", "warning")


@pytest.fixture
def source(tmp_path: Path) -> Source:
    result: dict[str, Any] = json.loads(json.dumps(synthetic.result(full_baseline=True).document()))
    return replace(Source(result, {}), pictures=pictures.read(run(tmp_path / "run", GOOD), CASES))


@pytest.mark.parametrize(("language", "said"), [("en", "shown 1:1; random weights."), ("zh", "按 1:1 显示；随机权重。")])
def test_html_holds_the_picture_and_what_it_is(source: Source, language: str, said: str) -> None:
    page = html.render(body.page(source, words.load(language)))
    [data] = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="[^"]+">', page)
    assert shown(base64.b64decode(data)) == (8, 8, rows(8, 8))
    assert said in page


def test_docx_holds_the_picture(source: Source) -> None:
    document = docx.Document(io.BytesIO(word.render(body.page(source, words.load("en")), source)))
    assert len(document.inline_shapes) == 1
    assert any("shown 1:1; random weights." in paragraph.text for paragraph in document.paragraphs)


@pytest.mark.skipif(shutil.which("pdfimages") is None, reason="no pdfimages (poppler-utils) on this machine")
def test_pdf_holds_the_picture(source: Source, tmp_path: Path) -> None:
    [block] = [block for block in body.page(source, words.load("en")).blocks if isinstance(block, Picture)]
    page = replace(body.page(source, words.load("en")), blocks=(block,))
    (tmp_path / "r.pdf").write_bytes(pdf.render(page))
    done = subprocess.run(["pdfimages", "-list", str(tmp_path / "r.pdf")], capture_output=True, text=True, check=True)
    assert [line.split()[3:5] for line in done.stdout.splitlines()[2:]] == [["8", "8"]]


def test_a_result_without_its_run_shows_none() -> None:
    assert Source({}, {}).pictures == ()
