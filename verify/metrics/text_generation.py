"""Text generation: throughput, first-token latency, time per token, load time, and whether the tokens are right.

Throughput is generated tokens over the wall time of the measured rounds, prefill and queueing included (ruling 7); the decode-only figure
of the report's era stands beside it as `throughput_legacy`. Load time is the mean of warm loads (ruling 19). How requests are followed,
judged and resampled is in verify/generation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from fractions import Fraction

from verify import copies
from verify.events import Compiled, Memory
from verify.findings import Finding, error, warning
from verify.generation import client, copied, judged, requests, spread
from verify.generation.events import EVENTS, Engine, Load
from verify.generation.requests import Measured, Request, condense, measure
from verify.metrics import Case, Metric, Window, mean, over
from verify.plausibility import Traits, Work, llama_flop

__all__ = ["EVENTS", "PART", "RULES", "SECTION", "condense", "facts", "measure", "metrics", "rules", "traits", "windows"]

SECTION = "inference"
PART = "text_generation"
NS_PER_S = 10**9
NS_PER_MS = 10**6
ARRIVAL_NS = 1000  # two libraries may differ in the last bit of a logarithm
OWN = "transformers"  # the engine that is the worker's own step loop
KV_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}

RULES = {
    "text_generation.facts": "the first rank records its environment and its model (seed, dtype, kind of weights of the case), once each",
    "text_generation.model": "the parameters that the case's file of the model says, a digest of weights of a file and of no others",
    "text_generation.engine": "the case's engine, once, with the need of the KV cache as the case and the model's shape give it",
    "text_generation.loads": "a cold load, then the discarded and the measured ones, each taking time after the last, before any round",
    "text_generation.compiled": "compiled once, in the case's mode, before the first round, or not at all where the case is eager",
    "text_generation.rounds": "rounds 0, 1, 2, ... with the case's warm-up, then its measured rounds, one after the other",
    "text_generation.requests": "a round's own requests, all of them, each submitted once; in a closed loop at one time, before any ends",
    "text_generation.prompt": "every prompt has the case's input_tokens, is the one of its seed and number, and no two are the same",
    "text_generation.output": "every request gives exactly the case's output_tokens, as ids of the vocabulary, as a server counts",
    "text_generation.arrival": "requests of a rate come when the seed says, to a microsecond, from the round's begin on",
    "text_generation.finish": "every request finishes, once, by length",
    "text_generation.copied": "no round has the times of another to the nanosecond",
    "text_generation.window": "the measured rounds take time",
    "text_generation.send": "a client, as every server has, sends each request once, after its submit and before its first token",
    "text_generation.client": "a client says of every round how late it was",
    "text_generation.judged": "the frozen prompts, continued by as many ids as asked, with likelihoods that can be, as the case says",
    "text_generation.greedy": "every token of these is the likeliest to a float32 model, or nearly, as the precision allows",
    "text_generation.reference": "these continuations are those of the stored reference, up to where two tokens are nearly as likely",
    "text_generation.int8": "an INT8 case tells the whole text's perplexity with it and without, a server has continuations judged",
    "text_generation.memory": "the largest allocation, once, no less than weights and cache where the worker itself holds them on a card",
}


def rules(case: Case, measured: Measured) -> Iterator[Finding]:
    """What is wrong with the case as a whole, after what was wrong with its events."""
    yield from measured.findings
    if sorted(measured.facts) != ["environment", "model"]:
        yield error("text_generation.facts", case["id"], "environment and model, once each", measured.facts)
    yield from _engine(case, measured)
    yield from _loads(case, measured.all(Load))
    modes = [] if case["compile"] == "none" else [case["compile"]]
    compiled: list[Compiled] = measured.all(Compiled)
    if [event.mode for event in compiled] != modes or any(event.begin_ns >= event.t for event in compiled):
        yield error("text_generation.compiled", case["id"], modes, [(event.mode, event.t - event.begin_ns) for event in compiled])
    yield from _requests(case, measured)
    yield from _prompts(case, measured)
    yield from _arrivals(case, measured)
    walls = [_wall_ns(group) for group in _by_round(measured.window())]
    if not walls or min(walls) <= 0:
        yield error("text_generation.window", case["id"], "measured rounds longer than 0 ns", walls)
    peaks, least = [event.peak_bytes for event in measured.all(Memory)], _least_bytes(case, measured)
    if len(peaks) != 1 or 0 < peaks[0] < least:
        yield error("text_generation.memory", case["id"], f"the largest allocation, once, of at least {least} bytes", peaks)
    yield from copied.rules(case, measured)
    yield from client.rules(case, measured)
    yield from judged.rules(case, measured)


def kv_bytes_per_token(case: Case) -> int:
    """Keys and values of one token in all layers, in bytes."""
    model = case["model"]
    head = model["hidden_size"] // model["num_heads"]
    return int(2 * model["num_layers"] * model["num_kv_heads"] * head * KV_BYTES[case["kv_dtype"]])


def _engine(case: Case, measured: Measured) -> Iterator[Finding]:
    """A cache that is too small for the case is no fault: requests wait, and this is said."""
    needed = case["concurrency"] * (case["input_tokens"] + case["output_tokens"])
    expected = (case["engine"], needed, kv_bytes_per_token(case))
    engines: list[Engine] = measured.all(Engine)
    found = [(event.name, event.needed_tokens, event.kv_bytes_per_token) for event in engines]
    if found != [expected]:
        yield error("text_generation.engine", case["id"], f"engine, tokens, bytes a token = {expected}, once", found)
    for event in engines:
        if event.kv_tokens is not None and event.kv_tokens < needed:
            expected_cache = f"a KV cache of the {needed} tokens in flight"
            yield warning("text_generation.queued", case["id"], expected_cache, f"one of {event.kv_tokens} tokens: requests wait")


def _loads(case: Case, loads: list[Load]) -> Iterator[Finding]:
    kinds = ["cold"] + ["discarded"] * (case["discarded_loads"] - 1) + ["warm"] * case["measured_loads"]
    found = [(load.kind, load.t - load.begin_ns) for load in loads]
    if [load.kind for load in loads] != kinds or any(load.begin_ns >= load.t for load in loads):
        expected = f"a cold load, {case['discarded_loads'] - 1} discarded, {case['measured_loads']} warm, each taking time"
        yield error("text_generation.loads", case["id"], expected, found)
    if copies.alike(warm := [load.t - load.begin_ns for load in loads if load.kind == "warm"]):
        yield error("text_generation.loads", case["id"], "warm loads of their own", f"{len(warm)} of {warm[0]} ns each")


def _least_bytes(case: Case, measured: Measured) -> int:
    """Weights and cache, where the engine holds them on the worker's own device; 0 where it need not."""
    if case["engine"] != OWN or measured.device == "cpu":
        return 0
    each = 1 if case["quantization"] != "none" else KV_BYTES[case["dtype"]]
    cached = case["concurrency"] * (case["input_tokens"] + case["output_tokens"] - 1) if requests.arrivals(case) is None else 0
    return measured.parameters * each + cached * kv_bytes_per_token(case)


