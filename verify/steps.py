"""Training steps as every suite that trains records them: columns over all ranks, and the rules that they keep.

A step lasts as long as on its slowest rank. Memory grows with steps, 32 bytes each, not with ranks.
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
from typing import Any

from verify import flop, memory_held, one_time, scaling, step_losses, teams
from verify.events import CaseStart, Environment, Event, Memory, Model, exact
from verify.findings import Finding, Refused, error
from verify.metrics import Blocks, Case, total
from verify.step_columns import Part, condense, note, rule, share
from verify.step_events import EVENTS, Data, Evaluation
from verify.strict import LARGE_INTEGER

__all__ = ["EVENTS", "Measured", "Part", "Rank", "Steps", "condense", "loss", "measure", "rules", "rules_of", "tokens_of"]

LARGEST = Fraction(sys.float_info.max)
LOSS_TOLERANCE = 0.01  # of the mean: an all-reduce in bfloat16 keeps 8 bits
NONE = (-1, 0.0, 0.0)

RULES = {
    "cards": "one rank for each card, as formula F2 divides by cards",
    "facts": "each rank records environment, model (seed, dtype and weights of the case) and data before its steps, the same on every rank",
    "memory": "each rank tells its memory after its steps; on a card, no less than its share of weights and states takes (warning)",
    "model": "the model has as many parameters as the case's shape of it makes",
    "layout": "the tensor_parallel x pipeline_parallel ranks of a model have the same tokens and loss, and divide ranks and layers",
    "steps": "steps 0, 1, 2, ... with the case's warm-up, then its measured steps",
    "time": "a step begins after the one before and what was evaluated behind it ended, and takes time",
    "together": "on one host, no rank ends a step before another has begun it",
    "tokens": "each rank has its share of global_batch * sequence_length tokens, a team as one; no more real ones, in packs all of them",
    "loss": "loss_dp_mean is the ranks' mean, the same on each; losses are not negative, copied, constant or too low for random weights",
    "scaling": "float16 alone scales losses, an overflow alone halves the scale, and of a skipped update all ranks tell",
    "gradients": "a norm of gradients is not negative, the same on every rank, and in float16 none where an update was skipped",
    "evaluation": "held-out loss of the case's batches right after every so many steps and at the end, on each rank, with the ranks' mean",
}


def rules_of(suite: str) -> dict[str, str]:
    """The rules of a suite that trains, by its name."""
    return {f"{suite}.{rule}": text for rule, text in RULES.items()}


@dataclass(slots=True)
class Rank:
    """How far one rank has come; `busy_ns` is the end of its last step and of what was evaluated behind it."""

    steps: int = 0
    ended_ns: int = 0
    began_ns: int = 0
    busy_ns: int = 0
    origin_ns: int = 0
    told_ns: int = 0
    held_ns: int = 0
    evaluated: list[int] = field(default_factory=list)
    scaling: scaling.Scaling = field(default_factory=scaling.Scaling)
    digest: Any = field(default_factory=hashlib.sha256)
    tokens: tuple[int, int] = (0, 0)
    member: teams.Member = field(default_factory=teams.Member)
    kinds: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


@dataclass(slots=True)
class Steps:
    """Every step over all ranks, as columns; `changes` has how tokens and real tokens change at a step.

    `loss_dp_mean` and `norm` are the first rank's, `apart` how much the other ranks' means are from it in sum, where they are; `team`
    ranks have the same tokens.
    """

    slowest_ns: array[int] = field(default_factory=lambda: array("q"))
    norm: array[float] = field(default_factory=lambda: array("d"))
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
    hosts: one_time.Hosts = field(default_factory=one_time.Hosts)
    weights: str = "random"
    weights_of: set[tuple[object, ...]] = field(default_factory=set)
    devices: set[str] = field(default_factory=set)
    kinds: set[str] = field(default_factory=set)
    begin_ns: int = 0
    first_step_ns: int = 0
    parameters: set[int] = field(default_factory=set)
    peaks: list[int] = field(default_factory=list)
    evaluations: dict[int, list[Fraction]] = field(default_factory=dict)
    claimed: dict[int, list[Fraction]] = field(default_factory=dict)
    evaluated_ns: int = 0
    others: list[Event] = field(default_factory=list)


def measure(case: Case, blocks: Blocks) -> Measured:
    """Add up every rank's steps; memory grows with steps, 32 bytes each, not with ranks."""
    measured = Measured(Steps(team=teams.size(case)))
    planned = case["warmup_steps"] + case["measured_steps"]
    for number, part in blocks:
        rank = measured.ranks.setdefault(number, Rank())
        where = f"{case['id']}: rank {number}"
        note(rank.findings, iter(part.findings))
        _others(case, measured, rank, part, where)
        if part.duration_ns:
            _joint(case, rank, part, planned, where)
            _stretches(measured.steps, rank, part)
            note(rank.findings, _compared(case, measured.steps, part, where))
            _add(measured.steps, part)
            _follow(case, measured, number, part)
    for rank in measured.ranks.values():
        _change(measured.steps, rank.steps, -rank.tokens[0], -rank.tokens[1])
    return measured


