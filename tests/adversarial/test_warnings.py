"""What a reader must see although it refuses nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.adversarial import builder
from tests.adversarial.builder import PRETRAIN, Bench
from verify.replay import replay


def rules(run: Path) -> tuple[str, list[tuple[str, str]]]:
    outcome = replay(run, "self")
    return outcome.verdict, [(finding.rule, finding.severity) for finding in outcome.findings]


def test_a_run_kept_under_another_name(tmp_path: Path) -> None:
    run = builder.build(tmp_path)
    moved = run.rename(tmp_path / "renamed")
    assert rules(moved) == ("verified", [("run.name", "notice")])


def test_an_attempt_after_the_one_that_counts(tmp_path: Path) -> None:
    def again(bench: Bench) -> None:
        write = bench.write

        def changed() -> Any:
            log = write()
            log.append("case-start", case=PRETRAIN, attempt=2)
            log.append("case-end", case=PRETRAIN, attempt=2, state="failed", reason="x")
            log.checkpoint()
            return log

        bench.write = changed  # type: ignore[method-assign]

    assert rules(builder.build(tmp_path, again)) == ("verified", [("log.retry", "warning")])


def test_a_wall_clock_that_was_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    ticks = iter(range(10**18, 0, -(10**9)))
    monkeypatch.setattr(time, "time_ns", lambda: next(ticks))
    verdict, found = rules(builder.build(tmp_path))
    assert verdict == "verified"
    assert {rule for rule, _ in found} == {"log.wall"}
