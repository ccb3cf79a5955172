"""A case of base specifications in a built run, and an attack on each of its rules."""

from __future__ import annotations

import copy
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

from tests.adversarial import builder
from tests.adversarial.attacks import add
from tests.adversarial.builder import Bench, Event
from verify.words import places, seed, word

SPECS = "specifications-x"
CASE = {
    "id": SPECS, "suite": "specifications", "section": "specifications", "cards": 1, "processes": 1, "modes": ["float32", "int8", "int16"],
    "shapes": [[32, 32, 32]], "copies": ["on_card", "stream"], "copy_bytes": 1048576, "repeats": 3, "repeat_ms": 1, "samples": 4,
    "seed": 7, "time_limit_s": 60,
}  # fmt: skip
BITS = {"float32": 24, "int8": 8}
DIGEST = {"float32": "5" * 64, "int8": "6" * 64}


def operand(name: str, index: int, bits: int) -> int:
    """One whole-number element of an operand."""
    return (word(seed(7, name), index) >> (32 - bits)) - 2 ** (bits - 1)


def entry(mode: str, place: int, rounded: Callable[[int], int] = int) -> float:
    """The exact entry of the 32 x 32 x 32 product, its operands changed by `rounded` first."""
    row, column = divmod(place, 32)
    bits = BITS[mode]
    whole = sum(rounded(operand("a", row * 32 + i, bits)) * rounded(operand("b", column * 32 + i, bits)) for i in range(32))
    return whole if mode == "int8" else float(Fraction(whole, 4 ** (bits - 1)))


def series(kind: str, fields: dict[str, Any], begin: int) -> list[Event]:
    """Five repeats of 1 ms: one call, then three, as many as last the case's millisecond."""
    return [
        {"t": begin + number * 2_000_000 + 1_010_000, "e": kind, **fields, "repeat": number, "phase": "measured" if number > 1 else "warmup",
         "calls": 3 if number else 1, "begin_ns": begin + number * 2_000_000, "duration_ns": 1_000_000, "clock": "device"}
        for number in range(5)
    ]  # fmt: skip


def copied(kind: str) -> list[int]:
    factor = 2 if kind == "stream" else 1
    asked = places(seed(7, kind), 4, 262144)
    return [factor * (word(seed(7, "copy"), place) >> 10) for place in asked]


def events() -> list[Event]:
    """All events of the case, as a device that computes exactly would leave them."""
    made = [*builder.start(SPECS, "specifications")[:2], {"t": 20, "e": "memory", "size_bytes": 8 * 10**9}]
    for index, mode in enumerate(BITS):
        begin = 1_000_000 + 20_000_000 * index
        fields = {"mode": mode, "shape": [32, 32, 32]}
        asked = places(seed(DIGEST[mode], "entries"), 4, 1024)
        made += series("matmul", fields, begin)
        made.append({"t": begin + 15_000_000, "e": "product", **fields, "output_sha256": DIGEST[mode], "places": asked,
                     "values": [entry(mode, place) for place in asked], "residual": 0.0})  # fmt: skip
    made.append({"t": 50_000_000, "e": "unavailable", "what": "int16", "reason": "no such product"})
    for index, kind in enumerate(CASE["copies"]):
        begin = 60_000_000 + 20_000_000 * index
        fields = {"kind": kind, "size_bytes": 1048576}
        made += series("copy", fields, begin)
        made.append({"t": begin + 15_000_000, "e": "copied", **fields, "places": places(seed(7, kind), 4, 262144), "values": copied(kind)})
    return builder.end(made)


def with_case(bench: Bench) -> list[Event]:
    """Add the case to a run about to be sealed; its events may still be changed."""
    case = copy.deepcopy(CASE)
    bench.plan.document["cases"].append(case)
    bench.handed[SPECS] = {"case": copy.deepcopy(case), "attempt": 1}
    bench.events[SPECS] = {"events-00000.jsonl": events()}
    bench.states[SPECS] = ("done", None)
    return bench.events[SPECS]["events-00000.jsonl"]


