"""The house rules of design.md section 2: who may import whom, and no vendor named in code."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

from tests.conftest import ROOT

FORBIDDEN = {
    "kit",
    "torch",
    "requests",
    "urllib",
    "http",
    "socket",
    "subprocess",
    "docker",
    "asyncio",
    "ssl",
    "httpx",
    "ctypes",
}
ALLOWED_THIRD_PARTY = {"cryptography", "jsonschema", "referencing", "msgspec", "tabulate", "zstandard"}
OF_VENDORS = ("nvidia", "cuda", "rocm", "kunlun", "habana", "huawei", "nccl", "moore threads", "gaudi")
CHIPS = [path.parent.name for path in (ROOT / "images").glob("*/chip.toml") if path.parent.name != "cpu"]
TOOLS = [tomllib.loads((ROOT / f"images/{name}/chip.toml").read_text(encoding="utf-8")).get("detection", {}).get("tool") for name in CHIPS]
VENDORS = re.compile(rf"\b({'|'.join(re.escape(word) for word in {*OF_VENDORS, *CHIPS, *filter(None, TOOLS)})})\b")


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", sources("verify"), ids=str)
def test_verify_stands_alone(path: Path) -> None:
    import sys

    names = imported(path)
    assert not names & FORBIDDEN
    assert names <= ALLOWED_THIRD_PARTY | {"verify"} | set(sys.stdlib_module_names)


@pytest.mark.parametrize("path", sources("kit/worker"), ids=str)
def test_worker_needs_only_the_image(path: Path) -> None:
    import sys

    assert imported(path) <= {"torch", "deepspeed", "diffusers", "lmdeploy", "numpy", "peft", "safetensors", "transformers"} | set(
        sys.stdlib_module_names
    )


@pytest.mark.parametrize("path", sources("kit") + sources("verify"), ids=str)
def test_no_vendor_is_named(path: Path) -> None:
    text = re.sub(r"</?thead>", "", path.read_text(encoding="utf-8").lower())  # the head of an HTML table is nobody's chip
    assert VENDORS.findall(text) == []


def test_vendor_rule_would_catch_a_breach() -> None:
    assert VENDORS.findall("if torch.cuda.is_available() or name == 'ascend': run('npu-smi')") == ["cuda", "ascend", "npu-smi"]


def test_import_rule_would_catch_a_breach(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("def f():\n    from kit.run import execute\n    import torch.nn\n")
    assert imported(bad) & FORBIDDEN == {"kit", "torch"}


@pytest.mark.parametrize("path", [*sources("kit"), *sources("verify"), ROOT / "noxfile.py"], ids=str)
def test_sizes(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= (150 if path.name == "noxfile.py" else 400)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno + 1 <= 80, node.name
