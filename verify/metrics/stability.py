"""Stability: crashes (F12), longest fault-free time (F13), losses of the first steps (F10), and how much of the time was productive.

Times are the host's since boot, sleep included; sessions of the supervisor lie on one line by the boot they belong to, or by the wall
clock where there was another. An attempt that was cut off is a crash, whether or not the journal tells of it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import Any

from verify import stability_events
from verify.events import CaseStart, Environment, Event, Model, exact
from verify.files import Evidence
from verify.findings import Finding, error, warning
from verify.metrics import Blocks, Case, Metric, Series, mean, over, points, unchanged
from verify.plausibility import Traits
from verify.stability_attempts import retold
from verify.stability_events import ClockStep, Crash, End, Injected, Saved, Session, Start, Step
from verify.stability_losses import copied
from verify.step_events import Data

SECTION = "training"
PART = "stability"
NS_PER_S, NS_PER_H = 10**9, 3600 * 10**9
CURVE_STEPS = 101  # as pretrain has them
OF_SESSIONS = ("supervisor", "reboot")
SEEN_AS = {"kill_rank": "process_end", "kill_all": "process_end", "kill_node": "process_end",
           "hang": "hang", "out_of_memory": "out_of_memory", "nan": "loss",
           "diverged": "loss", "device_error": "device_error", "full_disk": "storage", "kill_supervisor": "supervisor"}  # fmt: skip
EARLY_NS = NS_PER_S  # two clocks of one host, read one after the other
SILENCE_NS = 5 * NS_PER_S  # beyond the case's limit: the supervisor looks ten times a second, and ending ranks takes time

RULES = {
    "stability.facts": "each start of the ranks tells environment, model (of the case) and data, the same throughout",
    "stability.model": "the model has as many parameters as the case's file of it says",
    "stability.sessions": "sessions are numbered from 1, each of a later attempt, the last of the attempt that counts",
    "stability.time": "times of a session go forward, and steps take time and do not overlap",
    "stability.starts": "each start follows the end of the one before, which a crash with its class tells once",
    "stability.steps": "a start goes on from step 0 or from a checkpoint that was saved, and steps follow each other",
    "stability.saved": "a checkpoint is told behind the last step, wherever one is due and before the next step",
    "stability.told": "nothing is told before it happened: the events' own clock has come as far as the times that they tell",
    "stability.retold": "what earlier attempts recorded is told again as it was, but for a tail",
    "stability.silence": "nothing lasts longer than the case's limits without a crash being told",
    "stability.loss": "losses are numbers below what the case calls diverged, and no stretch of them occurs at two places",
    "stability.duration": "the supervisor's end comes after the case's duration, and the training goes on until then",
    "stability.injected": "the faults of the case were put in, all of them, each once, and no other",
    "stability.detected": "each fault that was put in is told once, in its class, and no other is told (cases with faults)",
    "stability.clock": "no wall clock was set while the training went on (warning)",
    "stability.rehearsal": "no fault was put in on purpose (warning)",
}

EVENTS = stability_events.EVENTS


@dataclass(slots=True)
class Life:
    """One start of the ranks, to its end: positions on the run's own line of time, in ns."""

    session: int
    start: Start
    steps: list[Step] = field(default_factory=list)
    ends_ns: list[int] = field(default_factory=list)
    saved: int = -1  # the step that follows the last checkpoint