def _requests(case: Case, measured: Measured) -> Iterator[Finding]:
    expected = case["warmup_rounds"] + case["measured_rounds"]
    if measured.rounds != expected:
        yield error("text_generation.rounds", case["id"], f"{expected} rounds", measured.rounds)
    counts, asked = Counter(request.round for request in measured.requests.values()), requests.per_round(case)
    for number in range(expected):
        if counts[number] != asked:
            yield error("text_generation.requests", f"{case['id']}: round {number}", f"{asked} requests", counts[number])
    if requests.arrivals(case) is None:
        yield from _at_once(case, measured)
    for number, request in measured.requests.items():
        where = f"{case['id']}: request {number}"
        if not request.finished:
            yield error("text_generation.finish", where, "a finish", "none")
        if request.tokens != case["output_tokens"] or request.first_ns is None or request.counted not in (None, request.tokens):
            found = f"{request.tokens}, by the server's count {request.counted}"
            yield error("text_generation.output", where, f"{case['output_tokens']} tokens", found)
    if any(request.text for request in measured.requests.values()):
        found = "text alone: counts are the server's word"
        yield warning("text_generation.usage", case["id"], "token ids", found)


def _at_once(case: Case, measured: Measured) -> Iterator[Finding]:
    """A closed loop hands a round over as a whole; a client, which sends one request after the other, says when it sent each."""
    for group in _by_round(list(measured.requests.values())):
        submits = {request.submit_ns for request in group if request.send_ns is None}
        if len(submits) > 1:
            where = f"{case['id']}: round {group[0].round}"
            yield error("text_generation.requests", where, "a round submitted at one time", f"{len(submits)} times")


