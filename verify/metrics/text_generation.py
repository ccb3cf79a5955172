"""Text generation in a closed loop: throughput, first-token latency and load time.

Throughput is generated tokens over the wall time of the measured window, prefill and queueing included (ruling 7); the
decode-only figure of the report's era stands beside it as `throughput_legacy`. Load time is the mean of warm loads
(ruling 19).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Annotated, Literal

import msgspec

from verify.events import Environment, Event, Model, Natural
from verify.findings import Finding, error
from verify.metrics import Blocks, Case, Metric, Window, mean, over
from verify.plausibility import Traits, Work, llama_flop

SECTION = "inference"
PART = "text_generation"
NS_PER_S = 10**9
NS_PER_MS = 10**6

RULES = {
    "text_generation.facts": "the first rank records its environment and its model (seed and dtype of the case), once each",
    "text_generation.loads": "the case's number of loads, the first cold, the others warm, each taking time",
    "text_generation.rounds": "rounds 0, 1, 2, ... with the case's warm-up, then its measured rounds",
    "text_generation.requests": "as many requests a round as the case's concurrency, each submitted once in its round",
    "text_generation.prompt": "every prompt has the case's input_tokens",
    "text_generation.output": "every request gives exactly the case's output_tokens, as ids of the vocabulary, no empty chunk",
    "text_generation.finish": "every request finishes, once, by length",
    "text_generation.window": "the measured window takes time",
}


class Load(Event, frozen=True, tag="load"):
    """Engine and tokenizer were made from `begin_ns` to `t`."""

    begin_ns: Natural
    kind: Literal["cold", "warm"]


class RoundStart(Event, frozen=True, tag="round_start"):
    """A round of requests begins."""

    round: Natural
    phase: Literal["warmup", "measured"]


class Submit(Event, frozen=True, tag="submit"):
    """A request was handed to the engine."""

    request: Natural
    round: Natural
    prompt_tokens: Natural


class Tokens(Event, frozen=True, tag="tokens"):
    """New token ids of a request arrived, in order."""

    request: Natural
    ids: Annotated[list[Natural], msgspec.Meta(min_length=1)]


class Finish(Event, frozen=True, tag="finish"):
    """A request came to its end."""

    request: Natural
    reason: Literal["length", "error"]


EVENTS: tuple[type[Event], ...] = (Load, RoundStart, Submit, Tokens, Finish)


@dataclass(slots=True)
class Chunks:
    """Tokens events of one request that followed each other in a block, with nothing else of this request between them."""

    request: int
    first_ns: int
    last_ns: int
    first_tokens: int
    later_tokens: int
    largest: int


@dataclass(slots=True)
class Request:
    """One request: times in nanoseconds, tokens in the first chunk and after it."""

    round: int
    submit_ns: int
    first_ns: int | None = None
    last_ns: int = 0
    first_tokens: int = 0
    later_tokens: int = 0
    finished: bool = False

    @property
    def tokens(self) -> int:
        """Generated tokens."""
        return self.first_tokens + self.later_tokens


@dataclass(slots=True)
class Measured:
    """All requests and loads, and what was wrong with single events."""

    case: Case
    requests: dict[int, Request] = field(default_factory=dict)
    loads: list[Load] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    weights: str = "random"
    devices: set[str] = field(default_factory=set)
    rounds: int = 0
    in_flight: int = 0

    def wrong(self, rule: str, where: object, expected: object, found: object) -> None:
        """Note a finding of this suite."""
        self.findings.append(error(f"text_generation.{rule}", f"{self.case['id']}: {where}", expected, found))


def condense(case: Case, rank: int, events: list[Event]) -> list[Event | Chunks]:
    """Rank 0's events, those with tokens summed up by request; the other ranks only help it, their events are read for form alone."""
    del case
    found: list[Event | Chunks] = []
    under_way: dict[int, Chunks] = {}
    for event in events if rank == 0 else []:
        if type(event) is not Tokens:
            found.append(event)
            if isinstance(event, Submit | Finish):
                under_way.pop(event.request, None)
            continue
        ids, chunks = event.ids, under_way.get(event.request)
        largest = ids[0] if len(ids) == 1 else max(ids)
        if chunks is None:
            under_way[event.request] = chunks = Chunks(event.request, event.t, event.t, len(ids), 0, largest)
            found.append(chunks)
        else:
            chunks.last_ns = event.t
            chunks.later_tokens += len(ids)
            chunks.largest = max(chunks.largest, largest)
    return found


