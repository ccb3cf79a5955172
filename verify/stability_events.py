"""Events of the suite `stability`, beside the common ones: what a supervisor's journal tells."""

from __future__ import annotations

from typing import Literal, get_args

from verify.events import Event, Natural, Positive
from verify.step_events import Data

Class = Literal["process_end", "out_of_memory", "loss", "hang", "device_error", "storage", "supervisor", "reboot"]
CLASSES = get_args(Class)


class Session(Event, frozen=True, tag="session"):
    """One life of the supervisor; `elapsed_ns` is the time since the first one's begin as it reckons."""

    session: Positive
    attempt: Positive
    boot_id: str
    at_ns: Natural
    wall_ns: Natural
    elapsed_ns: Natural


class Start(Event, frozen=True, tag="start"):
    """All ranks are ready to do step `step`: at first, or after a restart."""

    incarnation: Natural
    step: Natural
    at_ns: Natural


class Step(Event, frozen=True, tag="step"):
    """One optimizer step of all ranks, on rank 0's clock; the mean loss."""

    step: Natural
    begin_ns: Natural
    end_ns: Natural
    loss: float


class Saved(Event, frozen=True, tag="saved"):
    """A checkpoint is on the disk, from which `step` follows."""

    step: Natural
    begin_ns: Natural
    end_ns: Natural


class Crash(Event, frozen=True, tag="crash"):
    """The training did not go on as expected; noted at `at_ns`."""

    fault: Class
    at_ns: Natural
    incarnation: Natural
    detail: str


class ClockStep(Event, frozen=True, tag="clock_step"):
    """The wall clock was set by `step_ns` against the clock since boot."""

    at_ns: Natural
    step_ns: int


class Injected(Event, frozen=True, tag="injected"):
    """Fault `number` of the case was put in."""

    number: Natural
    fault: str
    step: Natural
    at_ns: Natural


class End(Event, frozen=True, tag="end"):
    """The duration is over."""

    at_ns: Natural


EVENTS: tuple[type[Event], ...] = (Data, Session, Start, Step, Saved, Crash, ClockStep, Injected, End)