def _prompts(case: Case, measured: Measured) -> Iterator[Finding]:
    """No two alike, so that no prefix is met again; some of them computed anew."""
    digests = [request.prompt_sha256 for request in measured.requests.values()]
    distinct = 1 if case["prompts"] == "legacy" else len(digests)
    if len(set(digests)) != distinct:
        yield error("text_generation.prompt", case["id"], f"{distinct} different prompts", len(set(digests)))
    numbers = sorted(measured.requests)
    for place in requests.sampled([measured.requests[number].prompt_sha256 for number in numbers]):
        number = numbers[place]
        expected = requests.digest(requests.prompt(case, case["seed"], number))
        if measured.requests[number].prompt_sha256 != expected:
            where = f"{case['id']}: request {number}"
            yield error("text_generation.prompt", where, f"the prompt of seed {case['seed']}, {expected[:12]}", "another")


def _arrivals(case: Case, measured: Measured) -> Iterator[Finding]:
    """Times between the submits of a round are those that the seed gives: a late client sends late, it is not due late."""
    chosen = requests.arrivals(case)
    if chosen is None:
        return
    for number, group in enumerate(_by_round(list(measured.requests.values()))):
        begin = group[0].submit_ns
        expected = requests.offsets(case, number)
        late = [abs(request.submit_ns - begin - offset + expected[0]) for request, offset in zip(group, expected, strict=False)]
        if number < len(measured.begun_ns):
            late.append(begin - expected[0] - measured.begun_ns[number])
        if max(late) > ARRIVAL_NS:
            yield error("text_generation.arrival", f"{case['id']}: round {number}", f"arrivals of seed {case['seed']}", "others")


def _wall_ns(group: list[Request]) -> int:
    """From the first submit to the last token of a round."""
    return max(request.last_ns for request in group) - min(request.submit_ns for request in group)


def _by_round(chosen: list[Request]) -> list[list[Request]]:
    rounds: dict[int, list[Request]] = {}
    for request in chosen:
        rounds.setdefault(request.round, []).append(request)
    return list(rounds.values())


def _tokens(group: list[Request]) -> int:
    return sum(request.tokens for request in group)


def metrics(case: Case, measured: Measured) -> dict[str, Metric]:
    """Rates in tokens per second, latencies in milliseconds, times of starting in seconds, memory in GB (10^9)."""
    rounds = _by_round(measured.window())
    walls = [_wall_ns(group) for group in rounds]
    rates = [Fraction(_tokens(group) * NS_PER_S, wall) for group, wall in zip(rounds, walls, strict=True)]
    tokens = sum(map(_tokens, rounds))
    formula = "generated tokens / wall time of the measured rounds, each from first submit to last token (ruling 7)"
    found = {
        "throughput": Metric(Fraction(tokens * NS_PER_S, sum(walls)), "tokens/s", formula, **over(rates)),
        "requests": Metric(Fraction(sum(map(len, rounds))), "requests", "requests of the measured rounds"),
        "tokens_per_chunk": Metric(
            Fraction(tokens, sum(request.pieces for group in rounds for request in group)), "tokens", "generated tokens / chunks"
        ),
    }
    return (
        found
        | _memory(measured)
        | _latencies(case, rounds)
        | _legacy(case, rounds)
        | _starting(measured)
        | client.metrics(case, measured)
        | judged.metrics(case, measured)
    )


def _memory(measured: Measured) -> dict[str, Metric]:
    """Of the worker's own process; none where it held nothing on the device, since ranks of the engine or a server did."""
    held = measured.all(Memory)[0].peak_bytes
    return {"memory_gb": Metric(Fraction(held, 10**9), "GB", "largest allocation / 1e9")} if held else {}


def _latencies(case: Case, rounds: list[list[Request]]) -> dict[str, Metric]:
    """First-token latency and time per token after it, with what the sample allows to be said of their spread."""
    waits = [[request.wait_ns for request in group] for group in rounds]
    found = {"first_token_latency_mean_ms": _mean_ms(waits, "first token - submit")}
    found["first_token_latency_max_ms"] = Metric(Fraction(max(map(max, waits)), NS_PER_MS), "ms", "largest of first token - submit")
    if case["output_tokens"] > 1:
        later = case["output_tokens"] - 1
        decode = [[request.decode_ns for request in group] for group in rounds]
        rows = [[Fraction(value, later) for value in group] for group in decode]
        found["time_per_token_mean_ms"] = _mean_ms(rows, "(last - first token) / (output_tokens - 1)")
    by_request = requests.arrivals(case) is not None
    groups = [[wait] for group in waits for wait in group] if by_request else waits
    found |= spread.metrics("first_token_latency_{}_ms", "first token - submit", groups, NS_PER_MS)
    return found | (_goodput(case, rounds) if by_request else {})