@dataclass(slots=True)
class Measured:
    """Everything on one line of time; `offset_ns` is what the current session's clock is moved by."""

    case: Case
    attempt: int = 0
    told: list[Event] = field(default_factory=list)
    sessions: list[Session] = field(default_factory=list)
    offset_ns: int = 0
    lives: list[Life] = field(default_factory=list)
    crashes: list[tuple[int, Crash]] = field(default_factory=list)  # with the number of the session that noted it
    saved: set[int] = field(default_factory=lambda: {0})
    steps_clocks: int = 0
    injected: list[Injected] = field(default_factory=list)
    facts: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)
    devices: set[str] = field(default_factory=set)
    ended_ns: int | None = None
    last_ns: int = 0
    heard_ns: int = 0
    latest_ns: int = 0  # of the current session's own clock, as far as anything tells
    stepped_ns: int = 0  # what the wall clock was set by in it
    early: tuple[int, int] | None = None  # (time since the session's begin, t) of the first event in it that knew the future
    findings: list[Finding] = field(default_factory=list)

    def wrong(self, rule: str, expected: object, found: object) -> None:
        """Note a finding."""
        if len(self.findings) < 20:
            self.findings.append(error(f"stability.{rule}", self.case["id"], expected, found))

    def place(self, at_ns: int) -> int:
        """A time of the current session on the run's line; noted where it goes back."""
        placed = at_ns + self.offset_ns
        if placed < self.last_ns:
            self.wrong("time", f"a time of at least {self.last_ns} ns", placed)
        self.last_ns = max(self.last_ns, placed)
        return placed


condense = unchanged


def measure(case: Case, blocks: Blocks) -> Measured:
    """Go through the journal as it was told."""
    measured = Measured(case)
    for event in (event for _, events in blocks for event in events):
        measured.told.append(event)
        _take(measured, event)
    return measured


def _take(measured: Measured, event: Event) -> None:
    _clock(measured, event)
    match event:
        case CaseStart():
            measured.attempt = event.attempt
        case Environment() | Model() | Data():
            _fact(measured, event)
        case Session():
            _session(measured, event)
        case Start():
            _start(measured, event)
        case Step():
            _step(measured, event)
        case Saved():
            _saved(measured, event)
        case Crash():
            measured.crashes.append((len(measured.sessions), event))
        case ClockStep():
            measured.steps_clocks += 1
            measured.stepped_ns += event.step_ns
        case Injected():
            measured.injected.append(event)
        case End():
            measured.ended_ns = measured.place(event.at_ns)
            _silence(measured, measured.ended_ns, measured.case["hang_s"] + measured.case["start_s"])


def _clock(measured: Measured, event: Event) -> None:
    """How far the session's clock has come; an event that is told before then cannot be true, as the case began before the session."""
    at_ns = getattr(event, "end_ns", None) or getattr(event, "at_ns", None)
    of_next = isinstance(event, Session) or (isinstance(event, Crash) and event.fault in OF_SESSIONS)
    if at_ns is None or of_next or not measured.sessions:
        return
    measured.latest_ns = max(measured.latest_ns, at_ns)
    passed_ns = at_ns - measured.sessions[-1].at_ns
    if measured.early is None and passed_ns > event.t + EARLY_NS:
        measured.early = passed_ns, event.t


def _fact(measured: Measured, event: Environment | Model | Data) -> None:
    if isinstance(event, Environment):
        measured.devices.add(event.device_name)
        measured.facts.append(("environment", (event.python, event.torch, event.device, event.device_name)))
    elif isinstance(event, Model):
        measured.facts.append(("model", (event.parameters, event.weights, event.seed, event.dtype)))
    else:
        measured.facts.append(("data", (event.source, event.sha256, event.tokens)))


def _session(measured: Measured, event: Session) -> None:
    """Place the session: by the clock since boot within one boot, by the wall clock across a reboot.

    What the wall clock was set by before is no time, and one that begins in the past takes nothing back.
    """
    elapsed_ns = 0
    if measured.sessions:
        last = measured.sessions[-1]
        off_ns = max(event.wall_ns - last.wall_ns - measured.stepped_ns, measured.latest_ns - last.at_ns)
        elapsed_ns = last.elapsed_ns + (event.at_ns - last.at_ns if event.boot_id == last.boot_id else off_ns)
        if event.attempt <= last.attempt:
            measured.wrong("sessions", f"an attempt behind {last.attempt}", event.attempt)
    if (event.session, event.elapsed_ns) != (len(measured.sessions) + 1, elapsed_ns):
        expected = f"session {len(measured.sessions) + 1} after {elapsed_ns} ns"
        measured.wrong("sessions", expected, f"session {event.session} after {event.elapsed_ns} ns")
    measured.offset_ns = event.elapsed_ns - event.at_ns
    measured.sessions.append(event)
    measured.latest_ns, measured.stepped_ns, measured.early = event.at_ns, 0, None
    measured.heard_ns = measured.place(event.at_ns)


