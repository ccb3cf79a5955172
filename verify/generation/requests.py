"""Follows every request of a case through its events."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import Any

from verify import words
from verify.events import Compiled, Environment, Event, Memory, Model
from verify.findings import Kept, error
from verify.generation.events import (
    Client,
    Engine,
    Finish,
    Judged,
    Load,
    Perplexity,
    RoundStart,
    Send,
    Submit,
    Text,
    Tokens,
)
from verify.metrics import Blocks, Case

SERVER = "openai"  # the engine that is a client
SAMPLED = 8  # prompts that are computed anew; which ones, the digests of all name


@dataclass(slots=True)
class Chunks:
    """Tokens or text of one request that came one after the other in a block, with nothing else of this request between them.

    `largest` is the largest id, None where there was text and no ids; `sum_ns` is of the times of all chunks.
    """

    request: int
    first_ns: int
    last_ns: int
    first_tokens: int
    later_tokens: int
    largest: int | None
    sum_ns: int
    pieces: int = 1


@dataclass(slots=True)
class Request:
    """One request: times in nanoseconds, tokens in the first chunk and after it; `counted` where a server said how many they were."""

    round: int
    submit_ns: int
    prompt_sha256: str
    send_ns: int | None = None
    first_ns: int | None = None
    last_ns: int = 0
    first_tokens: int = 0
    later_tokens: int = 0
    pieces: int = 0
    sum_ns: int = 0
    counted: int | None = None
    text: bool = False
    finished: bool = False

    @property
    def tokens(self) -> int:
        """Generated tokens: from ids, or by the server's count where it told none; never from chunks."""
        return (self.counted or 0) if self.text else self.first_tokens + self.later_tokens

    @property
    def shape_ns(self) -> tuple[int, ...]:
        """First token, last token and the sum of all chunks' times, since submit."""
        return self.wait_ns, self.last_ns - self.submit_ns, self.sum_ns - self.pieces * self.submit_ns

    @property
    def wait_ns(self) -> int:
        """From submit to the first token."""
        return (self.first_ns or 0) - self.submit_ns

    @property
    def decode_ns(self) -> int:
        """From the first token to the last."""
        return self.last_ns - (self.first_ns or 0)


@dataclass(slots=True)
class Measured:
    """All requests, the few events that stand alone by kind, and what was wrong with single events."""

    case: Case
    requests: dict[int, Request] = field(default_factory=dict)
    few: dict[type, list[Any]] = field(default_factory=dict)
    facts: list[str] = field(default_factory=list)
    findings: Kept = field(default_factory=Kept)
    weights: str = "random"
    weights_sha256: str | None = None
    parameters: int = 0
    device: str = ""
    devices: set[str] = field(default_factory=set)
    begun_ns: list[int] = field(default_factory=list)  # of each round
    told_ns: int = 0  # the time of what was told last
    rounds: int = 0
    in_flight: int = 0
    submitted: int = 0  # in the round under way

    def all(self, kind: type) -> list[Any]:
        """Events of one of the few kinds."""
        return self.few.get(kind, [])

    def wrong(self, rule: str, where: object, expected: object, found: object) -> None:
        """Note a finding of this suite."""
        self.findings.add(error(f"text_generation.{rule}", f"{self.case['id']}: {where}", expected, found))

    def window(self) -> list[Request]:
        """Requests of the measured rounds."""
        return [request for request in self.requests.values() if request.round >= self.case["warmup_rounds"]]


