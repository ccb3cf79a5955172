"""The attack table names only rules and tests that exist."""

from __future__ import annotations

import ast
import tomllib
from functools import cache
from pathlib import Path

import pytest

from tests.adversarial import tables
from tests.adversarial.test_rules import rules_in_source
from tests.conftest import ROOT

ROWS = range(44)  # attestation table of the design: 1 to 43, 0 where it has no row
ENTRIES = tables.read()


@cache
def functions(module: str) -> set[str]:
    path = next(path for path in (ROOT / "tests").rglob("*.py") if path.name == module)
    return {node.name for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("held", ENTRIES, ids=lambda held: f"{held.file} {held.row} {held.name}")
def test_an_entry_names_a_rule_and_a_test(held: tables.Held) -> None:
    module, _, function = held.test.partition("::")
    assert held.row in ROWS
    assert not held.rule or held.rule in rules_in_source()
    assert function in functions(module)


def test_no_attack_is_named_twice() -> None:
    names = [(held.row, held.name) for held in ENTRIES]
    assert len(set(names)) == len(names)


ROW_LIST = tomllib.loads((Path(__file__).parent / "rows.toml").read_text(encoding="utf-8"))["row"]


def test_every_row_is_listed_once() -> None:
    assert [row["number"] for row in ROW_LIST] == list(ROWS)[1:]


@pytest.mark.parametrize("row", ROW_LIST, ids=lambda row: f"{row['number']} {row['name']}")
def test_a_row_is_held_or_says_what_is_missing(row: dict[str, object]) -> None:
    named = [str(test) for test in row.get("tests", [])]  # type: ignore[attr-defined]
    for module, _, function in (test.partition("::") for test in named):
        assert function in functions(module)
    held = named + [held.test for held in ENTRIES if held.row == row["number"]]
    assert held or "pending" in row or "residual" in row
