"""Pre-training: tokens per second and card (report formula F2), step time and loss.

The clock of a step is the synchronised wall time of its slowest rank; warm-up steps, evaluation and saving do not count
(ruling 16). Nominal tokens are scored, real (unpadded) tokens are shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

from verify.events import Environment, Event, Model, Natural, Positive, Sha256
from verify.findings import Finding, error
from verify.metrics import Case, Metric, Ranks, Series, mean, over
from verify.metrics import series as thinned

SECTION = "training"
PART = "compute"
NS_PER_S = 10**9
TRIM = 10  # the lab's later rule: steps left out at each end of the sorted TGS (profile lab-2025)
LOSS_TOLERANCE = Fraction(1, 100)  # of the mean: an all-reduce in bfloat16 keeps 8 bits

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
    loss: Fraction
    loss_dp_mean: Fraction
    tokens: Positive
    real_tokens: Natural
    grad_norm: Fraction | None


EVENTS: tuple[type[Event], ...] = (Data, Step)


@dataclass(slots=True)
class Totals:
    """One step over all ranks."""

    slowest_ns: int = 0
    tokens: int = 0
    real_tokens: int = 0
    loss: Fraction = Fraction(0)
    loss_dp_mean: Fraction = Fraction(0)


@dataclass(slots=True)
class Measured:
    """All steps, and what was wrong with single events."""

    steps: list[Totals] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    facts: set[tuple[object, ...]] = field(default_factory=set)
    ranks: int = 0
    weights: str = "random"


def measure(case: Case, ranks: Ranks) -> Measured:
    """Add up every rank's steps; memory grows with steps, not with ranks."""
    measured = Measured(steps=[Totals() for _ in range(case["warmup_steps"] + case["measured_steps"])])
    for rank, events in ranks.items():
        measured.ranks += 1
        _rank(case, measured, events, f"{case['id']}: rank {rank}")
    return measured


def _rank(case: Case, measured: Measured, events: object, where: str) -> None:
    count, ended_ns = 0, 0
    kinds: list[type] = []
    for event in events:  # type: ignore[attr-defined]
        if isinstance(event, Step):
            measured.findings += _step(case, event, count, ended_ns, f"{where}, step {event.step}")
            if count < len(measured.steps):
                _add(measured.steps[count], event)
            count, ended_ns = count + 1, event.t
        elif isinstance(event, Environment | Model | Data):
            kinds.append(type(event))
            measured.findings += _fact(case, event, where)
            if isinstance(event, Model):
                measured.weights = event.weights
            if isinstance(event, Data):
                measured.facts.add((event.source, event.sha256, event.tokens))
    if count != len(measured.steps):
        measured.findings.append(error("pretrain.steps", where, f"{len(measured.steps)} steps", f"{count}"))
    if sorted(kind.__name__ for kind in kinds) != ["Data", "Environment", "Model"]:
        measured.findings.append(
            error("pretrain.facts", where, "environment, model and data, once each", [kind.__name__ for kind in kinds])
        )


def _step(case: Case, event: Step, expected: int, ended_ns: int, where: str) -> Iterator[Finding]:
    phase = "warmup" if expected < case["warmup_steps"] else "measured"
    if (event.step, event.phase) != (expected, phase):
        yield error("pretrain.steps", where, f"step {expected}, {phase}", f"step {event.step}, {event.phase}")
    if not ended_ns <= event.begin_ns < event.t:
        yield error("pretrain.time", where, f"{ended_ns} <= begin_ns < t = {event.t}", f"begin_ns = {event.begin_ns}")
    if event.real_tokens > event.tokens:
        yield error("pretrain.tokens", where, f"at most {event.tokens} real tokens", event.real_tokens)
    if event.loss < 0:
        yield error("pretrain.loss", where, "a loss of at least 0", str(event.loss))


def _add(totals: Totals, event: Step) -> None:
    totals.slowest_ns = max(totals.slowest_ns, event.t - event.begin_ns)
    totals.tokens += event.tokens
    totals.real_tokens += event.real_tokens
    totals.loss += event.loss
    totals.loss_dp_mean += event.loss_dp_mean