def _follow(case: Case, measured: Measured, number: int, part: Part) -> None:
    """Let the rank come as far as its block."""
    rank = measured.ranks[number]
    if measured.steps.team > 1:
        rank.member.lost(part.loss)
    rank.began_ns = rank.began_ns or part.begin_ns
    if part.first == 0:
        measured.first_step_ns = max(measured.first_step_ns, part.begin_ns + part.duration_ns[0])
    rank.digest.update(part.duration_ns)
    rank.steps, rank.ended_ns = part.first + len(part.duration_ns), part.ended_ns
    rank.busy_ns = max(rank.busy_ns, part.ended_ns)
    if number == 0 and part.measured_ns is not None:
        measured.begin_ns = part.measured_ns
    measured.hosts.add(case, number, rank.origin_ns, part.first, zip(part.begins_ns, part.duration_ns, strict=True))
    for step, expected, found in rank.scaling.add(case, part.scales):
        note(rank.findings, iter([error(rule(case, "scaling"), f"{case['id']}: rank {number}, step {step}", expected, found)]))


def _others(case: Case, measured: Measured, rank: Rank, part: Part, where: str) -> None:
    for event in part.others:
        if isinstance(event, CaseStart):
            rank.origin_ns = event.monotonic_ns
        if isinstance(event, Environment | Model | Data):
            rank.kinds.append(type(event).__name__)
            rank.told_ns = event.t
            note(rank.findings, _fact(case, event, where))
        if isinstance(event, Environment):
            measured.devices.add(event.device_name)
            measured.kinds.add(event.device)
        if isinstance(event, Model):
            measured.weights = event.weights
            measured.parameters.add(event.parameters)
            measured.weights_of.add((event.parameters, event.weights, event.weights_sha256))
        if isinstance(event, Data):
            measured.facts.add((event.source, event.sha256, event.tokens))
        if isinstance(event, Memory):
            rank.kinds.append("Memory")
            measured.peaks.append(event.peak_bytes)
            rank.held_ns = event.t
        if isinstance(event, Evaluation):
            _evaluated(case, measured, rank, event, part, where)
        measured.others.append(event)


def _evaluated(case: Case, measured: Measured, rank: Rank, event: Evaluation, part: Part, where: str) -> None:
    begin_ns, end_ns = _between(rank, part, event.steps)
    if not begin_ns <= event.begin_ns < event.t <= end_ns or event.loss < 0:
        expected = f"{begin_ns} <= begin_ns < t <= {end_ns}, right behind step {event.steps - 1}, and a loss of at least 0"
        found = error(rule(case, "evaluation"), f"{where}, after {event.steps}", expected, f"{event.begin_ns}, {event.t}, {event.loss}")
        note(rank.findings, iter([found]))
    if event.tokens != (tokens := case.get("evaluation", {}).get("batches", 0) * share(case)):
        found = error(rule(case, "evaluation"), f"{where}, after {event.steps}", f"{tokens} tokens", event.tokens)
        note(rank.findings, iter([found]))
    measured.evaluations.setdefault(event.steps, []).append(exact(event.loss))
    measured.claimed.setdefault(event.steps, []).append(exact(event.loss_dp_mean))
    rank.evaluated.append(event.steps)
    rank.busy_ns = max(rank.busy_ns, event.t)
    if rank is measured.ranks.get(0) and case["warmup_steps"] < event.steps < case["warmup_steps"] + case["measured_steps"]:
        measured.evaluated_ns += event.t - event.begin_ns


def _between(rank: Rank, part: Part, steps: int) -> tuple[int, int]:
    """When the last of so many steps of a rank ended and the next one began, as far as its block tells."""
    place, count = steps - part.first, len(part.duration_ns)
    end_ns = part.begins_ns[place] if 0 <= place < count else LARGE_INTEGER
    if 0 < place <= count:
        return part.begins_ns[place - 1] + part.duration_ns[place - 1], end_ns
    return rank.ended_ns if rank.steps == steps else LARGE_INTEGER, end_ns


