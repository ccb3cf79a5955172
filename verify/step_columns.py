"""A block of one rank's training steps as columns; what a single step says is checked here."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import cast

from verify import scaling, teams
from verify.events import Event
from verify.findings import Finding, Refused, error
from verify.metrics import Case
from verify.step_events import Step

SHOWN = 20  # findings on single steps, of a block and of a rank: the first ones say it all


def rule(case: Case, name: str) -> str:
    """A rule's name in the case's suite."""
    return f"{case['suite']}.{name}"


@dataclass(slots=True)
class Part:
    """A block of one rank: its steps from number `first` as columns, and its other events as they were.

    `stretches` has (step, tokens, real tokens) wherever either changes, `measured_ns` when measuring began, if it did here.
    """

    others: list[Event]
    first: int = 0
    begin_ns: int = 0
    ended_ns: int = 0
    measured_ns: int | None = None
    duration_ns: array[int] = field(default_factory=lambda: array("q"))
    loss: array[float] = field(default_factory=lambda: array("d"))
    loss_dp_mean: array[float] = field(default_factory=lambda: array("d"))
    begins_ns: array[int] = field(default_factory=lambda: array("q"))
    norm: array[float] = field(default_factory=lambda: array("d"))
    stretches: list[tuple[int, int, int]] = field(default_factory=list)
    scales: list[scaling.Change] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def condense(case: Case, rank: int, events: list[Event]) -> Part:
    """The block's steps as columns; single steps are checked here."""
    others = [event for event in events if type(event) is not Step]
    part, steps = Part(others), cast("list[Step]", events)
    if others:
        steps = [event for event in events if type(event) is Step]
    if steps:
        _columns(case, part, steps, f"{case['id']}: rank {rank}")
    return part


def _columns(case: Case, part: Part, steps: list[Step], where: str) -> None:
    part.first, part.begin_ns, part.ended_ns = steps[0].step, steps[0].begin_ns, steps[-1].t
    number, ended_ns, tokens, real_tokens, phase = part.first, 0, -1, -1, ""
    scale, skipped = steps[0].loss_scale, True  # the first of a block is always told
    durations: list[int] = []
    for step in steps:
        begin_ns, t = step.begin_ns, step.t
        if step.tokens != tokens or step.real_tokens != real_tokens or step.phase != phase:
            tokens, real_tokens, phase = step.tokens, step.real_tokens, step.phase
            part.stretches.append((number, tokens, real_tokens))
            note(part.findings, _check_stretch(case, step, where))
        if skipped or step.skipped or step.loss_scale != scale:
            scale, skipped = step.loss_scale, step.skipped
            part.scales.append((number, scale, skipped))
        if step.step != number or not ended_ns <= begin_ns < t or step.loss < 0:
            note(part.findings, _check_step(case, step, number, ended_ns, where))
        durations.append(t - begin_ns)
        number, ended_ns = number + 1, t
    if part.first <= case["warmup_steps"] < number:
        part.measured_ns = steps[case["warmup_steps"] - part.first].begin_ns
    if part.first < case["warmup_steps"] < number:
        note(part.findings, _check_stretch(case, steps[case["warmup_steps"] - part.first], where))
    if (odd := scaling.wrong_norm(case, steps)) is not None:
        found = f"{odd.grad_norm}, {'skipped' if odd.skipped else 'not skipped'}"
        expected = "a norm of at least 0, in float16 none where skipped"
        note(part.findings, iter([error(rule(case, "gradients"), f"{where}, step {odd.step}", expected, found)]))
    part.duration_ns, part.begins_ns = array("q", durations), array("q", [step.begin_ns for step in steps])
    part.norm = scaling.norms(steps)
    part.loss = array("d", [step.loss for step in steps])
    part.loss_dp_mean = array("d", [step.loss_dp_mean for step in steps])


def note(findings: list[Finding], found: Iterator[Finding]) -> None:
    """Keep findings, the first ones only."""
    if len(findings) < SHOWN:
        findings += found


def _check_stretch(case: Case, step: Step, where: str) -> Iterator[Finding]:
    phase = "warmup" if step.step < case["warmup_steps"] else "measured"
    if step.phase != phase:
        yield error(rule(case, "steps"), f"{where}, step {step.step}", f"step {step.step}, {phase}", f"step {step.step}, {step.phase}")
    if step.tokens != share(case):
        yield error(rule(case, "tokens"), f"{where}, step {step.step}", f"{share(case)} tokens", step.tokens)
    if step.real_tokens > step.tokens or (case["packing"] != "none" and step.real_tokens != step.tokens):
        expected = f"{'at most ' if case['packing'] == 'none' else ''}{step.tokens} real tokens"
        yield error(rule(case, "tokens"), f"{where}, step {step.step}", expected, step.real_tokens)


def share(case: Case) -> Fraction:
    """Tokens of a rank in a step, or of its team."""
    return Fraction(case["global_batch"] * case["model"]["sequence_length"] * teams.size(case), case["processes"])


def _check_step(case: Case, step: Step, number: int, ended_ns: int, where: str) -> Iterator[Finding]:
    if step.step != number:
        raise Refused(rule(case, "steps"), f"{where}, step {step.step}", f"step {number}", f"step {step.step}")
    if not ended_ns <= step.begin_ns < step.t:
        yield error(rule(case, "time"), f"{where}, step {number}", f"{ended_ns} <= begin_ns < t = {step.t}", f"begin_ns = {step.begin_ns}")
    if step.loss < 0:
        yield error(rule(case, "loss"), f"{where}, step {number}", "a loss of at least 0", str(step.loss))
