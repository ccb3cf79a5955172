"""A run that changes while it is checked: what is scored must be what is hashed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.adversarial import builder
from verify import score, tree
from verify.replay import replay


def test_a_file_that_grows_while_it_is_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = builder.build(tmp_path)
    target = run / "evidence/environment.json"
    real = tree.hashlib.sha256

    def growing(*given: bytes) -> object:
        with target.open("ab") as file:
            file.write(b" ")
        return real(*given)

    monkeypatch.setattr(tree, "hashlib", SimpleNamespace(sha256=growing))
    outcome = replay(run, "self")
    assert outcome.verdict == "refused"
    assert "tree.changed" in {finding.rule for finding in outcome.findings}


def test_a_file_swapped_between_hashing_and_scoring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = builder.build(tmp_path)
    path = run / f"evidence/cases/{builder.PRETRAIN}/attempt-1/events-00000.jsonl"
    real = score.evaluate

    def swapped(evidence: object) -> object:
        path.write_bytes(path.read_bytes().replace(b'"grad_norm":1.5', b'"grad_norm":1.25'))
        return real(evidence)  # type: ignore[arg-type]

    monkeypatch.setattr("verify.replay.evaluate", swapped)
    outcome = replay(run, "self")
    assert [finding.rule for finding in outcome.findings] == ["tree.read"]