def _joint(case: Case, rank: Rank, part: Part, planned: int, where: str) -> None:
    """A block goes on where the one before ended, and not beyond the plan."""
    if part.first != rank.steps:
        raise Refused(rule(case, "steps"), f"{where}, step {part.first}", f"step {rank.steps}", f"step {part.first}")
    if part.first + len(part.duration_ns) > planned:
        raise Refused(rule(case, "steps"), where, f"{planned} steps", "more")
    if part.begin_ns < rank.ended_ns:
        found = error(rule(case, "time"), f"{where}, step {part.first}", f"{rank.ended_ns} <= begin_ns", f"begin_ns = {part.begin_ns}")
        note(rank.findings, iter([found]))


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
    steps.norm.extend(part.norm[known:])
    steps.slowest_ns.extend(part.duration_ns[known:])
    steps.loss.extend(part.loss[known:])
    steps.loss_dp_mean.extend(part.loss_dp_mean[known:])


def _compared(case: Case, steps: Steps, part: Part, where: str) -> Iterator[Finding]:
    """The first step in which a rank tells another mean loss, or another norm of gradients, than the first rank does."""
    known = max(0, min(len(part.duration_ns), len(steps.slowest_ns) - part.first))
    theirs = slice(part.first, part.first + known)
    if steps.loss_dp_mean[theirs].tobytes() != part.loss_dp_mean[:known].tobytes():
        pairs = zip(part.loss_dp_mean, steps.loss_dp_mean[theirs], strict=False)
        far = ((n, a, b) for n, (a, b) in enumerate(pairs, part.first) if not abs(a - b) <= LOSS_TOLERANCE * abs(b))
        step, own, other = next(far, NONE)
        if step >= 0:
            yield error(rule(case, "loss"), f"{where}, step {step}", f"loss_dp_mean of the first rank, {other}", own)
    if steps.norm[theirs].tobytes() != part.norm[:known].tobytes():
        pairs = zip(part.norm, steps.norm[theirs], strict=False)
        far = ((n, a, b) for n, (a, b) in enumerate(pairs, part.first) if scaling.apart(a, b))
        step, own, other = next(far, NONE)
        if step >= 0:
            yield error(rule(case, "gradients"), f"{where}, step {step}", f"the norm of the first rank, {other}", own)


def _apart(steps: Steps, begin: int, values: array[float]) -> None:
    for step, value in enumerate(values, start=begin):
        if value != steps.loss_dp_mean[step]:
            steps.apart[step] = steps.apart.get(step, Fraction(0)) + exact(value) - exact(steps.loss_dp_mean[step])


def _fact(case: Case, event: Environment | Model | Data, where: str) -> Iterator[Finding]:
    if isinstance(event, Model) and (event.seed, event.dtype) != (case["seed"], case["dtype"]):
        yield error(
            rule(case, "facts"), where, f"model with seed {case['seed']}, dtype {case['dtype']}", f"seed {event.seed}, dtype {event.dtype}"
        )
    if isinstance(event, Model):
        expected = ("random", False) if case["weights"] == "random" else ("file", True)
        if (event.weights, event.weights_sha256 is not None) != expected:
            found = f"weights {event.weights}, sha256 {event.weights_sha256}"
            yield error(rule(case, "facts"), where, f"weights {expected[0]} with{'' if expected[1] else 'out'} a sha256", found)
        if event.parameters != (count := flop.parameters(case["model"])):
            yield error(rule(case, "model"), where, f"{count} parameters", event.parameters)
    if isinstance(event, Data) and event.source != case["data"]:
        yield error(rule(case, "facts"), where, f"data {case['data']}", event.source)


def rules(case: Case, measured: Measured) -> Iterator[Finding]:
    """What is wrong with the case as a whole, after what was wrong with its events."""
    planned = case["warmup_steps"] + case["measured_steps"]
    for number, rank in measured.ranks.items():
        yield from rank.findings
        yield from _check_rank(case, rank, planned, f"{case['id']}: rank {number}")
    if not case["cards"] == case["processes"] == len(measured.ranks):
        yield error(
            rule(case, "cards"),
            case["id"],
            f"{len(measured.ranks)} ranks on as many cards",
            f"cards {case['cards']}, processes {case['processes']}",
        )
    if len(measured.facts) > 1:
        yield error(rule(case, "facts"), case["id"], "the same data on every rank", sorted(map(str, measured.facts)))
    if len(measured.weights_of) > 1:
        yield error(rule(case, "facts"), case["id"], "the same model on every rank", sorted(map(str, measured.weights_of)))
    if len({rank.scaling.digest.digest() for rank in measured.ranks.values()}) > 1:
        yield error(rule(case, "scaling"), case["id"], "the same scales and skipped updates on every rank", "others")
    yield from memory_held.short(case, measured.peaks, measured.kinds)
    yield from one_time.differing(case, measured.hosts)
    yield from teams.differing(case, {number: rank.member for number, rank in measured.ranks.items()})
    yield from _check_tokens(case, measured.steps)
    yield from _check_losses(case, measured)
    yield from _check_evaluations(case, measured, planned)


