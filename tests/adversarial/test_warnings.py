"""What a reader must see although it refuses nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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


def test_a_wall_clock_that_was_set_back(tmp_path: Path) -> None:
    """The writer says so itself: a clock-step entry, shown as a notice; time that goes back is a warning (attack 30)."""

    def set_back(bench: Bench) -> None:
        wall = iter(range(builder.WALL_NS, 0, -builder.NS_PER_S))
        clock = bench.clock
        bench.clock = lambda: (next(wall), clock()[1])  # type: ignore[assignment]
        bench.clock.since_boot_ns = 0  # type: ignore[misc]

    verdict, found = rules(builder.build(tmp_path, set_back))
    assert verdict == "verified"
    assert {rule for rule, _ in found} >= {"log.wall", "log.clock_set"}
    assert {severity for _, severity in found} == {"warning", "notice"}


def test_a_case_without_a_sign_of_life(tmp_path: Path) -> None:
    """Three heartbeats missed: a paused machine, or a log stitched together."""

    def paused(bench: Bench) -> None:
        bench.after_beat = lambda _: setattr(bench.clock, "since_boot_ns", bench.clock.since_boot_ns + 181 * builder.NS_PER_S)

    verdict, found = rules(builder.build(tmp_path, paused))
    assert (verdict, set(found)) == ("verified", {("log.gap", "warning")})