def _start(measured: Measured, event: Start) -> None:
    at_ns = measured.place(event.at_ns)
    last = measured.lives[-1].start.incarnation if measured.lives and measured.lives[-1].session == len(measured.sessions) else -1
    if event.incarnation <= last:
        measured.wrong("starts", f"an incarnation behind {last}", event.incarnation)
    if _just_saved(measured, event.step):
        measured.saved.add(event.step)
    if event.step not in measured.saved:
        measured.wrong("steps", "a start from a saved checkpoint", f"step {event.step}")
    kinds = [kind for kind, _ in measured.facts[-3:]]
    if kinds != ["environment", "model", "data"] or len(measured.facts) != 3 * (len(measured.lives) + 1):
        measured.wrong("facts", "environment, model, data before each start", kinds)
    waits = max(1, event.incarnation - last) * (measured.case["hang_s"] + measured.case["start_s"])
    _silence(measured, at_ns, waits)
    measured.lives.append(Life(len(measured.sessions), event))


def _just_saved(measured: Measured, step: int) -> bool:
    """Whether the ranks may have been killed between naming the checkpoint and telling of it: it was due behind the last step."""
    follows = bool(measured.lives) and step == measured.lives[-1].start.step + len(measured.lives[-1].steps)
    return follows and step % int(measured.case["checkpoint_every"]) == 0


def _saved(measured: Measured, event: Saved) -> None:
    """Behind the last step of the same life; from there a start may go on."""
    begin_ns, end_ns = measured.place(event.begin_ns), measured.place(event.end_ns)
    number = _next(measured)
    if event.step != number or end_ns < begin_ns:
        measured.wrong("saved", f"a checkpoint before step {number}, of at least 0 ns", f"step {event.step}, {end_ns - begin_ns} ns")
    measured.heard_ns = measured.last_ns
    measured.saved.add(event.step)
    if measured.lives:
        measured.lives[-1].saved = event.step


def _next(measured: Measured) -> int | None:
    """The step that comes next in the life that goes on; None where none does."""
    if not measured.lives or measured.lives[-1].session != len(measured.sessions):
        return None
    return measured.lives[-1].start.step + len(measured.lives[-1].steps)


def _step(measured: Measured, event: Step) -> None:
    begin_ns, end_ns = measured.place(event.begin_ns), measured.place(event.end_ns)
    number = _next(measured)
    if number is None:
        measured.wrong("starts", "a start before a step", f"step {event.step}")
        return
    life = measured.lives[-1]
    if event.step != number:
        measured.wrong("steps", f"step {number}", event.step)
    if life.steps and number % measured.case["checkpoint_every"] == 0 and life.saved != number:
        measured.wrong("saved", f"a checkpoint before step {number}", "none")
    if end_ns <= begin_ns:
        measured.wrong("time", "a step that takes time", f"step {event.step}")
    if not math.isfinite(event.loss) or not 0 <= event.loss <= measured.case["diverged_above"]:
        measured.wrong("loss", f"a loss of at most {measured.case['diverged_above']}", event.loss)
    _silence(measured, end_ns, measured.case["hang_s" if life.steps else "start_s"])
    life.steps.append(event)
    life.ends_ns.append(end_ns)


def _silence(measured: Measured, at_ns: int, limit_s: int) -> None:
    """A sign of life at `at_ns`: not too long after the one before."""
    limit_ns = limit_s * NS_PER_S + SILENCE_NS
    if at_ns - measured.heard_ns > limit_ns:
        measured.wrong("silence", f"a sign of life or a crash within {limit_ns} ns", f"{at_ns - measured.heard_ns} ns")
    measured.heard_ns = at_ns


