"""Reports: the same words in both languages, the same numbers in every format, nothing but text out of a run."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import subprocess
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import docx
import pytest

from kit import inventory
from kit.cli import main
from kit.report import body, charts, html, pdf, tables, words
from kit.report import docx as word
from kit.report.blocks import Figure, Heading, Table
from kit.report.markdown import blocks as markdown
from kit.report.source import Source, read
from tests import hostile, reported, synthetic
from tests.adversarial import builder
from tests.adversarial.slipped import LIBRARIES
from tests.reported import ENVIRONMENT, INTRODUCTION, NEEDS_FONT, Cells
from verify.data import violations
from verify.metrics import Series
from verify.scoring.attach import attach
from verify.scoring.baseline import load
from verify.table import render


@pytest.fixture(scope="module")
def source() -> Source:
    return reported.source()


def leaves(entries: dict[str, Any], name: str = "") -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for key, value in entries.items():
        if isinstance(value, dict):
            found |= leaves(value, f"{name}{key}.")
        else:
            found[f"{name}{key}"] = set(re.findall(r"\{(\w+)\}", value))
    return found


def test_both_languages_have_the_same_keys_and_slots() -> None:
    english, chinese = (leaves(words.load(language).entries) for language in words.LANGUAGES)
    assert english.keys() == chinese.keys()
    assert {key for key in english if english[key] != chinese[key]} == set()
    assert all(re.search("[\u4e00-\u9fff]", words.load("zh").say(f"heading.{key}")) for key in words.load("zh").entries["heading"])


def test_layout_names_only_what_profiles_have() -> None:
    document = synthetic.result().document()
    for found in document["scoring"]["tables"]:
        if found["reuse"]:
            continue
        known = set(found["rows"][0]["values"]) | {"perplexity"} | {condition["metric"] for condition in found["conditions"]}
        known |= {f"{part['metric']}_without_spikes" for part in found["parts"] if part["kind"] == "variance"}
        for column in tables.layout()[found["id"]]:
            kind, _, name = column.removesuffix("?").partition(".")
            if kind in {"base", "test", "actual", "spread", "distance", "basespread"}:
                assert name in known, column
            if kind == "label":
                assert name in found["rows"][0]["label"], column


NEWER = {"awaits", "conditions", "gates", "apart", "distance", "base_spread"}


def older(value: Any) -> Any:
    """A result as verify wrote it before these keys were there."""
    if isinstance(value, dict):
        return {key: older(item) for key, item in value.items() if key not in NEWER}
    return [older(item) for item in value] if isinstance(value, list) else value


def test_a_result_of_an_earlier_version_is_still_read(source: Source) -> None:
    document = older(source.result)
    assert violations(document, "result", "r", "r") == []
    old, new = (Cells(html.render(body.page(Source(one, {}), words.load("zh")))).tables for one in (document, source.result))
    assert old["table-communication"] == new["table-communication"]


@pytest.mark.parametrize("language", words.LANGUAGES)
def test_every_section_and_table_of_the_report_is_there_in_order(source: Source, language: str) -> None:
    page = body.page(source, words.load(language))
    headings = [block.text for block in page.blocks if isinstance(block, Heading)]
    assert headings == [words.load(language).say(f"heading.{key}") for key in words.load(language).entries["heading"]]
    anchors = [block.anchor for block in page.blocks if isinstance(block, Table)]
    assert len(set(anchors)) == len(anchors)
    sizes = {block.anchor: len(block.rows) for block in page.blocks if isinstance(block, Table)}
    expected = {"table-base_specs": 15, "table-communication": 10, "table-text_generation": 84, "table-text_generation_tiers-256": 8,
                "table-text_generation_tiers-512": 8, "table-text_to_image-stable-diffusion-1-5": 6, "table-summary": 8}  # fmt: skip
    assert {name: sizes[name] for name in expected} == expected


def shown_numbers(document: dict[str, Any]) -> dict[str, list[list[str]]]:
    """Every test value and score of result.json, as a report must show it: table -> rows of texts."""
    found: dict[str, list[list[str]]] = {}
    for table in document["scoring"]["tables"]:
        for row in table["rows"]:
            wanted = [f"{row['score']:.6g}"] if row["state"] == "scored" else []
            for column in tables.layout()[table["id"]]:
                kind, _, metric = column.removesuffix("?").partition(".")
                value = row["values"].get(metric, {}).get(kind) if kind in {"test", "base", "actual"} else None
                wanted += [str(value) if isinstance(value, int) else f"{value:.6g}"] if value is not None else []
            part = f"-{tables.slug(str(row['label'][table['split']]))}" if table["split"] else ""
            found.setdefault(f"table-{table['id']}{part}", []).append(wanted)
    return found


@pytest.mark.parametrize("language", words.LANGUAGES)
def test_html_holds_every_number_of_the_result_cell_by_cell(source: Source, language: str) -> None:
    cells = Cells(html.render(body.page(source, words.load(language)))).tables
    checked = 0
    for name, rows in shown_numbers(source.result).items():
        there = [row for row in cells[name] if len(row) == max(map(len, cells[name]))][-len(rows) :]
        for wanted, row in zip(rows, there, strict=True):
            assert [text for text in wanted if text not in row] == [], (name, row)
            checked += len(wanted)
    assert checked > 800


def test_docx_holds_the_same_cells(source: Source) -> None:
    page = body.page(source, words.load("zh"))
    document = docx.Document(io.BytesIO(word.render(page, source)))
    ours = [block for block in page.blocks if isinstance(block, Table)] + [
        block.values for block in page.blocks if isinstance(block, Figure) and block.values
    ]
    assert len(document.tables) == len(ours)
    there = {tuple(cell.text for cell in row.cells) for table in document.tables for row in table.rows}
    assert [row for table in ours for row in table.rows if row not in there] == []


def test_docx_fills_the_template_of_a_lab(source: Source, tmp_path: Path) -> None:
    template = docx.Document()
    template.add_paragraph("Lab No. 7: {{ run.chip }} {{ verdict }}")
    template.add_paragraph("{{p tables.communication }}")
    template.save(str(tmp_path / "lab.docx"))
    page = body.page(source, words.load("en"))
    document = docx.Document(io.BytesIO(word.render(page, source, tmp_path / "lab.docx")))
    assert "Lab No. 7: synthetic verified" in [paragraph.text for paragraph in document.paragraphs]
    assert [len(table.rows) for table in document.tables] == [12]


@NEEDS_FONT
@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="no pdftotext (poppler-utils) on this machine")
@pytest.mark.parametrize("language", words.LANGUAGES)
def test_pdf_holds_the_numbers_and_the_headings(source: Source, language: str, tmp_path: Path) -> None:
    page = body.page(source, words.load(language))
    (tmp_path / "r.pdf").write_bytes(pdf.render(page))
    done = subprocess.run(["pdftotext", "-layout", str(tmp_path / "r.pdf"), "-"], capture_output=True, text=True, check=True)
    found = set(done.stdout.split())
    wanted = {text for rows in shown_numbers(source.result).values() for row in rows for text in row}
    assert wanted - found == set()
    flat = "".join(done.stdout.split())
    assert [block.text for block in page.blocks if isinstance(block, Heading) and "".join(block.text.split()) not in flat] == []


@NEEDS_FONT
def test_hostile_names_are_text(tmp_path: Path) -> None:
    source = Source(hostile.document(), {}, hostile.MARKUP)
    clean = Cells(html.render(body.page(Source(synthetic.result().document(), {}), words.load("en"))))
    for language in words.LANGUAGES:
        text = html.render(body.page(source, words.load(language)))
        tags = Cells(text).tags
        assert tags.count("script") == clean.tags.count("script") == 1
        assert tags.count("img") == 0
        assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069]", text)
        assert "[U+202E]" in text
    page = body.page(source, words.load("en"))
    assert pdf.render(page).startswith(b"%PDF")
    made = docx.Document(io.BytesIO(word.render(page, source)))
    assert any(hostile.MARKUP in cell.text for table in made.tables for row in table.rows for cell in row.cells)
    assert any(hostile.TEMPLATE in cell.text for table in made.tables for row in table.rows for cell in row.cells)


def test_policy_allows_only_the_page_itself(source: Source) -> None:
    text = html.render(body.page(source, words.load("en")))
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)
    assert policy
    assert "default-src 'none'" in policy[1]
    assert "unsafe" not in policy[1]
    assert not re.search(r"\sstyle=|\son\w+=|https?://(?!www\.w3\.org/2000/svg)", text)


def test_size_of_a_full_report(source: Source) -> None:
    assert len(html.render(body.page(source, words.load("zh"))).encode()) < 1_000_000


def test_a_part_whose_cases_fill_no_row_does_not_blame_the_baseline() -> None:
    """The baseline has all ten rows of communication; the only case is of another size."""
    result = synthetic.result()
    result.cases = [
        replace(case, fields=case.fields | {"elements": 1024}) for case in result.cases if case.id == "communication-all_reduce-8"
    ]
    attach(result)
    document = json.loads(json.dumps(result.document()))
    for language in words.LANGUAGES:
        spoken = words.load(language)
        row = body.summary(Source(document, {}), spoken).rows[1]
        assert f"{spoken.say('part_name.communication')} {spoken.say('outside')}" in row[2]
    assert re.search(r"communication +outside the grid +10 of 10", render(document))


def test_loss_stands_against_the_curve_of_the_baseline() -> None:
    made = synthetic.result()
    curve = load("a100-report-0.2.1").curve("stability", "internlm-65b-32", "loss")
    index = next(index for index, case in enumerate(made.cases) if case.id == "stability-internlm-65b-32")
    made.cases[index] = replace(made.cases[index], series={"loss": Series(tuple(value + 1 for value in curve), "nat/token")})
    attach(made)
    document = json.loads(json.dumps(made.document()))
    assert violations(document, "result", "r", "r") == []
    page = body.page(Source(document, {}), words.load("en"))
    figure = next(block for block in page.blocks if isinstance(block, Figure) and block.anchor == "figure-curve-internlm-65b-32")
    assert figure.values
    assert len(figure.values.rows) == 100
    assert {row[3] for row in figure.values.rows} == {"1"}
    assert figure.svg.count("<polyline") == figure.svg.count('<line class="line') == 3


@pytest.mark.parametrize("language", words.LANGUAGES)
def test_every_chart_has_its_values_and_a_text(source: Source, language: str) -> None:
    figures = {block.anchor: block for block in body.page(source, words.load(language)).blocks if isinstance(block, Figure)}
    assert {"figure-overview", "figure-communication", "figure-latency", "figure-checkpoint"} <= figures.keys()
    for figure in figures.values():
        assert figure.alt
        assert figure.values
        assert figure.values.rows
        assert {len(row) for row in figure.values.rows} == {len(figure.values.columns)}
    shown = [row["values"]["throughput_gbps"] for row in source.table("communication")["rows"]]  # type: ignore[index]
    values = figures["figure-communication"].values
    assert values
    assert [row[1:3] for row in values.rows] == [(f"{value['base']:.6g}", f"{value['test']:.6g}") for value in shown]
    assert all(value in html.render(body.page(source, words.load(language))) for row in values.rows for value in row[1:])


AUDIT: dict[str, Any] = {
    "schemaVersion": 1, "verdict": "verified", "run": synthetic.RUN, "statements": {}, "findings": [],
    "audit": {
        "verdict": "pass", "sample": ["communication-pt2pt-8"], "chosen": [], "runs": [{}], "reasons": ["each within its tolerance"],
        "stages": {"sample": {"mean": {}, "cases": [
            {"id": "communication-pt2pt-8", "metric": "throughput_gbps", "vendor": "98.05", "lab": ["97.9"], "logRatio": "0.0015",
             "tolerance": "0.02", "verdict": "pass"}]}, "full": None},
    },
}  # fmt: skip


def test_audit_fills_its_slot(source: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    audited = replace(source, audit=AUDIT)
    cells = Cells(html.render(body.page(audited, words.load("zh")))).tables["table-audit"]
    assert cells[1] == ["抽样复测", "communication-pt2pt-8", "throughput_gbps", "98.05", "97.9", "0.0015", "0.02", "通过"]
    result, audit = tmp_path / "r.json", tmp_path / "a.json"
    result.write_text(json.dumps(source.result))
    audit.write_text(json.dumps(AUDIT | {"run": "another"}))
    assert main(["report", str(result), "--format", "html", "--audit", str(audit), "--out", str(tmp_path / "o")]) == 2
    assert "audit is of another run" in capsys.readouterr().err
    audit.write_text(json.dumps(AUDIT))
    assert main(["report", str(result), "--format", "html", "--audit", str(audit), "--out", str(tmp_path / "o")]) == 0


def test_markdown_of_the_vendor_is_text() -> None:
    found = list(markdown(INTRODUCTION))
    assert [getattr(block, "text", None) or block.lines for block in found] == [
        "Chip", "A fast chip with 64 cores.", ("one", "two"), "<b>bold</b>",
    ]  # fmt: skip


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 3.7), (0.2, 0.21), (5, 5), (1e-9, 1e9)])
def test_ticks_lie_inside(low: float, high: float) -> None:
    assert all(low <= tick <= high * (1 + 1e-9) for tick in charts.nice(low, high))


BAD = {
    "missing": (["nothing.json"], "or directory; name a run folder, a RUN.result.json or a baseline"),
    "not json": (["{text}"], "result is not JSON"),
    "not a result": (["{other}"], "key"),
    "template": (["{result}", "--template", "nothing.docx"], "template does not exist"),
    "template of nothing": (["{result}", "--format", "html", "--template", "{result}"], "no DOCX is asked for"),
    "broken template": (["{result}", "--format", "docx", "--template", "{text}"], "template cannot be filled"),
    "introduction": (["{result}", "--intro", "nothing.md"], "introduction cannot be read"),
    "audit": (["{result}", "--audit", "nothing.json"], "No such file or directory; make it: python -m verify audit RUN AUDIT --json FILE"),
    "unknown option": (["{result}", "--tmplate", "x"], "--tmplate x; did you mean '--template'?; see python -m kit report --help"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").write_text("not json")
    (tmp_path / "other").write_text("{}")
    (tmp_path / "result").write_text(json.dumps(synthetic.result().document()))
    args, said = BAD[name]
    places = {key: tmp_path / key for key in ("text", "other", "result")}
    assert main(["report", *(arg.format(**places) for arg in args), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1


def test_words_files_are_toml_without_surprises() -> None:
    for language in words.LANGUAGES:
        tomllib.loads((words.FOLDER / f"{language}.toml").read_text(encoding="utf-8"))


def test_what_the_machine_held_fills_the_hardware_and_software_tables(source: Source) -> None:
    tables = {block.anchor: block for block in body.page(source, words.load("en")).blocks if isinstance(block, Table)}
    hardware = {row[1]: row[2] for row in tables["table-hardware"].rows}
    assert hardware["Chip"].endswith("2 x Z100")
    assert (hardware["GCC"], hardware["Driver"], hardware["PyTorch"]) == ("gcc 12.2.0", "2 x 5.1", "2.11.0")
    software = {row[1]: row[2] for row in tables["table-software"].rows}
    assert (software["InternLM"], software["torch"]) == ("0.2.0", "2.11.0")
    assert software["Other than the lock"] == "torch 2.13.0 -> 2.11.0; peft 0.21.2 -> missing"
    assert software["LLaMa"] == "not recorded"


def test_mapped_libraries_stand_by_their_packages_and_fill_the_software_table(source: Source) -> None:
    odd = {"path": "/opt/odd/libodd.so", "size_bytes": 5_000_000, "sha256": None, "package": None, "recorded": None}
    mapped = replace(source, environment=ENVIRONMENT | {"packages": None}, libraries=(*LIBRARIES, odd))
    found = {block.anchor: block for block in body.page(mapped, words.load("en")).blocks if isinstance(block, Table)}
    rows = found["table-libraries"].rows
    assert [row[:4] for row in rows] == [
        ("/opt/odd", "-", "1", "5.0"),
        ("Debian packages", "-", "1", "1.9"),
        ("torch", "2.13.0", "1", "0.0"),
        ("/tmp/torchinductor_worker", "-", "1", "0.0"),
    ]
    line = f"{'8' * 64}  {LIBRARIES[1]['path']}\n"
    assert [row[4] for row in rows][::2] == ["-", hashlib.sha256(line.encode()).hexdigest()[:16]]
    assert ("torch", "2.13.0") in {row[1:] for row in found["table-software"].rows}
    assert "2.13.0" in {row[2] for row in found["table-hardware"].rows}
    assert "table-libraries" not in {block.anchor for block in body.page(source, words.load("en")).blocks if isinstance(block, Table)}


def test_libraries_are_read_beside_a_result(tmp_path: Path) -> None:
    found = read(builder.build(tmp_path)).libraries
    assert [library["path"] for library in found] == ["/usr/lib/libc.so.6", "~/made/lib/python3.11/site-packages/torch/lib/libtorch.so"]


def test_the_software_table_names_the_code_bases_that_suites_follow(source: Source) -> None:
    environment = ENVIRONMENT | {"references": inventory.references()}
    page = body.page(replace(source, environment=environment), words.load("zh"))
    [table] = [block for block in page.blocks if isinstance(block, Table) and block.anchor == "table-software"]
    rows = {row[1]: row[2] for row in table.rows}
    assert rows["Bert-Pytorch"] == "codertimo/BERT-pytorch @ d10dc4f9d5a6f2ca74380f62039526eb7277c671"
    assert rows["InternLM"] == "0.2.0"  # installed
    assert table.notes == (words.load("zh").say("software.followed"),)


def test_variants_stand_by_themselves_beside_the_same_work(source: Source) -> None:
    document = json.loads(json.dumps(source.result))
    rates = {name: {"value": value, "unit": "tokens/(s*card)", "formula": "F2"} for name, value in (("float8", 150), ("bfloat16", 100))}
    fields = {"suite": "pretrain", "cards": 8, "model": {"id": "llama-7b"}, "global_batch": 64}
    like = next(case for case in document["cases"] if case["suite"] == "pretrain")
    for name in ("bfloat16", "float8"):
        metrics = {"tgs": rates[name], "mfu": {"value": 0.25, "unit": "1", "formula": ""}}
        document["cases"].append(
            like | {"id": name, "row": None, "fields": fields | {"id": name, "dtype": name, "micro_batch": len(name)}, "metrics": metrics}
        )
    document["cases"].append(like | {"id": "broken", "state": "failed", "row": None, "fields": fields | {"dtype": "float8"}, "metrics": {}})
    assert "table-variants" not in Cells(html.render(body.page(source, words.load("en")))).tables
    document["scoring"]["variants"] = ["float8", "broken"]
    assert list(violations(document, "result", "schema", "result.json")) == []
    for language in words.LANGUAGES:
        found = Cells(html.render(body.page(replace(source, result=document), words.load(language)))).tables["table-variants"]
        assert found[1] == ["float8", "llama-7b", "8", "float8", "150", "-", "100 (bfloat16)", "-", "0.25"]
        assert found[2][:4] == ["broken", "llama-7b", "8", "float8"]
        assert found[2][4].startswith("0 (")
