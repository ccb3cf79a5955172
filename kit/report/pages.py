"""Writes report.md and report_zh.md from a result.json; both hold the same rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tabulate import tabulate

from kit.errors import KitError
from kit.files import write_atomic
from kit.schema import check

WORDS: dict[str, dict[str, str]] = {
    "en": {
        "title": "Evaluation result",
        "run": "Run",
        "plan": "Plan",
        "chip": "Chip",
        "isolation": "Isolation",
        "verdict": "Verdict",
        "case": "case",
        "metric": "metric",
        "value": "value",
        "unit": "unit",
        "baseline": "baseline",
        "score": "score",
        "state": "state",
        "none": "no baseline",
        "cases": "Scores",
        "states": "Cases",
        "findings": "Findings",
        "rule": "rule",
        "severity": "severity",
        "where": "where",
        "expected": "expected",
        "found": "found",
        "nothing": "None.",
        "note": "Every number was recomputed from the recorded events by `verify`. "
        "A signature says who sealed the record, not that a number is true.",
    },
    "zh": {
        "title": "测试结果",
        "run": "运行编号",
        "plan": "测试计划",
        "chip": "芯片",
        "isolation": "隔离方式",
        "verdict": "复算结论",
        "case": "用例",
        "metric": "指标",
        "value": "数值",
        "unit": "单位",
        "baseline": "基准值",
        "score": "得分",
        "state": "状态",
        "none": "无基准",
        "cases": "得分明细",
        "states": "用例执行情况",
        "findings": "发现项",
        "rule": "规则",
        "severity": "级别",
        "where": "位置",
        "expected": "应为",
        "found": "实为",
        "nothing": "无。",
        "note": "表中全部数值均由 `verify` 根据原始事件记录复算得出。签名仅表明记录由何方封存、封存后未经改动,不代表数值本身属实。",
    },
}


def write(result: Path, out: Path) -> list[Path]:
    """Write both pages into `out`; returns their paths."""
    document = _read(result)
    out.mkdir(parents=True, exist_ok=True)
    pages = {out / "report.md": "en", out / "report_zh.md": "zh"}
    for path, language in pages.items():
        write_atomic(path, _page(document, WORDS[language]).encode())
    return list(pages)


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise KitError("result cannot be read", where=str(path), why=error.strerror or "", next_step="name a RUN.result.json") from error
    except ValueError as error:
        raise KitError("result is not JSON", where=str(path), next_step="make it again: python -m verify RUN --json FILE") from error
    check(document, "result", str(path))
    return dict(document)


def _page(document: dict[str, Any], words: dict[str, str]) -> str:
    run = document["run"]
    facts = [(words[key], run.get(key) or "-") for key in ("run", "plan", "chip", "isolation")]
    facts.append((words["verdict"], document["verdict"]))
    parts = [
        f"# {words['title']}",
        _table(facts, ()),
        words["note"],
        f"## {words['cases']}",
        _table(_score_rows(document, words), [words[k] for k in ("case", "metric", "value", "unit", "baseline", "score")]),
        f"## {words['states']}",
        _table([(case["id"], case["state"]) for case in document["cases"]], [words["case"], words["state"]]),
        f"## {words['findings']}",
        _findings(document, words),
    ]
    return "\n\n".join(parts) + "\n"


def _score_rows(document: dict[str, Any], words: dict[str, str]) -> list[tuple[Any, ...]]:
    return [
        (
            case["id"],
            name,
            f"{metric['value']:.6g}",
            metric["unit"],
            words["none"] if case["baseline"] is None else case["baseline"],
            "-" if case["score"] is None else case["score"],
        )
        for case in document["cases"]
        for name, metric in case["metrics"].items()
    ]


def _findings(document: dict[str, Any], words: dict[str, str]) -> str:
    rows = [(f["rule"], f["severity"], f["where"], f["expected"], f["found"]) for f in document["findings"]]
    return _table(rows, [words[k] for k in ("rule", "severity", "where", "expected", "found")]) if rows else words["nothing"]


def _table(rows: list[Any], headers: Any) -> str:
    safe = [[_escape(cell) for cell in row] for row in rows]
    return tabulate(safe, headers=headers or [""] * len(rows[0]), tablefmt="pipe", disable_numparse=True) if rows else "-"


def _escape(cell: Any) -> str:
    """Text from a run never becomes markup."""
    return str(cell).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("\n", " ")
