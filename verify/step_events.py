"""Events of suites that train, beside the common ones."""

from __future__ import annotations

from typing import Literal

from verify.events import Event, Memory, Natural, Positive, Scale, Sha256


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
    loss_scale: Scale | None
    skipped: bool


class Estimate(Event, frozen=True, tag="estimate"):
    """Memory of a card as it was expected before the run, and what there was, in bytes."""

    weights_bytes: Natural
    gradients_bytes: Natural
    states_bytes: Natural
    activations_bytes: Natural
    available_bytes: Natural


class Evaluation(Event, frozen=True, tag="evaluation"):
    """Mean loss of this rank over its part of the held-out data, after so many steps; it took `t - begin_ns` nanoseconds."""

    steps: Positive
    begin_ns: Natural
    loss: float
    loss_dp_mean: float
    tokens: Positive


EVENTS: tuple[type[Event], ...] = (Data, Step, Estimate, Memory, Evaluation)
