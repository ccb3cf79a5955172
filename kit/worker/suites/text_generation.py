"""Text generation (report section 4.1): a closed loop at a fixed concurrency, or, unscored, requests that come at a rate.

The suite hands a round of requests to an engine and collects items that carry their own time; they are written down when the round is
over, so that writing costs the measurement nothing. Nothing is averaged here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from .. import device, engines, generation, loading, reference
from ..data.text import read
from ..engines import Chunk, Client, Done, Failed, Item, Request, Sent, Text
from ..models import causal
from ..record import Recorder

Case = dict[str, Any]
Continued = tuple[list[int], list[int]]


class Unanswered(Exception):
    """Requests of a round failed: nothing measured after it would be the case's."""


def run(case: Case, recorder: Recorder) -> None:
    """Load, compile, warm up, measure; then judge what the engine says. Running out of memory fails the case with its peak."""
    here = device.choose(0)
    recorder.event("environment", **device.facts(here))
    generation.settle(case, here)
    module = engines.module(case["engine"])
    if hasattr(module, "prepare"):
        module.prepare(case, here)
    try:
        continued, losses = _within_memory(case, recorder, here, lambda: _measure(case, recorder, here))
        _judge(case, recorder, here, continued)
        if losses is not None:
            _int8(case, recorder, here, losses)
    finally:
        causal.forget(case)


def _within_memory(case: Case, recorder: Recorder, here: Any, act: Callable[[], Any]) -> Any:
    """What `act` gives; the peak is recorded however it ends."""
    device.forget_peak(here)
    try:
        return act()
    except Exception as error:
        if not device.out_of_memory(error):
            raise
        raise device.OutOfMemory(generation.advice(case, device.peak_bytes(here))) from error
    finally:
        recorder.event("memory", peak_bytes=device.peak_bytes(here))


def _measure(case: Case, recorder: Recorder, here: Any) -> tuple[list[Continued], list[list[float]] | None]:
    """(frozen prompts with what the engine goes on with, losses of the frozen text where the case is quantised)."""
    kinds = ["cold"] + ["discarded"] * (case["discarded_loads"] - 1) + ["warm"] * case["measured_loads"]
    engine = loading.engine(case, recorder, here, kinds)
    try:
        _describe(case, recorder, engine)
        _check(case, engine, here)
        if case["compile"] != "none":
            begin_ns = recorder.now()
            engine.compile(generation.requests(case, 0), case["output_tokens"])
            device.synchronize(here)
            recorder.event("compiled", begin_ns=begin_ns, mode=case["compile"])
        for number in range(case["warmup_rounds"] + case["measured_rounds"]):
            _round(case, recorder, engine, number)
        return _continued(case, engine), _losses(engine) if _tells(case, engine) else None
    finally:
        engine.unload()


def _check(case: Case, engine: Any, here: Any) -> None:
    if "arrival" in case and not engine.arrivals:
        raise ValueError(f"engine '{case['engine']}' takes requests only all at once; take another engine for a case with arrivals")
    if case["quantization"] != "none" and not _tells(case, engine) and ("server" not in case or not _judged(case)):
        raise NotImplementedError(
            "an INT8 case needs an engine that tells the likelihood of a given text (`losses`), or a server whose continuations are judged "
            "(judge.prompts above 0, judge.reference float32, the server's weights in the case); ruling 10"
        )
    if not engine.facts.queues:
        generation.check_memory(case, engine.facts, here)


def _tells(case: Case, engine: Any) -> bool:
    """Whether the case is quantised and its engine tells the likelihood of a given text; a server is judged by what it goes on with."""
    return case["quantization"] != "none" and "server" not in case and hasattr(engine, "losses")


def _judged(case: Case) -> bool:
    return case["judge"]["prompts"] > 0 and case["judge"]["reference"] == "float32"


def _describe(case: Case, recorder: Recorder, engine: Any) -> None:
    facts = engine.facts
    weights = "random" if case["weights"] == "random" else "file"
    seed, dtype = case["seed"], case["dtype"]
    recorder.event("model", parameters=facts.parameters, weights=weights, weights_sha256=facts.weights_sha256, seed=seed, dtype=dtype)
    recorder.event(
        "engine",
        name=case["engine"],
        version=facts.version,
        kv_tokens=facts.kv_tokens,
        needed_tokens=generation.needed_tokens(case),
        kv_bytes_per_token=generation.kv_bytes_per_token(case),
        queues=facts.queues,
    )


def _round(case: Case, recorder: Recorder, engine: Any, number: int) -> None:
    """One round: everything is made before it begins, and written when it is over."""
    asked = generation.requests(case, number)
    digests = {request.number: generation.digest(request.prompt) for request in asked}
    phase = "warmup" if number < case["warmup_rounds"] else "measured"
    begin_ns = time.monotonic_ns()
    if "arrival" in case:
        asked = [request._replace(due_ns=request.due_ns + begin_ns) for request in asked]
    began_ns = begin_ns - recorder.origin_ns  # not when it was written: the first request may be due before that
    recorder.event("round_start", began_ns, round=number, phase=phase)
    submit_ns = time.monotonic_ns()
    items = list(engine.generate(asked, case["output_tokens"]))
    _write(case, recorder, number, asked, digests, submit_ns, items)
    failed = [item for item in items if isinstance(item, Failed)]
    if failed:
        raise Unanswered(f"{len(failed)} of {len(asked)} requests of round {number} failed; {failed[0].request}: {failed[0].why}")


