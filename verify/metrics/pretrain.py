"""Pre-training: tokens per second and card (report formula F2), step time and loss.

The clock of a step is the synchronised wall time of its slowest rank; warm-up steps, evaluation and saving do not count
(ruling 16). Nominal tokens are scored, real (unpadded) tokens are shown.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import Any, Literal, cast

from verify.events import Environment, Event, Model, Natural, Positive, Sha256, exact
from verify.findings import Finding, Refused, error
from verify.metrics import Blocks, Case, Metric, Series, Window, mean, over, points, total
from verify.plausibility import Traits, Work, llama_flop

SECTION = "training"
PART = "compute"
NS_PER_S = 10**9
TRIM = 10  # the lab's later rule: steps left out at each end of the sorted TGS (profile lab-2025)
TRIMMED_STEPS = 10_000  # an exact mean of more rates takes minutes; the rule is for runs of some hundred steps
CURVE_STEPS = 101  # steps 0 to 100, as the published curves: F10 takes the variance over the first hundred of them
SHOWN = 20  # findings on single steps, of a block and of a rank: the first ones say it all
LOSS_TOLERANCE = 0.01  # of the mean: an all-reduce in bfloat16 keeps 8 bits

RULES = {
    "pretrain.cards": "one rank for each card, as formula F2 divides by cards",
    "pretrain.facts": "each rank records its environment, its model (seed and dtype of the case) and its data, the same on every rank",
    "pretrain.steps": "steps 0, 1, 2, ... with the case's warm-up, then its measured steps",
    "pretrain.time": "a step begins after the one before ended, and takes time",
    "pretrain.tokens": "tokens of all ranks in a step = global_batch * sequence_length, and no more real ones than nominal ones",
    "pretrain.loss": "a loss is not negative, and loss_dp_mean is the mean over ranks",
}


class Data(Event, frozen=True, tag="data"):
    """The frozen text that is trained on; `tokens` counts all of it."""

    source: str
    sha256: Sha256
    tokens: Positive


class Step(Event, frozen=True, tag="step"):
    """One optimizer step of this rank; it lasted `t - begin_ns` nanoseconds."""

    step: Natural
    phase: Literal["warmup", "measured"]
    begin_ns: Natural
    loss: float
    loss_dp_mean: float
    tokens: Positive
    real_tokens: Natural
    grad_norm: float | None


EVENTS: tuple[type[Event], ...] = (Data, Step)


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
    kinds: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


@dataclass(slots=True)
class Steps:
    """Every step over all ranks, as columns; `changes` has how tokens and real tokens change at a step.

    `loss_dp_mean` is the first rank's, `apart` how much the other ranks' are from it in sum, where they are.
    """

    slowest_ns: array[int] = field(default_factory=lambda: array("q"))
    loss: array[float] = field(default_factory=lambda: array("d"))
    loss_dp_mean: array[float] = field(default_factory=lambda: array("d"))
    apart: dict[int, Fraction] = field(default_factory=dict)
    changes: dict[int, tuple[int, int]] = field(default_factory=dict)

    def stretches(self) -> Iterator[tuple[int, int, int, int]]:
        """(first step, step after the last, tokens, real tokens of one step) over all ranks, in order."""
        tokens = real = 0
        for begin, end in pairwise(sorted(self.changes)):
            tokens, real = tokens + self.changes[begin][0], real + self.changes[begin][1]
            yield begin, end, tokens, real


@dataclass(slots=True)
class Measured:
    """All steps, the ranks, what the data was, when measuring began on rank 0."""

    steps: Steps = field(default_factory=Steps)
    ranks: dict[int, Rank] = field(default_factory=dict)
    facts: set[tuple[object, ...]] = field(default_factory=set)
    weights: str = "random"
    devices: set[str] = field(default_factory=set)
    begin_ns: int = 0


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
            _note(part.findings, _check_step(step, number, ended_ns, where))
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
        yield error("pretrain.steps", f"{where}, step {step.step}", f"step {step.step}, {phase}", f"step {step.step}, {step.phase}")
    if step.real_tokens > step.tokens:
        yield error("pretrain.tokens", f"{where}, step {step.step}", f"at most {step.tokens} real tokens", step.real_tokens)


def _check_step(step: Step, number: int, ended_ns: int, where: str) -> Iterator[Finding]:
    if step.step != number:
        raise Refused("pretrain.steps", f"{where}, step {step.step}", f"step {number}", f"step {step.step}")
    if not ended_ns <= step.begin_ns < step.t:
        yield error("pretrain.time", f"{where}, step {number}", f"{ended_ns} <= begin_ns < t = {step.t}", f"begin_ns = {step.begin_ns}")
    if step.loss < 0:
        yield error("pretrain.loss", f"{where}, step {number}", "a loss of at least 0", str(step.loss))


def measure(case: Case, blocks: Blocks) -> Measured:
    """Add up every rank's steps; memory grows with steps, 24 bytes each, not with ranks."""
    measured = Measured()
    planned = case["warmup_steps"] + case["measured_steps"]
    for number, part in blocks:
        rank = measured.ranks.setdefault(number, Rank())
        where = f"{case['id']}: rank {number}"
        _note(rank.findings, iter(part.findings))
        _others(case, measured, rank, part.others, where)
        if part.duration_ns:
            _joint(rank, part, planned, where)
            _stretches(measured.steps, rank, part)
            _add(measured.steps, part)
            rank.began_ns = rank.began_ns or part.begin_ns
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
        if isinstance(event, Data):
            measured.facts.add((event.source, event.sha256, event.tokens))


