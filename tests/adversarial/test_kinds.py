"""Every shipped vector through `python -m verify`: bad ones are refused by their rule and never answer 0, good ones answer 0.

Few are accepted by design: their `vector.toml` says why, and what verify says of them that it does not say of the good one.
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.adversarial import make_kinds, make_vectors, tables
from tests.adversarial.kinds import KINDS
from tests.adversarial.make_vectors import FOLDER, GOOD, NAME
from tests.adversarial.test_table import ROW_LIST, functions
from verify import cli

RUNS = sorted((FOLDER / "bad").iterdir())
OTHERS = sorted(path.parent for kind in KINDS for path in (FOLDER / kind).glob("bad/*/vector.toml"))
SCENES = [FOLDER / kind / GOOD for kind in KINDS]


def said(vector: Path) -> dict[str, Any]:
    return tomllib.loads((vector / "vector.toml").read_text(encoding="utf-8"))


ROWS = {said(vector)["row"] for vector in (*RUNS, *OTHERS)}


def command(vector: Path, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Where a vector's command is run, and what it is; a run is a scene with nothing else in it."""
    declared = said(vector)["verify"]
    if vector.parent == FOLDER / "bad":
        make_vectors.apply(vector, folder)
        return folder, {"argv": [NAME, "--policy", "self"], "exit": 1, "rule": declared["rule"]}
    return make_kinds.apply(vector, folder), declared


def answer(argv: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = cli.main([*argv, "--json", "-"])
    return code, "".join(capsys.readouterr())


@pytest.mark.parametrize("vector", [*SCENES, *OTHERS, *RUNS], ids=lambda path: path.relative_to(FOLDER).as_posix())
def test_verify_answers_as_declared(
    vector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scene, declared = command(vector, tmp_path)
    monkeypatch.chdir(scene)
    for argv in declared.get("before", []):
        assert answer(argv, capsys)[0] == 0
    code, text = answer(declared["argv"], capsys)
    assert code == declared["exit"], text
    assert (code == 0) == (vector.name == GOOD or bool(declared.get("accepted")))
    if code:
        assert re.search(rf'"rule": "{declared["rule"]}"|^verify: {declared["rule"]}[ :]', text, re.MULTILINE), text
    assert "Traceback" not in text


ACCEPTED = [vector for vector in OTHERS if "accepted" in said(vector)["verify"]]


@pytest.mark.parametrize("vector", ACCEPTED, ids=lambda path: path.relative_to(FOLDER).as_posix())
def test_what_is_accepted_by_design_is_said(
    vector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    results: list[dict[str, Any]] = []
    for number, one in enumerate((vector, vector.parent.parent / GOOD)):
        folder = tmp_path / str(number)
        folder.mkdir()
        scene, declared = command(one, folder)
        monkeypatch.chdir(scene)
        assert cli.main([*declared["argv"], "--json", "-"]) == 0
        results.append(json.loads(capsys.readouterr().out))
    rules, honest = ({finding["rule"] for finding in result["findings"]} for result in results)
    if rule := said(vector)["verify"]["rule"]:
        assert rule in rules - honest
    else:
        shorter, longer = (result["run"]["unwitnessed"]["entries"] for result in reversed(results))
        assert longer > shorter


def test_only_rows_that_no_rule_can_refuse_are_accepted() -> None:
    assert {said(vector)["row"] for vector in ACCEPTED} == {27, 35}


@pytest.mark.parametrize("vector", [*SCENES, *OTHERS], ids=lambda path: path.relative_to(FOLDER).as_posix())
def test_what_another_verifier_cannot_read_is_said(vector: Path) -> None:
    for name in ("shell", "node"):
        assert said(vector)[name]["result"] == "unread"
        assert said(vector)[name]["why"]


def test_every_vector_is_made_and_every_made_vector_is_kept() -> None:
    assert {path.relative_to(FOLDER).as_posix() for path in OTHERS} == {case.folder for case in make_kinds.CASES}
    assert len({case.folder for case in make_kinds.CASES}) == len(make_kinds.CASES)


def test_what_the_table_says_of_vectors_is_run() -> None:
    """Entries of the table that name the vectors' test are each a vector, which is run above and never answers 0."""
    run = {(said(vector)["row"], said(vector)["attack"].replace("_", " ")): said(vector)["verify"]["rule"] for vector in RUNS}
    named = {(held.row, held.name): held.rule for held in tables.read() if held.test.startswith("test_vectors.py::test_verify_refuses")}
    assert named
    assert named.items() <= run.items()


@pytest.mark.parametrize("row", ROW_LIST, ids=lambda row: f"{row['number']} {row['name']}")
def test_a_row_has_a_vector_or_says_why_it_has_no_file(row: dict[str, Any]) -> None:
    """A row that no file can show names why, and the test that shows it instead."""
    why = row.get("no_vector", "")
    assert (row["number"] in ROWS) != bool(why)
    if why and "pending" not in row:
        named = [str(test) for test in row.get("tests", [])] + [held.test for held in tables.read() if held.row == row["number"]]
        assert any(function in functions(module) for module, _, function in (test.partition("::") for test in named))