def measure(case: Case, blocks: Blocks) -> Measured:
    """Follow every request of rank 0."""
    measured = Measured(case)
    for _, events in blocks:
        for event in events:
            _take(measured, event)
    return measured


def _take(measured: Measured, event: Event | Chunks) -> None:
    match event:
        case Load():
            measured.loads.append(event)
        case RoundStart():
            _round(measured, event)
        case Submit():
            _submit(measured, event)
        case Chunks():
            _tokens(measured, event)
        case Finish():
            _finish(measured, event)
        case Environment():
            measured.facts.append("environment")
            measured.devices.add(event.device_name)
        case Model():
            measured.facts.append("model")
            measured.weights = event.weights
            expected = (measured.case["seed"], measured.case["dtype"])
            if (event.seed, event.dtype) != expected:
                measured.wrong("facts", "model", f"seed, dtype = {expected}", (event.seed, event.dtype))


def _round(measured: Measured, event: RoundStart) -> None:
    number = measured.rounds
    phase = "warmup" if number < measured.case["warmup_rounds"] else "measured"
    if (event.round, event.phase) != (number, phase):
        measured.wrong("rounds", f"round {number}", f"round {number}, {phase}", f"round {event.round}, {event.phase}")
    measured.rounds += 1


def _submit(measured: Measured, event: Submit) -> None:
    where = f"request {event.request}"
    measured.in_flight += 1
    if event.request in measured.requests or event.round != measured.rounds - 1 or measured.in_flight > measured.case["concurrency"]:
        measured.wrong(
            "requests",
            where,
            f"a new request of round {measured.rounds - 1}, at most {measured.case['concurrency']} in flight",
            f"round {event.round}, {measured.in_flight} in flight, seen before: {event.request in measured.requests}",
        )
    if event.prompt_tokens != measured.case["input_tokens"]:
        measured.wrong("prompt", where, f"{measured.case['input_tokens']} tokens", event.prompt_tokens)
    measured.requests.setdefault(event.request, Request(event.round, event.t))


def _tokens(measured: Measured, chunks: Chunks) -> None:
    request = measured.requests.get(chunks.request)
    where = f"request {chunks.request}"
    if request is None or request.finished:
        measured.wrong("output", where, "tokens between submit and finish", "tokens outside")
        return
    if chunks.largest >= measured.case["model"]["vocab_size"]:
        measured.wrong("output", where, f"ids below {measured.case['model']['vocab_size']}", chunks.largest)
    if request.first_ns is None:
        request.first_ns, request.first_tokens = chunks.first_ns, chunks.first_tokens
        request.later_tokens = chunks.later_tokens
    else:
        request.later_tokens += chunks.first_tokens + chunks.later_tokens
    request.last_ns = chunks.last_ns


def _finish(measured: Measured, event: Finish) -> None:
    request = measured.requests.get(event.request)
    measured.in_flight -= 1
    if request is None or request.finished or event.reason != "length":
        measured.wrong("finish", f"request {event.request}", "one finish of a submitted request, by length", event.reason)
    if request is not None:
        request.finished = True


def rules(case: Case, measured: Measured) -> Iterator[Finding]:
    """What is wrong with the case as a whole, after what was wrong with its events."""
    yield from measured.findings
    if sorted(measured.facts) != ["environment", "model"]:
        yield error("text_generation.facts", case["id"], "environment and model, once each", measured.facts)
    yield from _check_loads(case, measured.loads)
    expected = case["warmup_rounds"] + case["measured_rounds"]
    if measured.rounds != expected:
        yield error("text_generation.rounds", case["id"], f"{expected} rounds", measured.rounds)
    counts = Counter(request.round for request in measured.requests.values())
    for number in range(expected):
        if counts[number] != case["concurrency"]:
            yield error("text_generation.requests", f"{case['id']}: round {number}", f"{case['concurrency']} requests", counts[number])
    for number, request in measured.requests.items():
        where = f"{case['id']}: request {number}"
        if not request.finished:
            yield error("text_generation.finish", where, "a finish", "none")
        if request.tokens != case["output_tokens"]:
            yield error("text_generation.output", where, f"{case['output_tokens']} tokens", request.tokens)
    yield from _check_window(case, measured)


def _check_loads(case: Case, loads: list[Load]) -> Iterator[Finding]:
    kinds = ["cold"] + ["warm"] * (case["loads"] - 1)
    if [load.kind for load in loads] != kinds or any(load.begin_ns >= load.t for load in loads):
        yield error(
            "text_generation.loads",
            case["id"],
            f"{case['loads']} loads, cold then warm, each taking time",
            [(load.kind, load.t - load.begin_ns) for load in loads],
        )