def rules(case: Case, measured: Measured) -> Iterator[Finding]:
    """What is wrong with the case as a whole, after what was wrong with its events."""
    yield from measured.findings
    where = case["id"]
    if not measured.lives or not any(life.steps for life in measured.lives):
        yield error("stability.steps", where, "a start and a step", "none")
        return
    expected = {("model", case["seed"], case["dtype"]), ("data", case["data"])}
    found = {("model", *fact[2:]) if kind == "model" else (kind, fact[0]) for kind, fact in measured.facts if kind != "environment"}
    if found != expected or len(set(measured.facts)) != 3:
        yield error("stability.facts", where, f"the same facts throughout: {sorted(map(str, expected))}", sorted(map(str, found)))
    named = case["model"].get("parameters")
    counts = sorted({fact[0] for kind, fact in measured.facts if kind == "model"})
    if named is not None and counts != [named]:
        yield error("stability.model", where, f"{named} parameters", counts)
    if measured.early is not None:
        latest = f"at most {measured.early[1]} ns behind the session's begin, since it was recorded then"
        yield error("stability.told", where, latest, f"{measured.early[0]} ns")
    if not measured.sessions or measured.sessions[-1].attempt != measured.attempt:
        yield error("stability.sessions", where, f"a last session of attempt {measured.attempt}", len(measured.sessions))
    yield from _check_starts(case, measured)
    if measured.ended_ns is None or measured.ended_ns < case["duration_s"] * NS_PER_S:
        yield error("stability.duration", where, f"training until {case['duration_s']} s are over", measured.ended_ns)
    losses = {event.step: event.loss for life in measured.lives for event in life.steps}
    yield from copied(where, list(losses.values()))
    yield from _injections(case, measured)
    if measured.steps_clocks and not case["faults"]:
        yield warning("stability.clock", where, "no step of the wall clock", measured.steps_clocks)


def kept(case: Case, measured: Measured, evidence: Evidence, folder: str) -> Iterator[Finding]:
    """What is wrong with the story of earlier attempts, whose events are in files of their own."""
    yield from retold(case, measured.told, evidence, folder, (case["hang_s"] + case["start_s"]) * NS_PER_S + SILENCE_NS)


def _check_starts(case: Case, measured: Measured) -> Iterator[Finding]:
    """In each session every incarnation but the last has its crash; between two sessions there is one of its own."""
    for number in range(1, len(measured.sessions) + 1):
        mine = [crash for session, crash in measured.crashes if session == number]
        ended = sorted(crash.incarnation for crash in mine if crash.fault not in OF_SESSIONS)
        lives = [life.start.incarnation for life in measured.lives if life.session == number]
        last, where = number == len(measured.sessions), f"{case['id']}: session {number}"
        late = measured.sessions[number - 1].elapsed_ns >= case["duration_s"] * NS_PER_S  # nothing was left to do
        goes_on = not last or lives[-1:] == [len(ended)] or (late and not mine)
        if ended != list(range(len(ended))) or any(life > len(ended) for life in lives) or not goes_on:
            yield error("stability.starts", where, f"one crash for each incarnation but the last of {lives}", ended)
        if len(mine) - len(ended) != (0 if last else 1):
            yield error(
                "stability.starts", where, "one crash of the supervisor or the host before a further session", len(mine) - len(ended)
            )


def _injections(case: Case, measured: Measured) -> Iterator[Finding]:
    """Faults put in against faults told, by class."""
    numbers = [event.number for event in measured.injected]
    known = all(n < len(case["faults"]) and case["faults"][n]["kind"] == e.fault for n, e in zip(numbers, measured.injected, strict=True))
    if not known or sorted(numbers) != list(range(len(case["faults"]))):
        yield error("stability.injected", case["id"], "all faults of the case, each once", [(e.number, e.fault) for e in measured.injected])
    if not case["faults"]:
        return
    yield warning("stability.rehearsal", case["id"], "no fault put in on purpose", f"{len(numbers)} of {len(case['faults'])} faults")
    wanted = Counter(SEEN_AS[event.fault] for event in measured.injected if event.fault in SEEN_AS)
    told: Counter[str] = Counter(crash.fault for _, crash in measured.crashes)
    steps = sum(event.fault == "clock_step" for event in measured.injected)
    if wanted != told or steps != measured.steps_clocks:
        expected = f"{dict(sorted(wanted.items()))}, {steps} clock steps"
        found = f"{dict(sorted(told.items()))}, {measured.steps_clocks} clock steps"
        yield error("stability.detected", case["id"], expected, found)


