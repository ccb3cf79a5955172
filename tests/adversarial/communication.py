"""Cases of two collectives in a built run, and an attack on each of their rules."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.adversarial import builder
from tests.adversarial.attacks import add
from tests.adversarial.builder import Bench, Event
from verify.metrics import communication
from verify.words import places, seed

DIGEST = "7" * 64
REDUCE = {
    "id": "all-reduce-x", "suite": "communication", "section": "training", "nodes": 1, "cards": 2, "processes": 2, "operation": "all_reduce",
    "elements": 65536, "dtype": "float32", "warmups": 2, "trials": 4, "samples": 4, "fabric_bytes": 4096, "seed": 7, "time_limit_s": 60,
}  # fmt: skip
ACROSS = REDUCE | {"id": "pt2pt-x", "nodes": 2, "operation": "pt2pt", "peer": 1}
MS = 1_000_000


def series(phase: str, begin_ns: int, durations: list[int]) -> Event:
    return {
        "t": begin_ns + sum(durations) + 1000,
        "e": "trials",
        "phase": phase,
        "begin_ns": begin_ns,
        "clock": "device",
        "duration_ns": durations,
    }


def events(case: dict[str, Any], rank: int) -> list[Event]:
    """What a rank leaves: trials of 1 ms and a little, a checked result, on several nodes the network measured."""
    node = rank if case["nodes"] > 1 else 0
    made = [event for event in builder.start(case["id"], "communication", rank, 2) if event["e"] != "model"]
    made += [
        {"t": 20, "e": "group", "library": "gloo", "settings": {}},
        {"t": 30, "e": "place", "node": node, "local_rank": 0 if node else rank - node, "host": f"{node:016x}", "memory_bytes": 10**9},
    ]
    if case["nodes"] > 1:
        made[-1]["local_rank"] = 0
        made.append({"t": 10 * MS, "e": "fabric", "peer": 1 - rank, "role": "receive" if rank else "send", "size_bytes": 4096,
                     "clock": "device", "duration_ns": [MS] * 10})  # fmt: skip
    count = communication.compared(case, rank)
    asked = places(seed(DIGEST, "result"), 4, count) if count else []
    values = [communication.value(case, rank, place) for place in asked]
    made.append({"t": 20 * MS, "e": "result", "elements": count, "mismatches": 0, "digest": DIGEST, "places": asked, "values": values})
    made.append(series("warmup", 30 * MS, [2 * MS + 1, 2 * MS + 17]))
    made.append(series("measured", 40 * MS, [MS + 3 + rank, MS + 11, MS + 7, MS + 5]))
    made.append({"t": 80 * MS, "e": "after", "elements": case["elements"], "infinite": 0})
    return builder.end(made)


def with_case(bench: Bench, source: dict[str, Any]) -> list[list[Event]]:
    """Add a case to a run about to be sealed; both ranks' events may still be changed."""
    case = copy.deepcopy(source)
    bench.plan.document["cases"].append(case)
    bench.handed[case["id"]] = {"case": copy.deepcopy(case), "attempt": 1}
    ranks = [events(case, 0), events(case, 1)]
    bench.events[case["id"]] = {"events-00000.jsonl": ranks[0], "events-rank0001-00000.jsonl": ranks[1]}
    bench.states[case["id"]] = ("done", None)
    return ranks


def build(folder: Path) -> Path:
    """A sealed run that holds both cases, untouched."""
    return builder.build(folder, lambda bench: [with_case(bench, REDUCE), with_case(bench, ACROSS)])


def of(kind: str, events: list[Event], number: int = 0) -> Event:
    return [event for event in events if event["e"] == kind][number]


def against(rule: str, name: str, change: Callable[[list[list[Event]]], Any], *also: str, source: dict[str, Any] = REDUCE) -> None:
    """An attack by a vendor who seals changed events of one of the cases."""
    rest = tuple(f"communication.{other}" for other in also)
    add(f"communication.{rule}", "sealed", name, lambda bench: change(with_case(bench, source)), *rest)


def more_cards(bench: Bench) -> None:
    """Two ranks that claim the row of eight cards."""
    with_case(bench, REDUCE | {"cards": 8})


def faster(ranks: list[list[Event]]) -> None:
    """Trials that add up to a fifth of what the host's clock saw."""
    event = of("trials", ranks[0], 1)
    event["t"] += 15 * MS


def another_time(ranks: list[list[Event]]) -> None:
    """Rank 1's trials from a second later."""
    for event in ranks[1][ranks[1].index(of("trials", ranks[1])) :]:
        for name in ("t", "begin_ns"):
            if name in event:
                event[name] += 1000 * MS


def smaller(ranks: list[list[Event]]) -> None:
    """Half of the buffer moved only."""
    for events in ranks:
        of("after", events)["elements"] = 32768


add("communication.cards", "sealed", "cards that have no rank", more_cards)
against("facts", "a rank that does not say where it runs", lambda ranks: ranks[1].remove(of("place", ranks[1])))
against("facts", "another software on one rank", lambda ranks: of("environment", ranks[1]).update(torch="2.0.0"))
against("facts", "another library on one rank", lambda ranks: of("group", ranks[1]).update(library="mpi"))
against("placement", "both ranks in one place", lambda ranks: of("place", ranks[1]).update(local_rank=0))
against("placement", "a peer on the same node", lambda ranks: of("place", ranks[1]).update(node=0), source=ACROSS)
against("fabric", "a network that was not measured", lambda ranks: ranks[0].remove(of("fabric", ranks[0])), source=ACROSS)
against("fabric", "slow rounds left out", lambda ranks: of("fabric", ranks[1])["duration_ns"].pop(), source=ACROSS)
against(
    "fabric",
    "a slower network than there was time for",
    lambda ranks: of("fabric", ranks[0]).update(duration_ns=[2 * MS] * 10),
    source=ACROSS,
)
against("together", "trials of two runs", another_time)
against("result", "another result on one rank", lambda ranks: of("result", ranks[1]).update(digest="8" * 64), "places")
against("trials", "a slow trial left out", lambda ranks: of("trials", ranks[0], 1)["duration_ns"].pop())
against("trials", "a rank without trials", lambda ranks: ranks[1].remove(of("trials", ranks[1], 1)))
against("time", "faster than the wall clock saw", faster)
against("time", "slower than the wall clock saw", lambda ranks: of("trials", ranks[0], 1).update(duration_ns=[9 * MS] * 4))
against("time", "a series before the one before ended", lambda ranks: of("trials", ranks[0], 1).update(begin_ns=29 * MS))
against("result", "elements that differ", lambda ranks: of("result", ranks[1]).update(mismatches=1))
against("result", "a part compared only", lambda ranks: of("result", ranks[0]).update(elements=1024))
against("places", "elements of the vendor's choice", lambda ranks: of("result", ranks[0]).update(places=[0, 1, 2, 3]))
against("values", "one rank's data taken for the sum", lambda ranks: of("result", ranks[0]).update(values=[1, 2, 3, 4]))
against("overflow", "a sum that overflowed", lambda ranks: of("after", ranks[0]).update(infinite=12))
against("overflow", "a smaller buffer than the case's", smaller)
