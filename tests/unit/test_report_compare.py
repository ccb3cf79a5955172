"""The comparison page: runs and baselines side by side, and what is not comparable."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from kit.cli import main
from kit.report import body, compare, html, words
from kit.report.source import Source
from tests import reported, synthetic
from tests.adversarial import builder
from tests.reported import NEEDS_FONT, Cells
from verify.metrics import Metric
from verify.scoring.attach import attach
from verify.scoring.baseline import load


@pytest.fixture(scope="module")
def source() -> Source:
    return reported.source()


def test_compare_marks_what_is_not_comparable(source: Source) -> None:
    other = json.loads(json.dumps(source.result))
    other["run"] |= {"run": "other", "chip": "other chip"}
    other["cases"][20]["fields"]["model"] = {"hidden_size": 1}
    del other["cases"][30]
    text = html.render(compare.page([source, Source(other, {})], words.load("en")))
    cells = Cells(text).tables
    name = source.result["cases"][20]["id"]
    assert all("not comparable" in row[-1] for row in cells["table-metrics"] if row[0] == name)
    assert all(row[-1] == "only in one" for row in cells["table-metrics"] if row[0] == source.result["cases"][30]["id"])
    assert ["chip", "synthetic", "other chip"] in cells["table-differs"]
    assert len([row for row in cells["table-rows"] if row[0].endswith("communication")]) == 10


@pytest.mark.parametrize(("gbps", "marked"), [(205, False), (400, True)])
def test_rows_of_runs_at_another_fabric_are_marked(gbps: int, marked: bool) -> None:
    """Ruling 25, between two runs: 200 Gb/s between nodes against 205, and against 400."""
    made = []
    for name, value in (("one", 200), ("other", gbps)):
        result = synthetic.result(name=name)
        result.cases = [
            replace(
                case,
                fields=case.fields | {"nodes": 4},
                metrics=case.metrics | {"internode_gbps": Metric(Fraction(value), "Gb/s", "")},
            )
            if case.id == "communication-all_reduce-32"
            else case
            for case in result.cases
        ]
        attach(result)
        made.append(Source(json.loads(json.dumps(result.document())), {}))
    cells = Cells(html.render(compare.page(made, words.load("en")))).tables["table-values"]
    rows = [row for row in cells if row[:2] == ["3.2.2(2) communication", "all_reduce 32 4259924984"]]
    assert {row[2] for row in rows} >= {"throughput_gbps", "internode_gbps"}
    assert {("not comparable" in row[-1]) for row in rows} == {marked}
    assert not any("not comparable" in row[-1] for row in cells if row[1].startswith("all_reduce 8"))


def test_a_baseline_stands_as_a_column(source: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = next(case for case in source.result["cases"] if case["metrics"])
    name, metric = case["id"], next(iter(case["metrics"]))
    cell = {
        "case": name,
        "workload": "0" * 64,
        "metric": metric,
        "value": "7.5",
        "unit": case["metrics"][metric]["unit"],
        "status": "measured",
        "source": "x",
        "suite": case["fields"]["suite"],
    }
    pack = {
        "schemaVersion": 1,
        "name": "ours",
        "title": {"en": "o", "zh": "o"},
        "source": "x",
        "chip": {"id": "c", "description": ""},
        "runs": [],
    }
    (tmp_path / "pack.json").write_text(json.dumps(pack | {"cells": [cell]}))
    (tmp_path / "r.json").write_text(json.dumps(source.result))
    args = [
        "report",
        "a100-report-0.2.1",
        str(tmp_path / "r.json"),
        str(tmp_path / "pack.json"),
        "--format",
        "html",
        "--out",
        str(tmp_path / "o"),
    ]
    assert main(args) == 0
    for language, mark, none in (("", "not comparable", "no baseline"), ("_zh", "不可比较", "无基准")):
        cells = Cells((tmp_path / f"o/compare{language}.html").read_text()).tables
        assert cells["table-values"][0][4:7] == ["1. a100-report-0.2.1", f"2. {synthetic.RUN}", "3. ours"]
        printed = load("a100-report-0.2.1").row("communication", source.table("communication")["rows"][0]["id"], "throughput_gbps")  # type: ignore[index]
        assert printed
        assert printed.value
        row = next(row for row in cells["table-values"] if row[0].endswith(" communication") and row[2] == "throughput_gbps")
        assert row[4] == f"{float(printed.value):.6g}"
        assert row[6] == none
        marked = next(row for row in cells["table-metrics"] if row[:2] == [name, metric])
        assert marked[5] == "7.5"
        assert mark in marked[-1]
    capsys.readouterr()
    assert main(["report", "a100-report-0.2.1", "--out", str(tmp_path / "o")]) == 2
    assert "no run to report on" in capsys.readouterr().err


def test_other_readings_and_baselines_stand_beside(tmp_path: Path) -> None:
    found = Source(json.loads(json.dumps(synthetic.result(against=["report-0.2.1-printed"]).document())), {})
    cells = Cells(html.render(body.page(found, words.load("zh")))).tables["table-against"]
    totals = [
        {table["id"]: table["total"]["score"] for table in side["tables"]} for side in (found.result["scoring"], *found.result["against"])
    ]
    assert ["communication", *(f"{total['communication']:.6g}" for total in totals)] in cells
    assert totals[0]["communication"] != totals[1]["communication"]
    scores = Cells(html.render(compare.page([found], words.load("en")))).tables["table-scores"]
    assert scores[0][2:] == [
        f"{n}. {synthetic.RUN} ({name} / a100-report-0.2.1)" for n, name in ((1, "report-0.2.1"), (2, "report-0.2.1-printed"))
    ]


@NEEDS_FONT
def test_command_writes_six_files_and_a_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = builder.build(tmp_path)
    result = tmp_path / "r.json"
    result.write_text(json.dumps(synthetic.result().document()))
    assert main(["report", str(run), str(result), "--out", str(tmp_path / "out")]) == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [
        "compare.html",
        "compare_zh.html",
        "report.docx",
        "report.html",
        "report.pdf",
        "report_zh.docx",
        "report_zh.html",
        "report_zh.pdf",
    ]
    assert run.name in (tmp_path / "out/report.html").read_text()
    capsys.readouterr()