def _joint(rank: Rank, part: Part, planned: int, where: str) -> None:
    """A block goes on where the one before ended, and not beyond the plan."""
    if part.first != rank.steps:
        raise Refused("pretrain.steps", f"{where}, step {part.first}", f"step {rank.steps}", f"step {part.first}")
    if part.first + len(part.duration_ns) > planned:
        raise Refused("pretrain.steps", where, f"{planned} steps", "more")
    if part.begin_ns < rank.ended_ns:
        found = error("pretrain.time", f"{where}, step {part.first}", f"{rank.ended_ns} <= begin_ns", f"begin_ns = {part.begin_ns}")
        _note(rank.findings, iter([found]))


def _stretches(steps: Steps, rank: Rank, part: Part) -> None:
    for step, tokens, real_tokens in part.stretches:
        _change(steps, step, tokens - rank.tokens[0], real_tokens - rank.tokens[1])
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
            "pretrain.facts", where, f"model with seed {case['seed']}, dtype {case['dtype']}", f"seed {event.seed}, dtype {event.dtype}"
        )
    if isinstance(event, Data) and event.source != case["data"]:
        yield error("pretrain.facts", where, f"data {case['data']}", event.source)


def rules(case: Case, measured: Measured) -> Iterator[Finding]:
    """What is wrong with the case as a whole, after what was wrong with its events."""
    planned = case["warmup_steps"] + case["measured_steps"]
    for number, rank in measured.ranks.items():
        yield from rank.findings
        yield from _check_rank(rank, planned, f"{case['id']}: rank {number}")
    if not case["cards"] == case["processes"] == len(measured.ranks):
        yield error(
            "pretrain.cards",
            case["id"],
            f"{len(measured.ranks)} ranks on as many cards",
            f"cards {case['cards']}, processes {case['processes']}",
        )
    if len(measured.facts) > 1:
        yield error("pretrain.facts", case["id"], "the same data on every rank", sorted(map(str, measured.facts)))
    yield from _check_tokens(case, measured.steps)
    yield from _check_losses(case, measured)


def _check_rank(rank: Rank, planned: int, where: str) -> Iterator[Finding]:
    if rank.steps != planned:
        yield error("pretrain.steps", where, f"{planned} steps", f"{rank.steps}")
    if sorted(rank.kinds) != ["Data", "Environment", "Model"]:
        yield error("pretrain.facts", where, "environment, model and data, once each", rank.kinds)


def _check_tokens(case: Case, steps: Steps) -> Iterator[Finding]:
    nominal = case["global_batch"] * case["model"]["sequence_length"]
    for begin, _, tokens, _ in steps.stretches():
        if tokens != nominal:
            yield error("pretrain.tokens", f"{case['id']}: from step {begin}", f"{nominal} tokens over all ranks", tokens)
            return


def _check_losses(case: Case, measured: Measured) -> Iterator[Finding]:
    """Doubles do here: what is asked for is agreement to one per cent."""
    ranks, steps = len(measured.ranks), measured.steps
    for number, (loss, shared) in enumerate(zip(steps.loss, steps.loss_dp_mean, strict=True)):
        claimed = shared * ranks + float(steps.apart.get(number, 0))
        if not abs(loss - claimed) <= LOSS_TOLERANCE * abs(loss):
            where = f"{case['id']}: step {number}"
            yield error("pretrain.loss", where, "loss_dp_mean within 1 % of the ranks' mean", f"{claimed} against {loss}")
            return