def build(folder: Path) -> Path:
    """A sealed run that holds the case, untouched."""
    return builder.build(folder, with_case)


def of(kind: str, events: list[Event]) -> list[Event]:
    return [event for event in events if event["e"] == kind]


def against(rule: str, name: str, change: Callable[[list[Event]], Any], *also: str) -> None:
    """An attack by a vendor who seals changed events of this case."""
    add(f"specifications.{rule}", "sealed", name, lambda bench: change(with_case(bench)), *(f"specifications.{other}" for other in also))


def as_if(rounded: Callable[[int], int]) -> Callable[[list[Event]], None]:
    """A float32 product made of operands of a lower precision."""

    def change(events: list[Event]) -> None:
        check = of("product", events)[0]
        check["values"] = [entry("float32", place, rounded) for place in check["places"]]

    return change


def slow_clock(events: list[Event]) -> None:
    for event in events:
        event["t"] *= 10
        if "begin_ns" in event:
            event["begin_ns"] *= 10


def of_another(events: list[Event]) -> None:
    """The digest and the places of another product."""
    floats, integers = of("product", events)
    integers.update(output_sha256=floats["output_sha256"], places=floats["places"])
    integers["values"] = [entry("int8", place) for place in floats["places"]]


def blind(events: list[Event]) -> None:
    """Sampled entries are off by a little, a residual over all of them by nothing."""
    values = of("product", events)[0]["values"]
    values[:] = [value * (1 + 2.0**-24) for value in values]


def repeated(bench: Bench) -> None:
    """Four repeats, each the best one."""
    made = with_case(bench)
    for case in (bench.plan.document["cases"][-1], bench.handed[SPECS]["case"]):
        case["repeats"] = 4
    for event in [event for event in made if event.get("repeat") == 4]:
        made.insert(made.index(event) + 1, event | {"repeat": 5, "begin_ns": event["begin_ns"] + 2_000_000, "t": event["t"] + 2_000_000})
    for event in made:
        event["t"] += 7 if "repeat" in event else 0


add("specifications.time", "sealed", "the best repeat four times", repeated)
against("calls", "three times the calls in the same time", lambda e: [x.update(calls=9) for x in e if x.get("phase") == "measured"])
against("time", "a repeat by another clock", lambda e: of("copy", e)[3].update(clock="host"))
against("places", "the digest of another product", of_another)
against("residual", "a residual that sees nothing", blind)
against("facts", "no memory size", lambda e: e.remove(of("memory", e)[0]))
against("series", "a slow repeat left out", lambda e: e.remove(of("matmul", e)[3]), "series")
against("series", "a shape that was not declared", lambda e: [x.update(shape=[32, 32, 64]) for x in e if x.get("mode") == "int8"], "places")
against("series", "a check left out", lambda e: e.remove(of("product", e)[0]))
against("series", "something else is unavailable", lambda e: of("unavailable", e)[0].update(what="float64"))
against("time", "a device's clock that runs slow", slow_clock)
against("time", "faster than the wall clock saw", lambda e: of("copy", e)[3].update(duration_ns=1_200_000))
against("places", "entries of the vendor's choice", lambda e: of("product", e)[0].update(places=[0, 1, 2, 3]))
against("product", "TF32 for FP32", as_if(lambda whole: round(whole / 2**13) * 2**13))
against("product", "an integer product that is one off", lambda e: of("product", e)[1]["values"].__setitem__(0, 1))
against("product", "a value beyond all bounds", lambda e: of("product", e)[0]["values"].__setitem__(0, 1e300))
against("residual", "most of the product is missing", lambda e: of("product", e)[0].update(residual=0.5))
against("copied", "a copy that did not arrive", lambda e: of("copied", e)[0].update(values=[0, 0, 0, 0]))
against("copied", "words of another place", lambda e: of("copied", e)[1].update(places=[1, 2, 3, 4]))