def condense(case: Case, rank: int, events: list[Event]) -> list[Event | Chunks]:
    """Rank 0's events, chunks summed up by request; the other ranks only help it, their events are read for form alone."""
    del case
    found: list[Event | Chunks] = []
    under_way: dict[int, Chunks] = {}
    for event in events if rank == 0 else []:
        if type(event) is Tokens:
            ids = event.ids
            tokens, largest = len(ids), ids[0] if len(ids) == 1 else max(ids)
        elif type(event) is Text:
            tokens, largest = 0, None
        else:
            found.append(event)
            if isinstance(event, Submit | Send | Finish):
                under_way.pop(event.request, None)
            continue
        chunks = under_way.get(event.request)
        if chunks is None:
            under_way[event.request] = chunks = Chunks(event.request, event.t, event.t, tokens, 0, largest, event.t)
            found.append(chunks)
            continue
        chunks.last_ns = event.t
        chunks.later_tokens += tokens
        chunks.pieces += 1
        chunks.sum_ns += event.t
        chunks.largest = None if chunks.largest is None or largest is None else max(chunks.largest, largest)
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
        case Chunks():
            _tokens(measured, event)
        case RoundStart():
            _round(measured, event)
        case Submit():
            _submit(measured, event)
        case Send():
            _send(measured, event)
        case Finish():
            _finish(measured, event)
        case Environment():
            measured.facts.append("environment")
            measured.devices.add(event.device_name)
            measured.device = event.device
        case Model():
            _model(measured, event)
        case Load() | Engine() | Compiled() | Client() | Judged() | Perplexity() | Memory():
            measured.few.setdefault(type(event), []).append(event)
    if isinstance(event, Load | Compiled) and (event.begin_ns < measured.told_ns or measured.rounds):
        rule = "loads" if isinstance(event, Load) else "compiled"
        measured.wrong(rule, rule, f"from {measured.told_ns} ns on, before the first round", f"from {event.begin_ns} ns on")
    measured.told_ns = event.last_ns if isinstance(event, Chunks) else event.t


def _model(measured: Measured, event: Model) -> None:
    measured.facts.append("model")
    measured.weights, measured.weights_sha256, measured.parameters = event.weights, event.weights_sha256, event.parameters
    case = measured.case
    named = case["model"].get("parameters", event.parameters)
    if event.parameters != named:
        measured.wrong("model", "model", f"{named} parameters", event.parameters)
    hashed = [False] if event.weights == "random" else [True] if case["engine"] != SERVER else [True, False]  # a server does not say
    if (event.weights_sha256 is not None) not in hashed:
        measured.wrong("model", "model", "a digest of weights of a file, and of no others", f"{event.weights}, {event.weights_sha256}")
    expected = (case["seed"], case["dtype"], "random" if case["weights"] == "random" else "file")
    found = (event.seed, event.dtype, event.weights)
    if found != expected:
        measured.wrong("facts", "model", f"seed, dtype, weights = {expected}", found)


def _round(measured: Measured, event: RoundStart) -> None:
    number = measured.rounds
    phase = "warmup" if number < measured.case["warmup_rounds"] else "measured"
    if (event.round, event.phase) != (number, phase):
        measured.wrong("rounds", f"round {number}", f"round {number}, {phase}", f"round {event.round}, {event.phase}")
    if measured.in_flight:
        measured.wrong("rounds", f"round {number}", "no request of the round before in flight", f"{measured.in_flight} in flight")
    measured.rounds += 1
    measured.begun_ns.append(event.t)
    measured.submitted = 0


def _submit(measured: Measured, event: Submit) -> None:
    where = f"request {event.request}"
    measured.in_flight += 1
    measured.submitted += 1
    most = measured.case["concurrency"]
    if (
        event.request in measured.requests
        or event.round != measured.rounds - 1
        or (measured.in_flight > most and not arrivals(measured.case))
    ):
        measured.wrong(
            "requests",
            where,
            f"a new request of round {measured.rounds - 1}, at most {most} in flight",
            f"round {event.round}, {measured.in_flight} in flight, seen before: {event.request in measured.requests}",
        )
    first = (measured.rounds - 1) * per_round(measured.case)
    if not first <= event.request < first + per_round(measured.case):
        expected = f"requests {first} to {first + per_round(measured.case) - 1} in round {measured.rounds - 1}"
        measured.wrong("requests", where, expected, event.request)
    if event.prompt_tokens != measured.case["input_tokens"]:
        measured.wrong("prompt", where, f"{measured.case['input_tokens']} tokens", event.prompt_tokens)
    measured.requests.setdefault(event.request, Request(event.round, event.t, event.prompt_sha256))


