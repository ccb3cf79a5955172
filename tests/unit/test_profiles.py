"""Profiles and baselines as data: names, cells, and what a broken one says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from verify import profile
from verify.findings import Unchecked
from verify.result import Result
from verify.scoring import baseline
from verify.scoring.attach import attach

OURS = profile.load(profile.DEFAULT)


def test_names_of_profiles_and_baselines_do_not_meet() -> None:
    assert not set(profile.names()) & set(baseline.names())
    assert profile.names() == ["lab-2025", "report-0.2.1", "report-0.2.1-printed"]


def test_unknown_names_say_what_is_known() -> None:
    with pytest.raises(Unchecked, match="known: lab-2025"):
        attach(Result(), against=["nonsense"])
    with pytest.raises(Unchecked, match="unknown baseline"):
        baseline.load("../profiles")


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"schemaVersion": 1}', "\x00"], ids=["empty", "object", "list", "version", "nul"])
def test_a_broken_baseline_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "b.json").write_text(text)
    with pytest.raises(Unchecked, match="baseline cannot be used"):
        baseline.read(tmp_path / "b.json")


def test_a_baseline_with_twins_is_not_used(tmp_path: Path) -> None:
    document = json.loads((profile.root() / "baselines/a100-report-0.2.1/baseline.json").read_text())
    document["cells"].append(document["cells"][0])
    (tmp_path / "b.json").write_text(json.dumps(document))
    with pytest.raises(Unchecked, match="two cells of one name"):
        baseline.read(tmp_path / "b.json")


def test_a_profile_is_read_and_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    genuine = profile._document
    monkeypatch.setattr(profile, "_document", lambda name: (read.append(name), genuine(name))[1])
    profile.load.cache_clear()
    assert profile.load("lab-2025") is profile.load("lab-2025")
    assert sorted(read) == ["lab-2025", "report-0.2.1"]
