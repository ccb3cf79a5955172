"""Shared by all tests: nothing of the user's own configuration or cache is ever touched by the fast ones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Versions of trust policies seen so far are each test's own."""
    folder = tmp_path_factory.mktemp("state")
    monkeypatch.setenv("CHIPASSAY_STATE", str(folder))
    return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration and a cache folder of the test's own."""
    monkeypatch.setenv("CHIPASSAY_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("CHIPASSAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CHIPASSAY_INVOCATION", raising=False)
    return tmp_path


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite golden files from what is printed now")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """In CI nothing may be skipped: a skip there means a part that the machine should have had."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    if os.environ.get("CHIPASSAY_ALL_MUST_RUN") and skipped and exitstatus == 0:
        reporter.write_line(f"{len(skipped)} tests were skipped that must run here")
        session.exitstatus = 1
