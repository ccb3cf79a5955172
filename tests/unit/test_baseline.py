"""`kit baseline`: packs made from sealed runs, shown and compared; what must not become a baseline."""

from __future__ import annotations

import json
import re
from fractions import Fraction
from pathlib import Path

import pytest

from kit.cli import main
from tests.adversarial import builder
from tests.conftest import ROOT
from verify.cli import main as verify
from verify.data import violations
from verify.findings import Unchecked
from verify.metrics import Metric
from verify.result import Result
from verify.score import CaseResult
from verify.scoring import baseline, make


def runs(folder: Path) -> list[Path]:
    """Two sealed runs; in the second, every step takes twice as long."""

    def slower(bench: builder.Bench) -> None:
        bench.run = bench.run.with_name(bench.run.name.replace("abcdef", "abcde0"))
        bench.evidence = bench.run / "evidence"
        for events in bench.events[builder.PRETRAIN].values():
            first = events[0]["t"]
            for event in events:
                event.update({name: first + 2 * (event[name] - first) for name in ("t", "begin_ns") if name in event})

    return [builder.build(folder / "a"), builder.build(folder / "b", slower)]


def test_a_pack_of_two_runs_and_a_run_against_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = runs(tmp_path)
    assert main(["baseline", "make", str(first), str(second), "--name", "two", "--out", str(tmp_path)]) == 0
    path = tmp_path / "two/baseline.json"
    document = json.loads(path.read_text())
    assert violations(document, "baseline", "b", "b") == []
    cell = next(cell for cell in document["cells"] if cell.get("case") == builder.PRETRAIN and cell["metric"] == "tgs")
    # 64 tokens a step on 2 cards in 2 ms: 16000; in 4 ms: 8000; mean 12000, sample deviation 8000 / sqrt(2)
    assert (cell["value"], cell["spread"]) == ("12000", {"runs": 2, "min": "8000", "max": "16000", "stdev": "5656.85425"})
    assert [run["run"] for run in document["runs"]] == [first.name, second.name]
    result = tmp_path / "r.json"
    assert verify([str(first), "--policy", "self", "--baseline", str(path), "--against", "a100-report-0.2.1", "--json", str(result)]) == 0
    scored = json.loads(result.read_text())
    assert scored["cases"][0]["score"] == pytest.approx(16 / 12)
    assert (scored["scoring"]["baseline"]["name"], scored["against"][0]["baseline"]["name"]) == ("two", "a100-report-0.2.1")
    capsys.readouterr()


def test_a_metric_may_be_negative_and_a_row_may_not(tmp_path: Path) -> None:
    """Distances of pictures are; a pack that is made must be one that is read."""
    main(["baseline", "make", str(builder.build(tmp_path)), "--name", "one", "--out", str(tmp_path)])
    path = tmp_path / "one/baseline.json"
    document = json.loads(path.read_text())
    place = {"case": "pictures", "workload": "0" * 64, "suite": "text_to_image", "metric": "colour_distance"}
    document["cells"] += [make._cell(place, [(Fraction(-1, 8), "1"), (Fraction(-3, 8), "1")])]
    path.write_text(json.dumps(document))
    found = baseline.read(path).case("0" * 64, "colour_distance")
    assert found is not None
    assert (found.value, found.spread["min"], found.spread["max"]) == (Fraction(-1, 4), "-0.375", "-0.125")
    del document["cells"][-1]["case"], document["cells"][-1]["workload"], document["cells"][-1]["suite"]
    document["cells"][-1] |= {"table": "pictures", "row": "one"}
    assert violations(document, "baseline", "b", "b") != []


def test_a_negative_baseline_gives_no_score(tmp_path: Path) -> None:
    run = builder.build(tmp_path)
    main(["baseline", "make", str(run), "--name", "one", "--out", str(tmp_path)])
    path, result = tmp_path / "one/baseline.json", tmp_path / "r.json"
    document = json.loads(path.read_text())
    for cell in document["cells"]:
        cell["value"] = f"-{cell['value']}" if cell["value"] != "0" and "case" in cell else cell["value"]
    path.write_text(json.dumps(document))
    assert verify([str(run), "--policy", "self", "--baseline", str(path), "--json", str(result)]) == 0
    assert [case["score"] for case in json.loads(result.read_text())["cases"]] == [None, None]