def _send(measured: Measured, event: Send) -> None:
    request = measured.requests.get(event.request)
    if request is None or request.send_ns is not None or request.first_ns is not None:
        measured.wrong("send", f"request {event.request}", "sent once, after its submit and before its first token", event.t)
    else:
        request.send_ns = event.t


def _tokens(measured: Measured, chunks: Chunks) -> None:
    request = measured.requests.get(chunks.request)
    where = f"request {chunks.request}"
    if request is None or request.finished:
        measured.wrong("output", where, "tokens between submit and finish", "tokens outside")
        return
    if chunks.largest is not None and chunks.largest >= measured.case["model"]["vocab_size"]:
        measured.wrong("output", where, f"ids below {measured.case['model']['vocab_size']}", chunks.largest)
    if request.first_ns is None:
        request.first_ns, request.first_tokens = chunks.first_ns, chunks.first_tokens
        request.later_tokens = chunks.later_tokens
    else:
        request.later_tokens += chunks.first_tokens + chunks.later_tokens
    request.text |= chunks.largest is None
    request.pieces += chunks.pieces
    request.sum_ns += chunks.sum_ns
    request.last_ns = chunks.last_ns


def _finish(measured: Measured, event: Finish) -> None:
    request = measured.requests.get(event.request)
    measured.in_flight -= 1
    if request is None or request.finished or event.reason != "length":
        found = event.reason if event.detail is None else f"{event.reason}: {event.detail}"
        measured.wrong("finish", f"request {event.request}", "one finish of a submitted request, by length", found)
    if not arrivals(measured.case) and measured.submitted < measured.case["concurrency"]:
        found = f"{measured.submitted} submitted"
        measured.wrong("requests", f"round {measured.rounds - 1}", "every request submitted before the first of them ends", found)
    if request is not None:
        request.finished, request.counted = True, event.usage_tokens


def arrivals(case: Case) -> dict[str, Any] | None:
    """Rate, limits and number of requests where they come at a rate; None in a closed loop."""
    found: dict[str, Any] | None = case.get("arrival")
    return found


def per_round(case: Case) -> int:
    """Requests of a round."""
    chosen = arrivals(case)
    return int(chosen["requests"] if chosen else case["concurrency"])


def prompt(case: Case, seed: int, number: int) -> list[int]:
    """Token ids of a request's prompt: each from a stream of its own, or one id over and over in the mode of the report's era."""
    vocabulary = case["model"]["vocab_size"]
    if case["prompts"] == "legacy":
        return words.places(words.seed(seed, "prompt"), 1, vocabulary) * int(case["input_tokens"])
    return words.places(words.seed(seed, "prompt", number), case["input_tokens"], vocabulary)


def digest(ids: list[int]) -> str:
    """SHA-256 of ids, 32 bits each, little-endian."""
    return hashlib.sha256(b"".join(number.to_bytes(4, "little") for number in ids)).hexdigest()


def sampled(digests: list[str]) -> list[int]:
    """Places of the prompts that are computed anew: nobody knows them before all prompts are chosen."""
    start = words.seed(hashlib.sha256("".join(digests).encode()).hexdigest(), "prompts")
    return sorted(set(words.places(start, SAMPLED, len(digests)))) if digests else []


def offsets(case: Case, number: int) -> list[int]:
    """Arrivals of a round in ns after its begin: times between them are exponential, drawn from the seed."""
    chosen, at, found = case["arrival"], 0.0, []
    start = words.seed(case["seed"], "arrival", number)
    for index in range(chosen["requests"]):
        at -= math.log((words.word(start, index) + 1) / 2**32) / chosen["rate_per_s"]
        found.append(round(at * 10**9))
    return found
