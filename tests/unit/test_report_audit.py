"""The report's slot for the audit, filled from audits that the lab's own commands made and `verify audit` checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kit.cli import main
from kit.report import words
from tests.adversarial import audits
from tests.reported import Cells
from verify.cli import main as verify

PASSED = {"passed": {}, "failed": {"vendor": dict.fromkeys(audits.CASES, 0.5)}}  # the vendor's clock ran at half the pace in every case


@pytest.fixture(scope="module", params=PASSED)
def audited(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    """Name, the run, and what `verify audit` wrote about its audit."""
    folder = tmp_path_factory.mktemp(request.param)
    played = audits.play(folder, **PASSED[request.param])  # type: ignore[arg-type]
    found = folder / "audit.json"
    code = verify(["audit", str(played.run), str(played.audit), "--policy", str(played.office.policy), "--json", str(found)])
    assert code == (0 if request.param == "passed" else 1)
    return request.param, played.run, found


def reruns(document: dict[str, Any], language: str) -> list[list[str]]:
    """Rows that the table of the audit must have."""
    decision = words.load(language).entries["decision"]
    stages = words.load(language).entries["stage_name"]
    return [
        [stages[name], one["id"], one["metric"], one["vendor"], " ".join(one["lab"]) or "-", one["logRatio"], one["tolerance"], decision[one["verdict"]]]
        for name, stage in document["audit"]["stages"].items()
        for one in (stage["cases"] if stage else ())
    ]  # fmt: skip


def test_a_real_audit_fills_its_slot(audited: tuple[str, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, run, found = audited
    document = json.loads(found.read_text())
    assert document["audit"]["verdict"] == {"passed": "pass", "failed": "fail"}[name]
    assert main(["report", str(run), "--format", "html", "--audit", str(found), "--out", str(tmp_path)]) == 0
    capsys.readouterr()
    for language, file in (("en", "report.html"), ("zh", "report_zh.html")):
        text = (tmp_path / file).read_text(encoding="utf-8")
        expected = reruns(document, language)
        assert expected
        assert Cells(text).tables["table-audit"][1:] == expected
        assert words.load(language).name("decision", document["audit"]["verdict"]) in text
        assert all(case in text for case in document["audit"]["sample"])
        assert words.load(language).say("text.audit_none") not in text


def test_an_audit_of_another_run_is_not_taken(audited: tuple[str, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = audits.vendor_run(tmp_path, None)
    assert main(["report", str(other), "--format", "html", "--audit", str(audited[2]), "--out", str(tmp_path / "out")]) == 2
    assert "audit is of another run" in capsys.readouterr().err
