"""The run that the benchmark of replay is measured on is one that verify takes, of about the size that was asked for."""

from __future__ import annotations

from pathlib import Path

from bench import synthetic
from verify.replay import replay


def test_a_synthetic_run_is_verified(tmp_path: Path) -> None:
    made = synthetic.build(tmp_path, 2_000_000, ranks=2, share=0.5)
    outcome = replay(made.run, "self")
    assert outcome.verdict == "verified"
    assert {finding.rule for finding in outcome.findings} <= {"plausible.clock", "text_generation.unproven"}  # its events claim hours, its log took no time; nobody judged its tokens
    assert [result.state for result in outcome.cases] == ["done", "done"]
    assert 1_000_000 < made.size_bytes < 3_000_000
    assert made.events == sum(path.read_bytes().count(b"\n") for path in made.run.glob("evidence/cases/*/*/events-*"))