def test_a_run_against_itself_gives_one(tmp_path: Path) -> None:
    run = builder.build(tmp_path)
    main(["baseline", "make", str(run), "--name", "one", "--out", str(tmp_path)])
    verify([str(run), "--policy", "self", "--baseline", str(tmp_path / "one/baseline.json"), "--json", str(tmp_path / "r.json")])
    assert [case["score"] for case in json.loads((tmp_path / "r.json").read_text())["cases"]] == [1, 1]


NAMES = {"id", "time_limit_s", "nodes", "processes"}  # what a case is called and how long it may take; its cards count


def chosen() -> set[str]:
    """Fields that the page on training leaves to the vendor."""
    page = (ROOT / "docs/design/training.md").read_text(encoding="utf-8")
    return set(re.findall(r"`(\w+)`", page.split("## What the vendor chooses\n")[1].split("The\nglobal batch")[0]))


def test_what_a_vendor_may_choose_is_no_part_of_the_work() -> None:
    assert {"zero_stage", "offload", "attention"} <= chosen()
    assert chosen() == baseline.LAYOUT - NAMES


@pytest.mark.parametrize("suite", ["pretrain", "finetuning", "checkpoint", "stability"])
def test_cases_of_one_work_are_compared_and_others_are_not(suite: str) -> None:
    """Each field of a training's case in turn: the vendor's choice keeps the work, anything else makes another."""
    fields = json.loads((ROOT / f"manifests/schemas/cases/{suite}.schema.json").read_text())["properties"]
    case = dict.fromkeys(fields, 1)
    same = {name for name in fields if baseline.workload(case | {name: 2}) == baseline.workload(case)}
    assert same == (chosen() | NAMES) & set(fields)


def test_show_and_diff(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["baseline", "show", "a100-report-0.2.1"]) == 0
    assert "45 of 412 cells have a value" in capsys.readouterr().out
    for run, name in zip(runs(tmp_path), ("x", "y"), strict=True):
        main(["baseline", "make", str(run), "--name", name, "--out", str(tmp_path)])
    packs = [str(tmp_path / name / "baseline.json") for name in ("x", "y")]
    capsys.readouterr()
    assert main(["baseline", "diff", *packs]) == 1
    assert "0.5" in capsys.readouterr().out
    assert main(["baseline", "diff", packs[0], packs[0]]) == 0


BAD = {
    "broken run": (["make", "{broken}", "--name", "n"], 1, "run is refused"),
    "no run": (["make", "{nowhere}", "--name", "n"], 2, "not a run directory"),
    "twice": (["make", "{run}", "{run}", "--name", "n"], 2, "a run is named twice"),
    "bad name": (["make", "{run}", "--name", "../n"], 2, "name of a baseline is not allowed"),
    "unknown pack": (["show", "nonsense"], 2, "unknown baseline 'nonsense'"),
    "missing file": (["diff", "nonsense.json", "a100-report-0.2.1"], 2, "baseline cannot be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_a_baseline_is_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args, code, said = BAD[name]
    places = {"run": builder.build(tmp_path / "a"), "broken": builder.build(tmp_path / "b"), "nowhere": tmp_path / "c"}
    (places["broken"] / "evidence/plan.json").write_bytes(b"{}\n")
    assert main(["baseline", *(arg.format(**places) for arg in args), *(["--out", str(tmp_path)] if args[0] == "make" else [])]) == code
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1


def test_the_same_work_in_two_layouts_makes_no_pack() -> None:
    """Its cells would have one name, and `--baseline` could not read the pack."""
    fields = {"suite": "pretrain", "cards": 2, "global_batch": 16}
    metrics = {"tgs": Metric(Fraction(10), "tokens/(s*card)", "F2")}
    cases = [
        CaseResult(name, "pretrain", "done", None, None, metrics, fields=fields | {"id": name, "compile": name == "b"})
        for name in ("a", "b")
    ]
    with pytest.raises(Unchecked, match="the same work in two cases: a, b"):
        make.pack([Result(run={"chip": "cpu"}, cases=cases)], "n", [{"run": "r"}])
    assert make.pack([Result(run={"chip": "cpu"}, cases=cases[:1])], "n", [{"run": "r"}])["cells"]


def test_deviation_of_one_value_is_zero() -> None:
    assert make.deviation([Fraction(3)]) == 0


def test_reading_back_what_was_written(tmp_path: Path) -> None:
    main(["baseline", "make", str(builder.build(tmp_path)), "--name", "again", "--out", str(tmp_path)])
    pack = baseline.read(tmp_path / "again/baseline.json")
    assert {cell.status for cell in pack.cells.values()} == {"measured"}