def _check_rank(case: Case, rank: Rank, planned: int, where: str) -> Iterator[Finding]:
    if rank.steps != planned:
        yield error(rule(case, "steps"), where, f"{planned} steps", f"{rank.steps}")
    if sorted(kind for kind in rank.kinds if kind != "Memory") != ["Data", "Environment", "Model"]:
        yield error(rule(case, "facts"), where, "environment, model and data, once each", rank.kinds)
    elif rank.told_ns > rank.began_ns:
        yield error(rule(case, "facts"), where, f"facts told before the first step begins at {rank.began_ns} ns", rank.told_ns)
    if rank.kinds.count("Memory") != 1 or rank.held_ns < rank.busy_ns:
        found = f"{rank.kinds.count('Memory')} times, last at {rank.held_ns}"
        yield error(rule(case, "memory"), where, f"memory told once, from {rank.busy_ns} ns on", found)


def _check_tokens(case: Case, steps: Steps) -> Iterator[Finding]:
    nominal = case["global_batch"] * case["model"]["sequence_length"]
    for begin, _, tokens, _ in steps.stretches():
        if tokens != nominal:
            yield error(rule(case, "tokens"), f"{case['id']}: from step {begin}", f"{nominal} tokens over all ranks", tokens)
            return


def _check_losses(case: Case, measured: Measured) -> Iterator[Finding]:
    """Doubles do here: what is asked for is agreement to one per cent."""
    ranks, steps = len(measured.ranks), measured.steps
    tolerance = LOSS_TOLERANCE if ranks > 1 else 0  # the mean over one rank is its own loss
    for number, (loss, shared) in enumerate(zip(steps.loss, steps.loss_dp_mean, strict=True)):
        apart = steps.apart.get(number, Fraction(0))
        claimed = shared * ranks + (float(apart) if abs(apart) <= LARGEST else math.inf)
        if not abs(loss - claimed) <= tolerance * abs(loss):
            where = f"{case['id']}: step {number}"
            yield error(rule(case, "loss"), where, f"loss_dp_mean within {tolerance:.0%} of the ranks' mean", f"{claimed} against {loss}")
            break
    for step, expected, found in step_losses.wrong(case, steps.loss_dp_mean):
        yield error(rule(case, "loss"), f"{case['id']}: step {step}", expected, found)


def _check_evaluations(case: Case, measured: Measured, planned: int) -> Iterator[Finding]:
    every = case.get("evaluation", {}).get("every", 0)
    wanted = sorted({*range(every, planned + 1, every), planned}) if every else []
    for number, rank in measured.ranks.items():
        if rank.evaluated != wanted:
            yield error(rule(case, "evaluation"), f"{case['id']}: rank {number}", f"one each after steps {wanted}", rank.evaluated)
    for steps, losses in sorted(measured.evaluations.items()):
        found, claimed = sum(losses, Fraction(0)), sum(measured.claimed[steps], Fraction(0))
        if not abs(found - claimed) <= Fraction(LOSS_TOLERANCE) * abs(found):
            yield error(rule(case, "evaluation"), f"{case['id']}: after {steps}", "loss_dp_mean as the ranks' mean", float(claimed))


def tokens_of(steps: Steps, warmup: int) -> tuple[int, int]:
    """Nominal and real tokens of the measured steps."""
    measured = [(end - max(begin, warmup), tokens, real) for begin, end, tokens, real in steps.stretches() if end > warmup]
    return sum(count * tokens for count, tokens, _ in measured), sum(count * real for count, _, real in measured)


def loss(measured: Measured, begin: int, end: int) -> Fraction:
    """Exact mean of loss_dp_mean over ranks and the steps from `begin` to before `end`."""
    steps = measured.steps
    apart = sum((value for step, value in steps.apart.items() if begin <= step < end), Fraction(0))
    return (total(steps.loss_dp_mean[begin:end]) + apart / len(measured.ranks)) / (end - begin)
