"""Pages come in pairs, links lead somewhere, and the README promises no session that does not exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from kit import __version__
from tests.conftest import ROOT

DOCS = sorted(path for path in (ROOT / "docs").rglob("*.md"))
TWINNED = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(path for path in DOCS if not path.stem.endswith("_zh"))]
CHINESE = [*ROOT.glob("*_zh.md"), *(path for path in DOCS if path.stem.endswith("_zh"))]
PAGES = [*sorted(ROOT.glob("*.md")), *DOCS]
FENCE = re.compile(r"^(```|~~~).*?^\1[^\n]*$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^(#{1,6}) ", re.MULTILINE)
CODE = re.compile(r"`[^`\n]+`|^ {4}.*$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
NAMED = re.compile(r"nox -s ((?:[a-z_]+(?: (?=[a-z_]))?)+)")


def short(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def twin(path: Path) -> Path:
    return path.with_name(f"{path.stem}_zh.md")


def levels(path: Path) -> list[int]:
    """Heading levels in order, code left out."""
    return [len(marks) for marks in HEADING.findall(FENCE.sub("", path.read_text(encoding="utf-8")))]


def links(path: Path) -> list[str]:
    """Targets inside this repository, without their fragments."""
    text = CODE.sub("", FENCE.sub("", path.read_text(encoding="utf-8")))
    return [target.partition("#")[0] for target in LINK.findall(text) if not re.match(r"#|[a-z]+:", target)]


def sessions_named(path: Path) -> set[str]:
    """Words that follow `nox -s` anywhere in a page."""
    return {word for found in NAMED.findall(path.read_text(encoding="utf-8")) for word in found.split()}


def sessions_declared() -> set[str]:
    """Functions under a nox.session decorator."""
    tree = ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8"))
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef))
    return {node.name for node in functions if any("nox.session" in ast.unparse(decorator) for decorator in node.decorator_list)}


@pytest.mark.parametrize("page", TWINNED, ids=short)
def test_page_has_a_chinese_twin_with_the_same_headings(page: Path) -> None:
    assert twin(page).is_file(), f"{short(twin(page))} is missing"
    assert levels(page) == levels(twin(page))


@pytest.mark.parametrize("page", CHINESE, ids=short)
def test_chinese_page_has_a_source(page: Path) -> None:
    source = page.with_name(page.name.replace("_zh.md", ".md"))
    assert source.is_file(), f"{short(source)} is missing"
    assert re.search("[\u4e00-\u9fff]", page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=short)
def test_links_lead_to_files(page: Path) -> None:
    assert [target for target in links(page) if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=short)
def test_pages_name_only_sessions_that_exist(page: Path) -> None:
    if (ROOT / "noxfile.py").is_file():
        assert sessions_named(page) <= sessions_declared()


def test_readme_names_its_two_commands() -> None:
    for page in (ROOT / "README.md", ROOT / "README_zh.md"):
        text = page.read_text(encoding="utf-8")
        assert "    python3 -m pip install nox && nox -s training inference\n    nox -s tests\n" in text
        assert {"training", "inference", "tests", "verify", "report", "doctor"} <= sessions_named(page)


def test_pages_hold_no_machine_path_and_no_address_but_the_predicates() -> None:
    allowed = re.compile(r"https://chipassay\.dev/attestation/\S*|`/opt/hyhal`")  # a vendor's driver folder
    for page in PAGES:
        text = allowed.sub("", page.read_text(encoding="utf-8"))
        assert re.findall(r"https?://\S+|(?<![\w.~])/(?:root|home|work|tmp|opt)/\S*", text) == [], short(page)


def test_citation_names_the_version() -> None:
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert __version__ in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_licence_is_apache() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text[:200]
    assert "END OF TERMS AND CONDITIONS" in text