def _write(
    case: Case, recorder: Recorder, number: int, asked: list[Request], digests: dict[int, str], submit_ns: int, items: list[Item]
) -> None:
    """All events of a round in the order of their times; at the same time submits come first and ends last."""
    sent = {item.request: item.submit_ns for item in items if isinstance(item, Sent)}
    lines: list[tuple[int, int, str, dict[str, Any]]] = []
    for request in asked:
        at = request.due_ns or sent.get(request.number, submit_ns)
        fields = {"request": request.number, "round": number, "prompt_tokens": len(request.prompt)}
        lines.append((at, 0, "submit", fields | {"prompt_sha256": digests[request.number]}))
    lines += _lines(number, items)
    ended = {item.request for item in items if isinstance(item, Done | Failed)}
    last_ns = max(line[0] for line in lines)
    for request in asked:
        if request.number not in ended:
            lost = Failed(request.number, last_ns, f"engine '{case['engine']}' let the request go without a word")
            lines += _lines(number, [lost])
    for at, _, kind, fields in sorted(lines, key=lambda line: line[:2]):
        recorder.event(kind, at - recorder.origin_ns, **fields)


def _lines(number: int, items: Iterable[Item]) -> list[tuple[int, int, str, dict[str, Any]]]:
    found: list[tuple[int, int, str, dict[str, Any]]] = []
    for item in items:
        match item:
            case Chunk():
                found.append((item.ns, 2, "tokens", {"request": item.request, "ids": item.ids}))
            case Text():
                found.append((item.ns, 2, "text", {"request": item.request, "size_bytes": item.size_bytes}))
            case Sent():
                found.append((item.ns, 1, "send", {"request": item.request}))
            case Done():
                fields = {"request": item.request, "reason": "length", "usage_tokens": item.usage_tokens, "detail": None}
                found.append((item.ns, 3, "finish", fields))
            case Failed():
                fields = {"request": item.request, "reason": "error", "usage_tokens": None, "detail": item.why[:300]}
                found.append((item.ns, 3, "finish", fields))
            case Client():
                found.append((item.ns, 4, "client", {"round": number, "processes": item.processes, "lag_ns": item.lag_ns}))
    return found


def _continued(case: Case, engine: Any) -> list[Continued]:
    """(prompt, what the engine goes on with) of each frozen prompt."""
    prompts = generation.frozen_prompts(case["judge"]["prompts"])
    asked = [Request(number, prompt) for number, prompt in enumerate(prompts)]
    made: dict[int, list[int]] = {request.number: [] for request in asked}
    items = list(engine.generate(asked, case["judge"]["tokens"])) if asked else []
    for failed in (item for item in items if isinstance(item, Failed)):
        raise RuntimeError(f"engine '{case['engine']}' did not go on after frozen prompt {failed.request}: {failed.why}")
    for chunk in (item for item in items if isinstance(item, Chunk)):
        made[chunk.request] += chunk.ids
    size = case["model"]["vocab_size"]
    for number, odd in ((number, one) for number, ids in made.items() for one in ids if one >= size):
        raise RuntimeError(f"engine '{case['engine']}' went on after frozen prompt {number} with token {odd} of a vocabulary of {size}")
    return [(request.prompt, made[request.number]) for request in asked]


def _judge(case: Case, recorder: Recorder, here: Any, continued: list[Continued]) -> None:
    """Each token's likelihood by a float32 model of the same weights, made when the engine's memory is free again."""
    judged: list[reference.Judged] = [([], [])] * len(continued)
    if _judged(case):
        judged = reference.judge(case, here, continued)
    for number, ((prompt, ids), (nll, gap)) in enumerate(zip(continued, judged, strict=True)):
        recorder.event("judged", prompt=number, prompt_sha256=generation.digest(prompt), ids=ids, nll=nll, gap=gap)


def _losses(engine: Any) -> list[list[float]]:
    return [engine.losses(window) for window in generation.frozen_windows()]


def _int8(case: Case, recorder: Recorder, here: Any, losses: list[list[float]]) -> None:
    """Perplexity of the frozen text by the same engine without quantisation, then as the case has it (ruling 10)."""
    digest = read(generation.TEXT)[1]
    plain = case | {"quantization": "none", "kv_dtype": case["dtype"]}
    engine = engines.module(case["engine"]).load(plain, here)
    for kind, found in (("none", _losses(engine)), (case["quantization"], losses)):
        tokens = sum(map(len, found))
        recorder.event("perplexity", quantization=kind, text_sha256=digest, tokens=tokens, nll=sum(map(sum, found)))
    engine.unload()
