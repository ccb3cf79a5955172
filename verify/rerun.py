"""From a run, a challenge and the lab's own runs to what an audit must say. The lab signs it; anybody computes it again.

The lab's runs are due one after another: first the sample (and the cases of its choice), then what it did not reproduce,
`reruns` more times; where a test still fails, every case that the vendor has done, in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from verify import decision, sample
from verify.decision import Measured, Stage
from verify.sample import Member, Stratum
from verify.tolerance import Table

SAMPLE, FULL = "sample", "full"
Values = dict[tuple[str, str], str]


@dataclass(frozen=True, slots=True)
class LabRun:
    """One sealed run of the lab: which one it is, its digests, which cases it tried, the values of those it has done."""

    name: str
    purpose: str
    repeat: int
    sha256: str
    sums_sha256: str
    host: str
    tried: frozenset[str]
    values: Values

    def document(self) -> dict[str, Any]:
        """As a lab-audit statement lists it."""
        return {"name": self.name, "purpose": self.purpose, "repeat": self.repeat, "run": {"sha256": self.sha256}, "host": self.host}


@dataclass(frozen=True, slots=True)
class Due:
    """The run that the lab must make next."""

    purpose: str
    repeat: int
    cases: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that an audit hangs on; `done` are the vendor's cases that are done, `claims` its values."""

    secret: bytes
    run_sha256: str
    challenge_sha256: str
    strata: tuple[Stratum, ...]
    table: Table
    done: tuple[Member, ...]
    claims: Values
    chosen: tuple[str, ...]
    runs: tuple[LabRun, ...] = ()

    @property
    def seed(self) -> bytes:
        """Seed of the sample, 32 bytes."""
        return sample.seed(self.secret, self.run_sha256, self.challenge_sha256)

    @property
    def drawn(self) -> list[str]:
        """The sample, drawn among the cases that the vendor says are done."""
        return sample.draw(self.seed, self.strata, self.done)

    def of(self, purpose: str) -> list[LabRun]:
        """The lab's runs of one purpose, in order."""
        return [run for run in self.runs if run.purpose == purpose]


def stage(facts: Facts, purpose: str) -> Stage | None:
    """Both tests over what the lab's runs of one purpose have shown so far; None where there is none."""
    runs = facts.of(purpose)
    if not runs:
        return None
    ids = [*facts.drawn, *facts.chosen] if purpose == SAMPLE else [member.id for member in facts.done]
    suites = {member.id: member.suite for member in facts.done}
    measured = [one for name in ids for one in _measured(facts, name, suites[name], runs)]
    return decision.stage(measured, facts.chosen if purpose == SAMPLE else (), facts.table)


def _measured(facts: Facts, case: str, suite: str, runs: Sequence[LabRun]) -> list[Measured]:
    """The audited metrics of a case that the vendor claims."""
    found = []
    for row in facts.table.rows_of(case, suite):
        key = (case, row.metric)
        if key in facts.claims:
            found.append(Measured(case, row, facts.claims[key], tuple(run.values[key] for run in runs if key in run.values)))
    return found


def due(facts: Facts) -> Due | None:
    """The next run of the lab, or None where the audit is over or cannot go on."""
    for purpose, cases in ((SAMPLE, (*facts.drawn, *facts.chosen)), (FULL, tuple(member.id for member in facts.done))):
        now = stage(facts, purpose)
        if now is None:
            return Due(purpose, 0, tuple(cases))
        if pending := now.of("pending"):
            return Due(purpose, len(facts.of(purpose)), tuple(pending))
        if now.of("missing") or decision.verdict(now, None)[0] == "pass":
            return None
    return None


def out_of_turn(facts: Facts) -> list[tuple[LabRun, Due | None]]:
    """Runs of the lab that were not due when they were made, or did not try just the cases that were, and what was due."""
    found = []
    for index, run in enumerate(facts.runs):
        wanted = due(_until(facts, index))
        if wanted is None or (run.purpose, run.repeat, run.tried) != (wanted.purpose, wanted.repeat, frozenset(wanted.cases)):
            found.append((run, wanted))
    return found


def _until(facts: Facts, index: int) -> Facts:
    return Facts(
        facts.secret, facts.run_sha256, facts.challenge_sha256, facts.strata, facts.table, facts.done, facts.claims, facts.chosen,
        facts.runs[:index],
    )  # fmt: skip


def document(facts: Facts) -> dict[str, Any]:
    """The part of a lab-audit statement that follows from the facts."""
    first, full = stage(facts, SAMPLE) or Stage(), stage(facts, FULL)
    verdict, reasons = decision.verdict(first, full)
    return {
        "r": facts.secret.hex(),
        "seed": facts.seed.hex(),
        "sample": facts.drawn,
        "chosen": list(facts.chosen),
        "runs": [run.document() for run in facts.runs],
        "stages": {SAMPLE: first.document(), FULL: None if full is None else full.document()},
        "verdict": verdict,
        "reasons": reasons,
    }
