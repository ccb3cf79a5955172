"""Training steps as every suite that trains records them: columns over all ranks, and the rules that they keep.

A step lasts as long as on its slowest rank. Memory grows with steps, 24 bytes each, not with ranks.
"""

from __future__ import annotations

import hashlib
import math
import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import Any, cast

from verify import teams
from verify.events import Environment, Event, Memory, Model, exact
from verify.findings import Finding, Refused, error
from verify.metrics import Blocks, Case, total
from verify.step_events import EVENTS, Data, Evaluation, Step

__all__ = ["EVENTS", "Measured", "Part", "Rank", "Steps", "condense", "loss", "measure", "rules", "rules_of", "tokens_of"]

SHOWN = 20  # findings on single steps, of a block and of a rank: the first ones say it all
LARGEST = Fraction(sys.float_info.max)
LOSS_TOLERANCE = 0.01  # of the mean: an all-reduce in bfloat16 keeps 8 bits

RULES = {
    "cards": "one rank for each card, as formula F2 divides by cards",
    "facts": "each rank records its environment, its model (seed and dtype of the case) and its data, the same on every rank",
    "model": "the model has as many parameters as the case's file of it says",
    "layout": "the tensor_parallel x pipeline_parallel ranks of a model have the same tokens and loss, and divide ranks and layers",
    "steps": "steps 0, 1, 2, ... with the case's warm-up, then its measured steps",
    "time": "a step begins after the one before ended, and takes time",
    "tokens": "tokens of the ranks in a step, a team's once, = global_batch * sequence_length, and no more real ones than nominal ones",
    "loss": "a loss is not negative, and loss_dp_mean is the mean over ranks",
    "evaluation": "held-out loss after every so many steps and at the end, as the case asks, on each rank; its mean is the ranks' mean",
}


def rules_of(suite: str) -> dict[str, str]:
    """The rules of a suite that trains, by its name."""
    return {f"{suite}.{rule}": text for rule, text in RULES.items()}


