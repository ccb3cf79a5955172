"""The run log: what is written is what the tree covers, one writer at a time, and any cut of the file recovers."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kit.errors import KitError
from kit.record import RunLog, attempts, open_attempts
from verify.merkle import Frontier

KEY = Ed25519PrivateKey.generate()


def filled(run: Path) -> RunLog:
    run.mkdir()
    log = RunLog(run, KEY)
    log.append("open", run=run.name)
    log.append("case-start", case="a", attempt=1)
    log.append("case-end", case="a", attempt=1, state="done", reason=None)
    log.checkpoint()
    log.append("case-start", case="b", attempt=1)
    return log


def test_tree_covers_the_exact_lines(tmp_path: Path) -> None:
    log = filled(tmp_path / "run")
    tree = Frontier()
    for line in (tmp_path / "run/runlog/entries.jsonl").read_bytes().splitlines():
        tree.add(line)
    import base64

    assert base64.b64encode(tree.root()).decode() == log.root_base64()
    assert [entry["n"] for entry in log.entries] == [0, 1, 2, 3]


def test_second_writer_is_refused(tmp_path: Path) -> None:
    log = filled(tmp_path / "run")
    with pytest.raises(KitError, match="being written by another process"):
        RunLog(tmp_path / "run", KEY)
    log.close()
    RunLog(tmp_path / "run", KEY).close()


def test_attempts_and_open_ends(tmp_path: Path) -> None:
    log = filled(tmp_path / "run")
    assert attempts(log.entries)["a"] == [{"attempt": 1, "state": "done", "reason": None}]
    assert open_attempts(log.entries) == [("b", 1)]