def _window(case: Case, measured: Measured) -> list[Request]:
    return [request for request in measured.requests.values() if request.round >= case["warmup_rounds"]]


def _check_window(case: Case, measured: Measured) -> Iterator[Finding]:
    wall_ns = _wall_ns(_window(case, measured))
    if wall_ns <= 0:
        yield error("text_generation.window", case["id"], "a measured window longer than 0 ns", wall_ns)


def _wall_ns(requests: list[Request]) -> int:
    """From the first submit to the last token of the measured rounds."""
    return max((request.last_ns for request in requests), default=0) - min((request.submit_ns for request in requests), default=0)


def _rounds(requests: list[Request]) -> list[Fraction]:
    """Tokens per second of each round by itself, first submit to last token."""
    return [Fraction(sum(one.tokens for one in group) * NS_PER_S, max(1, _wall_ns(group))) for group in _by_round(requests)]


def _by_round(requests: list[Request]) -> list[list[Request]]:
    rounds: dict[int, list[Request]] = {}
    for request in requests:
        rounds.setdefault(request.round, []).append(request)
    return list(rounds.values())


def _median(values: list[int]) -> Fraction:
    ordered, middle = sorted(values), len(values) // 2
    return Fraction(ordered[middle]) if len(ordered) % 2 else Fraction(ordered[middle - 1] + ordered[middle], 2)


def metrics(case: Case, measured: Measured) -> dict[str, Metric]:
    """Rates in tokens per second, latencies in milliseconds, load time in seconds."""
    requests = _window(case, measured)
    waits = [(request.first_ns or 0) - request.submit_ns for request in requests]
    warm = [load for load in measured.loads if load.kind == "warm"] or measured.loads
    tokens = sum(request.tokens for request in requests)
    found = {
        "throughput": Metric(
            Fraction(tokens * NS_PER_S, _wall_ns(requests)),
            "tokens/s",
            "generated tokens / wall time of the measured window (ruling 7)",
            **over(_rounds(requests)),
        ),
        "first_token_latency_mean_ms": Metric(mean(waits) / NS_PER_MS, "ms", "mean of first token - submit", **over(waits, NS_PER_MS)),
        "first_token_latency_p50_ms": Metric(_median(waits) / NS_PER_MS, "ms", "median of first token - submit"),
        "first_token_latency_max_ms": Metric(Fraction(max(waits), NS_PER_MS), "ms", "largest of first token - submit"),
        "load_time_s": Metric(
            mean(load.t - load.begin_ns for load in warm) / NS_PER_S,
            "s",
            "mean of warm loads, else the cold one (ruling 19)",
            **over((load.t - load.begin_ns for load in warm), NS_PER_S),
        ),
        "requests": Metric(Fraction(len(requests)), "requests", "requests of the measured rounds"),
    }
    decode_ns = sum(request.last_ns - (request.first_ns or 0) for request in requests)
    if decode_ns:
        rate = Fraction(case["concurrency"] * sum(request.later_tokens for request in requests) * NS_PER_S, decode_ns)
        found["throughput_legacy"] = Metric(rate, "tokens/s", "concurrency * tokens after the first chunk / their time")
    return found


def traits(case: Case, measured: Measured) -> Traits:
    """Latencies in order of requests, time within rounds, and the work of the products alone."""
    requests = _window(case, measured)
    waits = [(request.first_ns or 0) - request.submit_ns for request in requests]
    whole = [request.last_ns - request.submit_ns for request in requests]
    window_ns, done = _wall_ns(requests), None
    if case["model"]["architecture"] == "llama":
        tokens = sum(request.tokens for request in requests)
        flop = llama_flop(case["model"], tokens, len(requests) * case["input_tokens"], training=False)
        done = Work(flop, case["dtype"], window_ns, case["cards"])
    busy_ns = sum(_wall_ns(group) for group in _by_round(requests))
    return Traits({"first_token": waits, "request": whole}, {}, done, busy_ns, window_ns, frozenset(measured.devices))


def facts(case: Case, measured: Measured) -> dict[str, str]:
    """Whether the weights were random or of a file."""
    del case
    return {"weights": measured.weights}


def windows(case: Case, measured: Measured) -> list[Window]:
    """From the first submit to the last token of the measured rounds."""
    requests = _window(case, measured)
    begin, end = min(request.submit_ns for request in requests), max(request.last_ns for request in requests)
    return [Window("", begin, end, {"token": sum(request.tokens for request in requests)})]