def _rule(case: Case, name: str) -> str:
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
    stretches: list[tuple[int, int, int]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


@dataclass(slots=True)
class Rank:
    """How far one rank has come."""

    steps: int = 0
    ended_ns: int = 0
    began_ns: int = 0
    digest: Any = field(default_factory=hashlib.sha256)
    tokens: tuple[int, int] = (0, 0)
    member: teams.Member = field(default_factory=teams.Member)
    kinds: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


@dataclass(slots=True)
class Steps:
    """Every step over all ranks, as columns; `changes` has how tokens and real tokens change at a step.

    `loss_dp_mean` is the first rank's, `apart` how much the other ranks' are from it in sum, where they are; `team` ranks have the
    same tokens.
    """

    slowest_ns: array[int] = field(default_factory=lambda: array("q"))
    loss: array[float] = field(default_factory=lambda: array("d"))
    loss_dp_mean: array[float] = field(default_factory=lambda: array("d"))
    apart: dict[int, Fraction] = field(default_factory=dict)
    changes: dict[int, tuple[int, int]] = field(default_factory=dict)
    team: int = 1

    def stretches(self) -> Iterator[tuple[int, int, int, int]]:
        """(first step, step after the last, tokens, real tokens of one step) over all ranks, those of a team once, in order."""
        tokens = real = 0
        for begin, end in pairwise(sorted(self.changes)):
            tokens, real = tokens + self.changes[begin][0], real + self.changes[begin][1]
            yield begin, end, tokens // self.team, real // self.team


@dataclass(slots=True)
class Measured:
    """All steps, the ranks, what the data was, when measuring began on rank 0."""

    steps: Steps = field(default_factory=Steps)
    ranks: dict[int, Rank] = field(default_factory=dict)
    facts: set[tuple[object, ...]] = field(default_factory=set)
    weights: str = "random"
    devices: set[str] = field(default_factory=set)
    begin_ns: int = 0
    first_step_ns: int = 0
    parameters: set[int] = field(default_factory=set)
    peaks: list[int] = field(default_factory=list)
    evaluations: dict[int, list[Fraction]] = field(default_factory=dict)
    claimed: dict[int, list[Fraction]] = field(default_factory=dict)
    evaluated_ns: int = 0
    others: list[Event] = field(default_factory=list)


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
    durations: list[int] = []
    for step in steps:
        begin_ns, t = step.begin_ns, step.t
        if step.tokens != tokens or step.real_tokens != real_tokens or step.phase != phase:
            tokens, real_tokens, phase = step.tokens, step.real_tokens, step.phase
            part.stretches.append((number, tokens, real_tokens))
            _note(part.findings, _check_stretch(case, step, where))
        if step.step != number or not ended_ns <= begin_ns < t or step.loss < 0:
            _note(part.findings, _check_step(case, step, number, ended_ns, where))
        durations.append(t - begin_ns)
        number, ended_ns = number + 1, t
    if part.first <= case["warmup_steps"] < number:
        part.measured_ns = steps[case["warmup_steps"] - part.first].begin_ns
    if part.first < case["warmup_steps"] < number:
        _note(part.findings, _check_stretch(case, steps[case["warmup_steps"] - part.first], where))
    part.duration_ns = array("q", durations)
    part.loss = array("d", [step.loss for step in steps])
    part.loss_dp_mean = array("d", [step.loss_dp_mean for step in steps])


def _note(findings: list[Finding], found: Iterator[Finding]) -> None:
    if len(findings) < SHOWN:
        findings += found


def _check_stretch(case: Case, step: Step, where: str) -> Iterator[Finding]:
    phase = "warmup" if step.step < case["warmup_steps"] else "measured"
    if step.phase != phase:
        yield error(_rule(case, "steps"), f"{where}, step {step.step}", f"step {step.step}, {phase}", f"step {step.step}, {step.phase}")
    if step.real_tokens > step.tokens:
        yield error(_rule(case, "tokens"), f"{where}, step {step.step}", f"at most {step.tokens} real tokens", step.real_tokens)


def _check_step(case: Case, step: Step, number: int, ended_ns: int, where: str) -> Iterator[Finding]:
    if step.step != number:
        raise Refused(_rule(case, "steps"), f"{where}, step {step.step}", f"step {number}", f"step {step.step}")
    if not ended_ns <= step.begin_ns < step.t:
        yield error(_rule(case, "time"), f"{where}, step {number}", f"{ended_ns} <= begin_ns < t = {step.t}", f"begin_ns = {step.begin_ns}")
    if step.loss < 0:
        yield error(_rule(case, "loss"), f"{where}, step {number}", "a loss of at least 0", str(step.loss))


def measure(case: Case, blocks: Blocks) -> Measured:
    """Add up every rank's steps; memory grows with steps, 24 bytes each, not with ranks."""
    measured = Measured(Steps(team=teams.size(case)))
    planned = case["warmup_steps"] + case["measured_steps"]
    for number, part in blocks:
        rank = measured.ranks.setdefault(number, Rank())
        where = f"{case['id']}: rank {number}"
        _note(rank.findings, iter(part.findings))
        _others(case, measured, rank, part.others, where)
        if part.duration_ns:
            _joint(case, rank, part, planned, where)
            _stretches(measured.steps, rank, part)
            _add(measured.steps, part)
            if measured.steps.team > 1:
                rank.member.lost(part.loss)
            rank.began_ns = rank.began_ns or part.begin_ns
            if part.first == 0:
                measured.first_step_ns = max(measured.first_step_ns, part.begin_ns + part.duration_ns[0])
            rank.digest.update(part.duration_ns)
            rank.steps, rank.ended_ns = part.first + len(part.duration_ns), part.ended_ns
            if number == 0 and part.measured_ns is not None:
                measured.begin_ns = part.measured_ns
    for rank in measured.ranks.values():
        _change(measured.steps, rank.steps, -rank.tokens[0], -rank.tokens[1])
    return measured


def _others(case: Case, measured: Measured, rank: Rank, events: list[Event], where: str) -> None:
    for event in events:
        if isinstance(event, Environment | Model | Data):
            rank.kinds.append(type(event).__name__)
            _note(rank.findings, _fact(case, event, where))
        if isinstance(event, Environment):
            measured.devices.add(event.device_name)
        if isinstance(event, Model):
            measured.weights = event.weights
            measured.parameters.add(event.parameters)
        if isinstance(event, Data):
            measured.facts.add((event.source, event.sha256, event.tokens))
        if isinstance(event, Memory):
            measured.peaks.append(event.peak_bytes)
        if isinstance(event, Evaluation):
            _evaluated(case, measured, rank, event, where)
        measured.others.append(event)


def _evaluated(case: Case, measured: Measured, rank: Rank, event: Evaluation, where: str) -> None:
    if not event.begin_ns < event.t or event.loss < 0:
        found = error(_rule(case, "evaluation"), f"{where}, after {event.steps}", "begin_ns < t and a loss of at least 0", str(event.loss))
        _note(rank.findings, iter([found]))
    measured.evaluations.setdefault(event.steps, []).append(exact(event.loss))
    measured.claimed.setdefault(event.steps, []).append(exact(event.loss_dp_mean))
    measured.evaluated_ns += event.t - event.begin_ns if rank is measured.ranks.get(0) else 0


def _joint(case: Case, rank: Rank, part: Part, planned: int, where: str) -> None:
    """A block goes on where the one before ended, and not beyond the plan."""
    if part.first != rank.steps:
        raise Refused(_rule(case, "steps"), f"{where}, step {part.first}", f"step {rank.steps}", f"step {part.first}")
    if part.first + len(part.duration_ns) > planned:
        raise Refused(_rule(case, "steps"), where, f"{planned} steps", "more")
    if part.begin_ns < rank.ended_ns:
        found = error(_rule(case, "time"), f"{where}, step {part.first}", f"{rank.ended_ns} <= begin_ns", f"begin_ns = {part.begin_ns}")
        _note(rank.findings, iter([found]))


def _stretches(steps: Steps, rank: Rank, part: Part) -> None:
    for step, tokens, real_tokens in part.stretches:
        if (tokens, real_tokens) != rank.tokens:
            _change(steps, step, tokens - rank.tokens[0], real_tokens - rank.tokens[1])
            rank.member.changes(step, tokens, real_tokens)
        rank.tokens = tokens, real_tokens


def _change(steps: Steps, step: int, tokens: int, real_tokens: int) -> None:
    before = steps.changes.get(step, (0, 0))
    steps.changes[step] = before[0] + tokens, before[1] + real_tokens


def _add(steps: Steps, part: Part) -> None:
    """Add a rank's steps to those of the ranks before it; the first rank's stand as they are."""
    known = max(0, min(len(part.duration_ns), len(steps.slowest_ns) - part.first))
    begin, end = part.first, part.first + known
    slowest_ns, loss = steps.slowest_ns[begin:end], steps.loss[begin:end]
    slower = [a if a > b else b for a, b in zip(part.duration_ns, slowest_ns, strict=False)]  # noqa: FURB136 - max costs twice as much
    steps.slowest_ns[begin:end] = array("q", slower)
    steps.loss[begin:end] = array("d", [own + other for own, other in zip(part.loss, loss, strict=False)])
    if steps.loss_dp_mean[begin:end].tobytes() != part.loss_dp_mean[:known].tobytes():
        _apart(steps, begin, part.loss_dp_mean[:known])
    steps.slowest_ns.extend(part.duration_ns[known:])
    steps.loss.extend(part.loss[known:])
    steps.loss_dp_mean.extend(part.loss_dp_mean[known:])


def _apart(steps: Steps, begin: int, values: array[float]) -> None:
    for step, value in enumerate(values, start=begin):
        if value != steps.loss_dp_mean[step]:
            steps.apart[step] = steps.apart.get(step, Fraction(0)) + exact(value) - exact(steps.loss_dp_mean[step])


def _fact(case: Case, event: Environment | Model | Data, where: str) -> Iterator[Finding]:
    if isinstance(event, Model) and (event.seed, event.dtype) != (case["seed"], case["dtype"]):
        yield error(
            _rule(case, "facts"), where, f"model with seed {case['seed']}, dtype {case['dtype']}", f"seed {event.seed}, dtype {event.dtype}"
        )
    named = case["model"].get("parameters")
    if isinstance(event, Model) and named is not None and event.parameters != named:
        yield error(_rule(case, "model"), where, f"{named} parameters", event.parameters)
    if isinstance(event, Data) and event.source != case["data"]:
        yield error(_rule(case, "facts"), where, f"data {case['data']}", event.source)


def rules(case: Case, measured: Measured) -> Iterator[Finding]:
    """What is wrong with the case as a whole, after what was wrong with its events."""
    planned = case["warmup_steps"] + case["measured_steps"]
    for number, rank in measured.ranks.items():
        yield from rank.findings
        yield from _check_rank(case, rank, planned, f"{case['id']}: rank {number}")
    if not case["cards"] == case["processes"] == len(measured.ranks):
        yield error(
            _rule(case, "cards"),
            case["id"],
            f"{len(measured.ranks)} ranks on as many cards",
            f"cards {case['cards']}, processes {case['processes']}",
        )
    if len(measured.facts) > 1:
        yield error(_rule(case, "facts"), case["id"], "the same data on every rank", sorted(map(str, measured.facts)))
    yield from teams.differing(case, {number: rank.member for number, rank in measured.ranks.items()})
    yield from _check_tokens(case, measured.steps)
    yield from _check_losses(case, measured)
    yield from _check_evaluations(case, measured, planned)


def _check_rank(case: Case, rank: Rank, planned: int, where: str) -> Iterator[Finding]:
    if rank.steps != planned:
        yield error(_rule(case, "steps"), where, f"{planned} steps", f"{rank.steps}")
    if sorted(rank.kinds) != ["Data", "Environment", "Model"]:
        yield error(_rule(case, "facts"), where, "environment, model and data, once each", rank.kinds)


def _check_tokens(case: Case, steps: Steps) -> Iterator[Finding]:
    nominal = case["global_batch"] * case["model"]["sequence_length"]
    for begin, _, tokens, _ in steps.stretches():
        if tokens != nominal:
            yield error(_rule(case, "tokens"), f"{case['id']}: from step {begin}", f"{nominal} tokens over all ranks", tokens)
            return


def _check_losses(case: Case, measured: Measured) -> Iterator[Finding]:
    """Doubles do here: what is asked for is agreement to one per cent."""
    ranks, steps = len(measured.ranks), measured.steps
    for number, (loss, shared) in enumerate(zip(steps.loss, steps.loss_dp_mean, strict=True)):
        apart = steps.apart.get(number, Fraction(0))
        claimed = shared * ranks + (float(apart) if abs(apart) <= LARGEST else math.inf)
        if not abs(loss - claimed) <= LOSS_TOLERANCE * abs(loss):
            where = f"{case['id']}: step {number}"
            yield error(_rule(case, "loss"), where, "loss_dp_mean within 1 % of the ranks' mean", f"{claimed} against {loss}")
            return


def _check_evaluations(case: Case, measured: Measured, planned: int) -> Iterator[Finding]:
    every = case.get("evaluation", {}).get("every", 0)
    wanted = sorted({*range(every, planned + 1, every), planned}) if every else []
    ranks = len(measured.ranks)
    if sorted(measured.evaluations) != wanted or any(len(losses) != ranks for losses in measured.evaluations.values()):
        yield error(_rule(case, "evaluation"), case["id"], f"one on each rank after steps {wanted}", sorted(measured.evaluations))
    for steps, losses in sorted(measured.evaluations.items()):
        found, claimed = sum(losses, Fraction(0)), sum(measured.claimed[steps], Fraction(0))
        if not abs(found - claimed) <= Fraction(LOSS_TOLERANCE) * abs(found):
            yield error(_rule(case, "evaluation"), f"{case['id']}: after {steps}", "loss_dp_mean as the ranks' mean", float(claimed))


def tokens_of(steps: Steps, warmup: int) -> tuple[int, int]:
    """Nominal and real tokens of the measured steps."""
    measured = [(end - max(begin, warmup), tokens, real) for begin, end, tokens, real in steps.stretches() if end > warmup]
    return sum(count * tokens for count, tokens, _ in measured), sum(count * real for count, _, real in measured)


def loss(measured: Measured, begin: int, end: int) -> Fraction:
    """Exact mean of loss_dp_mean over ranks and the steps from `begin` to before `end`."""
    steps = measured.steps
    apart = sum((value for step, value in steps.apart.items() if begin <= step < end), Fraction(0))
    return (total(steps.loss_dp_mean[begin:end]) + apart / len(measured.ranks)) / (end - begin)