def crashes(measured: Measured) -> int:
    """C of F12: crashes that were told, and attempts of which the journal does not tell."""
    return len(measured.crashes) + measured.attempt - len(measured.sessions)


def stretches(measured: Measured) -> list[int]:
    """Fault-free times in ns: from the begin, or the first step after a crash, to the last step before one, or the end."""
    found, last = [], len(measured.lives) - 1 if measured.lives[-1].session == len(measured.sessions) else -1
    for number, life in enumerate(measured.lives):
        if not life.ends_ns:
            continue
        begin_ns = life.ends_ns[0] if number else 0
        end_ns = measured.ended_ns if number == last and measured.ended_ns is not None else life.ends_ns[-1]
        found.append(end_ns - begin_ns)
    return found


def recoveries(measured: Measured) -> list[int]:
    """From the last step before each crash to the end of the first one after it, in ns."""
    stepped = [life for life in measured.lives if life.ends_ns]
    return [after.ends_ns[0] - before.ends_ns[-1] for before, after in pairwise(stepped)]


def productive_ns(measured: Measured) -> int:
    """Time of the steps that counted: of a step that was done again after a crash, the last time."""
    return sum({event.step: event.end_ns - event.begin_ns for life in measured.lives for event in life.steps}.values())


def metrics(_: Case, measured: Measured) -> dict[str, Metric]:
    """Crashes, hours, seconds of recovery, share of productive time."""
    assert measured.ended_ns is not None
    found = {
        "crashes": Metric(Fraction(crashes(measured)), "crashes", "C of F12: crashes of every class, and attempts cut off"),
        "longest_fault_free_h": Metric(Fraction(max(stretches(measured)), NS_PER_H), "h", "h of F13: longest time between faults"),
        "duration_h": Metric(Fraction(measured.ended_ns, NS_PER_H), "h", "first session's begin to the end, gaps and all"),
        "goodput": Metric(Fraction(productive_ns(measured), measured.ended_ns), "1", "time of steps that counted / duration"),
        "steps": Metric(Fraction(len({event.step for life in measured.lives for event in life.steps})), "steps", "optimizer steps"),
    }
    if took := recoveries(measured):
        found["recovery_mean_s"] = Metric(mean(took) / NS_PER_S, "s", "R: last step before to first step after", **over(took, NS_PER_S))
    for name, count in sorted(Counter(crash.fault for _, crash in measured.crashes).items()):
        found[f"crashes_{name}"] = Metric(Fraction(count), "crashes", f"crashes of class {name}")
    return found


def series(_: Case, measured: Measured) -> dict[str, Series]:
    """Loss by step, each as it was first done, in nats a token."""
    first: dict[int, float] = {}
    for life in measured.lives:
        for event in life.steps:
            first.setdefault(event.step, event.loss)
    losses = [exact(loss) for _, loss in sorted(first.items())]
    return {"loss": points(len(losses), lambda begin, end: mean(losses[begin:end]), "nat/token", 0, CURVE_STEPS)}


def facts(case: Case, _: Measured) -> dict[str, str]:
    """Weights, and whether faults were put in."""
    return {"weights": "random", "rehearsal": "yes" if case["faults"] else "no"}


def traits(_: Case, measured: Measured) -> Traits:
    """Durations of steps, and the devices."""
    durations = [event.end_ns - event.begin_ns for life in measured.lives for event in life.steps]
    return Traits({"step": durations}, devices=frozenset(measured.devices))