def _mean_ms(rows: list[list[Fraction]] | list[list[int]], what: str) -> Metric:
    values: list[Fraction | int] = [value for row in rows for value in row]
    return Metric(mean(values) / NS_PER_MS, "ms", f"mean of {what}", **over(values, NS_PER_MS))


def _goodput(case: Case, rounds: list[list[Request]]) -> dict[str, Metric]:
    """Requests per second that kept both limits; shown, never scored."""
    limits = case["arrival"]
    first, each = limits["first_token_ms"] * NS_PER_MS, limits["per_token_ms"] * NS_PER_MS * (case["output_tokens"] - 1)
    kept = sum(request.wait_ns <= first and request.decode_ns <= each for group in rounds for request in group)
    wall = sum(map(_wall_ns, rounds))
    formula = f"requests within {limits['first_token_ms']} ms to the first token and {limits['per_token_ms']} ms a token / wall time"
    return {
        "goodput": Metric(Fraction(kept * NS_PER_S, wall), "requests/s", formula),
        "goodput_share": Metric(Fraction(kept, sum(map(len, rounds))), "1", "share of requests within both limits"),
    }


def _legacy(case: Case, rounds: list[list[Request]]) -> dict[str, Metric]:
    """Decode-only, as the tool of the report's era (facts 1.10): all slots taken as always busy."""
    group = [request for one in rounds for request in one]
    decode_ns = sum(request.decode_ns for request in group)
    if not decode_ns or any(request.text for request in group):
        return {}
    rate = Fraction(case["concurrency"] * sum(request.later_tokens for request in group) * NS_PER_S, decode_ns)
    return {"throughput_legacy": Metric(rate, "tokens/s", "concurrency * tokens after the first chunk / their time")}


def _starting(measured: Measured) -> dict[str, Metric]:
    loads: list[Load] = measured.all(Load)
    cold, *others = [load.t - load.begin_ns for load in loads if load.kind != "discarded"]
    found = {"load_time_cold_s": Metric(Fraction(cold, NS_PER_S), "s", "the first load, imports included")}
    if others:
        found["load_time_s"] = Metric(mean(others) / NS_PER_S, "s", "mean of warm loads (ruling 19)", **over(others, NS_PER_S))
    for event in measured.all(Compiled):
        found["compile_time_s"] = Metric(Fraction(event.t - event.begin_ns, NS_PER_S), "s", "compiling and a first generation")
    return found


def traits(case: Case, measured: Measured) -> Traits:
    """Latencies in order of requests, time within rounds, and the work of the products alone."""
    chosen = measured.window()
    waits = [request.wait_ns for request in chosen]
    whole = [request.last_ns - request.submit_ns for request in chosen]
    walls = [_wall_ns(group) for group in _by_round(chosen)]
    span_ns, done = _wall_ns(chosen), None
    if case["model"]["architecture"] == "llama":
        flop = llama_flop(case["model"], _tokens(chosen), len(chosen) * case["input_tokens"], training=False)
        done = Work(flop, "int8" if case["quantization"] == "w8a8" else case["dtype"], sum(walls), case["cards"])
    outcomes = judged.outcomes(case, measured)
    devices = frozenset(measured.devices)
    return Traits({"first_token": waits, "request": whole}, {}, done, sum(walls), span_ns, devices, outcomes, measured.weights_sha256)


def facts(case: Case, measured: Measured) -> dict[str, str]:
    """Kind of weights, declared generation and precision, prompts, and whether the tokens were judged."""
    unproven = any(finding.rule == "text_generation.unproven" for finding in judged.rules(case, measured))
    return {
        "weights": measured.weights,
        "generation": case["generation"],
        "quantization": case["quantization"],
        "prompts": case["prompts"],
        "tokens": "unproven" if unproven else "judged",
    }


def windows(case: Case, measured: Measured) -> list[Window]:
    """From the first submit to the last token of the measured rounds, the pauses between them included."""
    del case
    chosen = measured.window()
    begin, end = min(request.submit_ns for request in chosen), max(request.last_ns for request in chosen)
    return [Window("", begin, end, {"token": _tokens(chosen)})]
