"""A supervised training in a built run, with two crashes, and an attack on each of its rules."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.adversarial import builder
from tests.adversarial.attacks import add
from tests.adversarial.builder import Bench, Event
from tests.adversarial.checkpoints import CASE as CHECKPOINT_CASE

STABILITY = "stability-x"
CASE = {name: value for name, value in CHECKPOINT_CASE.items() if name not in {"rounds", "raw_bytes"}} | {
    "id": STABILITY, "suite": "stability", "processes": 1, "duration_s": 40, "checkpoint_every": 4, "max_restarts": 9, "hang_s": 3,
    "start_s": 6, "diverged_above": 20.0, "faults": [],
}  # fmt: skip
S = 10**9
BOOT_NS = 100 * S


def fact(kind: str) -> Event:
    """One of the events before each start."""
    [found] = [event for event in builder.start(STABILITY, "stability") if event["e"] == kind]
    return found


def life(made: list[Event], incarnation: int, step: int, at: int, steps: int) -> int:
    """A start two seconds after `at`, then steps of one second (odd ones 1 ms less) with a checkpoint before each fourth; the time behind the last."""
    data = {"e": "data", "source": "shakespeare.txt", "sha256": "0" * 64, "tokens": 4096}
    made += [fact("environment"), fact("model"), data, {"e": "start", "incarnation": incarnation, "step": step, "at_ns": at + 2 * S}]
    at += 2 * S
    for number in range(step, step + steps):
        made.append({"e": "step", "step": number, "begin_ns": at + number % 2 * 10**6, "end_ns": at + S, "loss": 4.0 - number / 64})
        at += S
        if (number + 1) % 4 == 0:
            made.append({"e": "saved", "step": number + 1, "begin_ns": at, "end_ns": at + 10**6})
            at += 10**6
    return at


def crash(fault: str, incarnation: int, at: int) -> Event:
    return {"e": "crash", "fault": fault, "at_ns": at, "incarnation": incarnation, "detail": "made up"}


def session(number: int, attempt: int, at: int, elapsed: int, boot: str = "b0", wall: int = 0) -> Event:
    return {
        "e": "session",
        "session": number,
        "attempt": attempt,
        "boot_id": boot,
        "at_ns": at,
        "wall_ns": wall or builder.WALL_NS + at - BOOT_NS,
        "elapsed_ns": elapsed,
    }


def events() -> list[Event]:
    """Ten steps, a crash, three again from step 8, a crash, and on from step 8 until 40 s are over."""
    made: list[Event] = [session(1, 1, BOOT_NS, 0)]
    at = life(made, 0, 0, BOOT_NS, 10)
    made.append(crash("process_end", 0, at + S))
    at = life(made, 1, 8, at + S, 3)
    made.append(crash("hang", 1, at + 3 * S))
    at = life(made, 2, 8, at + 3 * S, 18)
    made.append({"e": "end", "at_ns": max(at, BOOT_NS + 40 * S)})
    return told(made)


def told(made: list[Event]) -> list[Event]:
    """As the supervisor tells them: those of earlier sessions within a few microseconds, since a copied journal is told at once."""
    last = max(number for number, event in enumerate(made) if event["e"] == "session")
    t, found = 0, [builder.start(STABILITY, "stability")[0]]
    for number, event in enumerate(made):
        at = event.get("end_ns", event.get("at_ns", 0)) if number > last else 0
        t = max(t + 1, at - made[last]["at_ns"])
        found.append({**event, "t": t})
    return builder.end(found)


def with_case(bench: Bench, made: list[Event] | None = None, **fields: Any) -> list[Event]:
    """Add the case to a run about to be sealed; its events may still be changed."""
    case = copy.deepcopy(CASE) | fields
    bench.plan.document["cases"].append(case)
    bench.handed[STABILITY] = {"case": copy.deepcopy(case), "attempt": 1}
    bench.events[STABILITY] = {"events-00000.jsonl": made or events()}
    bench.states[STABILITY] = ("done", None)
    bench.beaten_late.add(STABILITY)
    return bench.events[STABILITY]["events-00000.jsonl"]


def build(folder: Path, made: list[Event] | None = None, **fields: Any) -> Path:
    """A sealed run that holds the case."""
    return builder.build(folder, lambda bench: with_case(bench, made, **fields))


def of(kind: str, events: list[Event]) -> list[Event]:
    return [event for event in events if event["e"] == kind]


def against(rule: str, name: str, change: Callable[[list[Event]], Any], *also: str, **fields: Any) -> None:
    """An attack by a vendor who seals changed events of this case."""
    act = lambda bench: change(with_case(bench, **fields))  # noqa: E731
    add(f"stability.{rule}", "sealed", name, act, *(f"stability.{other}" for other in also))


def slower(events: list[Event]) -> None:
    """Ten minutes in which nothing happened."""
    for event in events[events.index(of("step", events)[5]) :]:
        for name in ("t", "at_ns", "begin_ns", "end_ns"):
            if name in event:
                event[name] += 600 * S


ONE = {"faults": [{"kind": "kill_rank", "step": 9}, {"kind": "hang", "step": 10}]}
PUT_IN = [{"e": "injected", "t": 0, "number": n, "fault": f["kind"], "step": 9 + n, "at_ns": BOOT_NS} for n, f in enumerate(ONE["faults"])]


def hours(events: list[Event]) -> None:
    """Ten minutes of a training, told within the first minute."""
    slower(events)
    for number, event in enumerate(events):
        event["t"] = number


def smaller(bench: Bench) -> None:
    """All starts of a model of a thousand parameters, in a case whose file names more."""
    with_case(bench)
    for case in (bench.plan.document["cases"][-1], bench.handed[STABILITY]["case"]):
        case["model"]["parameters"] = 7_321_948_160


def copied(events: list[Event]) -> None:
    """The losses of the last life, the second half like the first."""
    steps = of("step", events)[13:]
    for number, event in enumerate(steps):
        event["loss"] = 3.0 - number % (len(steps) // 2) / 64


def put_in(events: list[Event], *numbers: int) -> None:
    """Tell of faults that were put in."""
    at = events.index(of("step", events)[0])
    events[at:at] = [{**PUT_IN[number], "t": events[at]["t"]} for number in numbers]


against("facts", "another model after the restart", lambda e: of("model", e)[1].update(parameters=999))
against("facts", "no word of the data", lambda e: e.remove(of("data", e)[1]))
against("sessions", "a session that was never begun", lambda e: e.remove(of("session", e)[0]), "starts", "steps", "time", "silence")
against("sessions", "time that was there before the begin", lambda e: of("session", e)[0].update(elapsed_ns=10**12))
against("time", "two steps at once", lambda e: of("step", e)[4].update(begin_ns=of("step", e)[3]["begin_ns"]))
against("time", "a step of no time", lambda e: of("step", e)[4].update(end_ns=of("step", e)[4]["begin_ns"]))
against("starts", "a crash left out", lambda e: e.remove(of("crash", e)[0]))
against("starts", "a crash told twice", lambda e: e.insert(e.index(of("crash", e)[0]), of("crash", e)[0]))
against("starts", "a start less", lambda e: of("start", e)[1].update(incarnation=0))
against("steps", "on from a checkpoint that never was", lambda e: of("start", e)[1].update(step=9))
against("steps", "a bad step left out", lambda e: e.remove(of("step", e)[5]), "saved")
add("stability.model", "sealed", "a thousandth of the model", smaller)
against("saved", "a checkpoint that nobody took the time for", lambda e: e.remove(of("saved", e)[0]))
against("saved", "a checkpoint of steps to come", lambda e: of("saved", e)[1].update(step=12), "steps")
against("saved", "a checkpoint done before it began", lambda e: of("saved", e)[0].update(end_ns=of("saved", e)[0]["begin_ns"] - 1), "time")
against("told", "ten minutes within one", hours, "silence")
against("told", "an end that is yet to come", lambda e: of("end", e)[0].update(at_ns=BOOT_NS + 44 * S))
against("silence", "ten minutes of hanging, not told", slower)
against("loss", "a loss that had diverged", lambda e: of("step", e)[3].update(loss=21.0))
against("loss", "a stretch of losses twice", copied)
against("duration", "ended early", lambda _: None, duration_s=60)
against("duration", "no end", lambda e: e.remove(of("end", e)[0]))
against("injected", "a fault that the case does not name", lambda e: put_in(e, 0))
against("injected", "a fault put in twice", lambda e: put_in(e, 0, 0, 1), "detected", **ONE)
against("detected", "a fault put in and not told", lambda e: (put_in(e, 0, 1), of("crash", e)[1].update(fault="loss")), **ONE)
against("detected", "a fault told that was not put in", lambda e: put_in(e, 0), faults=ONE["faults"][:1])
against("injected", "a fault never put in", lambda e: put_in(e, 0), "detected", **ONE)