def _fact(case: Case, event: Environment | Model | Data, where: str) -> Iterator[Finding]:
    if isinstance(event, Model) and (event.seed, event.dtype) != (case["seed"], case["dtype"]):
        yield error(
            "pretrain.facts", where, f"model with seed {case['seed']}, dtype {case['dtype']}", f"seed {event.seed}, dtype {event.dtype}"
        )
    if isinstance(event, Data) and event.source != case["data"]:
        yield error("pretrain.facts", where, f"data {case['data']}", event.source)


def rules(case: Case, measured: Measured) -> Iterator[Finding]:
    """What is wrong with the case as a whole, after what was wrong with its events."""
    yield from measured.findings
    if not case["cards"] == case["processes"] == measured.ranks:
        yield error(
            "pretrain.cards",
            case["id"],
            f"{measured.ranks} ranks on as many cards",
            f"cards {case['cards']}, processes {case['processes']}",
        )
    if len(measured.facts) > 1:
        yield error("pretrain.facts", case["id"], "the same data on every rank", sorted(map(str, measured.facts)))
    nominal = case["global_batch"] * case["model"]["sequence_length"]
    for number, totals in enumerate(measured.steps):
        where = f"{case['id']}: step {number}"
        if totals.tokens != nominal:
            yield error("pretrain.tokens", where, f"{nominal} tokens over all ranks", totals.tokens)
        if abs(totals.loss - totals.loss_dp_mean) > LOSS_TOLERANCE * abs(totals.loss):
            yield error(
                "pretrain.loss",
                where,
                "loss_dp_mean within 1 % of the ranks' mean",
                f"{float(totals.loss_dp_mean)} against {float(totals.loss)}",
            )


def metrics(case: Case, measured: Measured) -> dict[str, Metric]:
    """Rates in tokens per second and card, step time in seconds, losses in nats per token."""
    steps = measured.steps[case["warmup_steps"] :]
    wall_ns = sum(step.slowest_ns for step in steps)
    card_seconds = Fraction(wall_ns * case["cards"], NS_PER_S)
    losses = [step.loss_dp_mean / measured.ranks for step in steps]
    rates = sorted(Fraction(step.tokens * NS_PER_S, step.slowest_ns * case["cards"]) for step in steps)
    found = {
        "tgs": Metric(sum(step.tokens for step in steps) / card_seconds, "tokens/(s*card)", "F2", **over(rates)),
        "tgs_real": Metric(sum(step.real_tokens for step in steps) / card_seconds, "tokens/(s*card)", "F2 over real tokens"),
        "step_time_mean_s": Metric(
            Fraction(wall_ns, NS_PER_S * len(steps)),
            "s",
            "mean over measured steps of the slowest rank",
            **over((step.slowest_ns for step in steps), NS_PER_S),
        ),
        "loss_first": Metric(losses[0], "nat/token", "mean over ranks at the first measured step"),
        "loss_last": Metric(losses[-1], "nat/token", "mean over ranks at the last measured step"),
        "loss_mean": Metric(mean(losses), "nat/token", "mean over ranks and measured steps"),
    }
    if len(rates) > 2 * TRIM:
        found["tgs_trimmed"] = Metric(mean(rates[TRIM:-TRIM]), "tokens/(s*card)", "F2 a step, mean without the 10 lowest and highest")
    return found


def facts(case: Case, measured: Measured) -> dict[str, str]:
    """Whether the weights were random or of a file."""
    del case
    return {"weights": measured.weights}


def series(case: Case, measured: Measured) -> dict[str, Series]:
    """Step time in seconds and loss in nats per token, over all steps."""
    warmup = case["warmup_steps"]
    return {
        "step_time_s": thinned([Fraction(step.slowest_ns, NS_PER_S) for step in measured.steps], "s", warmup),
        "loss": thinned([step.loss_dp_mean / measured.ranks for step in measured.steps], "nat/token", warmup),
    }