def _tokens(steps: Steps, warmup: int) -> tuple[int, int]:
    """Nominal and real tokens of the measured steps."""
    measured = [(end - max(begin, warmup), tokens, real) for begin, end, tokens, real in steps.stretches() if end > warmup]
    return sum(count * tokens for count, tokens, _ in measured), sum(count * real for count, _, real in measured)


def metrics(case: Case, measured: Measured) -> dict[str, Metric]:
    """Rates in tokens per second and card, step time in seconds, losses in nats per token."""
    warmup, times_ns = case["warmup_steps"], measured.steps.slowest_ns[case["warmup_steps"] :]
    count, wall_ns = len(times_ns), sum(times_ns)
    card_seconds = Fraction(wall_ns * case["cards"], NS_PER_S)
    tokens, real_tokens = _tokens(measured.steps, warmup)
    rates = [Fraction(tokens * NS_PER_S, count * slowest_ns * case["cards"]) for slowest_ns in (max(times_ns), min(times_ns))]
    found = {
        "tgs": Metric(tokens / card_seconds, "tokens/(s*card)", "F2", *rates),
        "tgs_real": Metric(real_tokens / card_seconds, "tokens/(s*card)", "F2 over real tokens"),
        "step_time_mean_s": Metric(
            Fraction(wall_ns, NS_PER_S * count), "s", "mean over measured steps of the slowest rank", **over(times_ns, NS_PER_S)
        ),
        "loss_first": Metric(_loss(measured, warmup, warmup + 1), "nat/token", "mean over ranks at the first measured step"),
        "loss_last": Metric(_loss(measured, warmup + count - 1, warmup + count), "nat/token", "mean over ranks at the last measured step"),
        "loss_mean": Metric(_loss(measured, warmup, warmup + count), "nat/token", "mean over ranks and measured steps"),
    }
    if 2 * TRIM < count <= TRIMMED_STEPS:
        kept = [Fraction(tokens * NS_PER_S, count * slowest_ns * case["cards"]) for slowest_ns in sorted(times_ns)[TRIM:-TRIM]]
        found["tgs_trimmed"] = Metric(mean(kept), "tokens/(s*card)", "F2 a step, mean without the 10 lowest and highest")
    return found


def _loss(measured: Measured, begin: int, end: int) -> Fraction:
    """Exact mean of loss_dp_mean over ranks and the steps from `begin` to before `end`."""
    steps = measured.steps
    apart = sum((value for step, value in steps.apart.items() if begin <= step < end), Fraction(0))
    return (total(steps.loss_dp_mean[begin:end]) + apart / len(measured.ranks)) / (end - begin)


def traits(case: Case, measured: Measured) -> Traits:
    """Durations of measured steps, a digest of each rank's, and the work of the products alone."""
    warmup, steps = case["warmup_steps"], measured.steps
    first = measured.ranks[0]
    times_ns = steps.slowest_ns[warmup:]
    done = None
    if case["model"]["architecture"] == "llama":
        flop = llama_flop(case["model"], _tokens(steps, warmup)[0], 0, training=True)
        done = Work(flop, case["dtype"], sum(times_ns), case["cards"])
    ranks = {number: rank.digest.hexdigest() for number, rank in measured.ranks.items()}
    return Traits({"step": times_ns}, ranks, done, sum(steps.slowest_ns), first.ended_ns - first.began_ns, frozenset(measured.devices))


def facts(case: Case, measured: Measured) -> dict[str, str]:
    """Whether the weights were random or of a file."""
    del case
    return {"weights": measured.weights}


def series(case: Case, measured: Measured) -> dict[str, Series]:
    """Step time in seconds and loss in nats per token, over all steps; the loss of the first ones also step by step (F10)."""
    warmup, times_ns = case["warmup_steps"], measured.steps.slowest_ns
    return {
        "step_time_s": points(len(times_ns), lambda begin, end: Fraction(sum(times_ns[begin:end]), NS_PER_S * (end - begin)), "s", warmup),
        "loss": points(len(times_ns), lambda begin, end: _loss(measured, begin, end), "nat/token", warmup, CURVE_STEPS),
    }


def windows(case: Case, measured: Measured) -> list[Window]:
    """From the begin of the first measured step to the end of the last, on rank 0's clock, with the tokens of all ranks."""
    tokens, _ = _tokens(measured.steps, case["warmup_steps"])
    return [Window("", measured.begin_ns, measured.ranks[0].ended_ns, {"token": tokens})]
