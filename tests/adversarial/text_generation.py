"""One attack for each rule of text generation: what a vendor with the true key might seal."""

from __future__ import annotations

import hashlib

from tests.adversarial.attacks import add, attack
from tests.adversarial.builder import TEXT, Bench, prompt
from tests.adversarial.contents import events
from tests.conftest import ROOT
from verify.data import table
from verify.generation import judged, requests

add("text_generation.facts", "sealed", "the model twice", lambda b: events(b, TEXT).insert(3, dict(b.kind("model")[0])))
add("text_generation.engine", "sealed", "another engine", lambda b: b.kind("engine")[0].update(name="other"))
add("text_generation.engine", "sealed", "a cache said to need less", lambda b: b.kind("engine")[0].update(kv_bytes_per_token=64))
add("text_generation.loads", "sealed", "a slow load left out", lambda b: events(b, TEXT).remove(b.kind("load")[1]))
add("text_generation.loads", "sealed", "a slow load called discarded", lambda b: b.kind("load")[1].update(kind="discarded"))
add(
    "text_generation.compiled",
    "sealed",
    "compiled where the case is eager",
    lambda b: events(b, TEXT).insert(6, {"t": 3_000_020, "e": "compiled", "begin_ns": 3_000_010, "mode": "default"}),
)
add("text_generation.rounds", "sealed", "a round called warm-up", lambda b: b.kind("round_start")[1].update(phase="warmup"))
add("text_generation.requests", "sealed", "a request of another round", lambda b: b.kind("submit")[2].update(round=0))
add("text_generation.prompt", "sealed", "a shorter prompt", lambda b: b.kind("submit")[3].update(prompt_tokens=4))
add("text_generation.prompt", "sealed", "a prompt of another seed", lambda b: b.kind("submit")[0].update(prompt_sha256="0" * 64))
add("text_generation.output", "sealed", "a token too many", lambda b: b.kind("tokens")[-1].update(ids=[1, 2]))
add("text_generation.output", "sealed", "a token outside the vocabulary", lambda b: b.kind("tokens")[-1].update(ids=[256]))
add("text_generation.finish", "sealed", "a request that broke off", lambda b: b.kind("finish")[-1].update(reason="error"))
add("text_generation.memory", "sealed", "no word of memory", lambda b: events(b, TEXT).remove(b.kind("memory")[0]))
add("text_generation.judged", "sealed", "an easier prompt", lambda b: b.kind("judged")[0].update(prompt_sha256="0" * 64))
add("text_generation.judged", "sealed", "a token that nobody judged", lambda b: b.kind("judged")[0].update(nll=[0.5]))
add("text_generation.greedy", "sealed", "a token of another model", lambda b: b.kind("judged")[0].update(nll=[0.5, 3.5], gap=[0.0, 3.0]))
add(
    "text_generation.send",
    "sealed",
    "a client that sent one of six requests",
    lambda b: events(b, TEXT).insert(events(b, TEXT).index(b.kind("submit")[1]) + 1, {"t": 10_000_000, "e": "send", "request": 0}),
    "text_generation.client",
)


def no_parameters(bench: Bench) -> None:
    """A thousand parameters in a case whose file names seven billion."""
    for case in (bench.plan.document["cases"][1], bench.handed[TEXT]["case"]):
        case["model"]["parameters"] = 6_738_415_616


def renumbered(bench: Bench) -> None:
    """The last round's answers are those of requests asked for later, which were faster."""
    for event in events(bench, TEXT):
        if event.get("request") in (4, 5):
            event["request"] += 2
        if event["e"] == "submit":
            event["prompt_sha256"] = prompt(event["request"])


def of_a_server(bench: Bench) -> None:
    """What a client saw, without the client's word."""
    for case in (bench.plan.document["cases"][1], bench.handed[TEXT]["case"]):
        case["engine"] = "openai"
        case["server"] = {"url": "http://127.0.0.1:8000", "model": "m", "processes": 1, "stall_s": 60}
    bench.kind("engine")[0].update(name="openai")


def on_a_card(bench: Bench) -> None:
    """A million parameters that weighed next to nothing."""
    bench.kind("environment")[0].update(device="xpu")
    bench.kind("model")[0].update(parameters=10**6)
    bench.kind("memory")[0].update(peak_bytes=4 * 10**6)


def long(bench: Bench, *delays_ns: int) -> None:
    """Requests of 16 tokens, one in about 0.2 ms; each round's are later by a share of its delay, the last token by all of it."""
    for case in (bench.plan.document["cases"][1], bench.handed[TEXT]["case"]):
        case["output_tokens"] = 16
    bench.kind("engine")[0].update(needed_tokens=48)
    lines = events(bench, TEXT)
    for event in bench.kind("tokens"):
        lines.remove(event)
    for number, start in enumerate(bench.kind("round_start")):
        at = lines.index(next(event for event in bench.kind("finish") if event["request"] == 2 * number))
        times = [start["t"] + 3_000_000 + step * (200_003 + delays_ns[number]) for step in range(16)]
        lines[at:at] = [{"t": t, "e": "tokens", "request": 2 * number + one, "ids": [3]} for t in times for one in (0, 1)]


def loaded_alike(bench: Bench, *durations_ns: int) -> None:
    """Warm loads that lasted so long."""
    for case in (bench.plan.document["cases"][1], bench.handed[TEXT]["case"]):
        case["measured_loads"] = len(durations_ns)
    lines, last = events(bench, TEXT), bench.kind("load")[1]
    at = lines.index(last)
    begins = [2_000_000 + 200_000 * number for number in range(len(durations_ns))]
    lines[at : at + 1] = [last | {"begin_ns": b, "t": b + lasted} for b, lasted in zip(begins, durations_ns, strict=True)]


add("text_generation.loads", "sealed", "the best load four times", lambda b: loaded_alike(b, *[123_457] * 4))
add("text_generation.model", "sealed", "a millionth of the model", no_parameters)
add("text_generation.model", "sealed", "random weights with a digest", lambda b: b.kind("model")[0].update(weights_sha256="0" * 64))
add("text_generation.copied", "sealed", "the best round told again", lambda b: long(b, 7, 3, 3))
add("text_generation.loads", "sealed", "a load within another", lambda b: b.kind("load")[1].update(begin_ns=999_999))
add("text_generation.memory", "sealed", "less memory than the weights have", on_a_card)
add("text_generation.output", "sealed", "more tokens than the server counted", lambda b: b.kind("finish")[0].update(usage_tokens=2))
add("text_generation.requests", "sealed", "requests of a later time", renumbered)
add("text_generation.send", "sealed", "a server without a client", of_a_server)
add("text_generation.judged", "sealed", "a token of no vocabulary", lambda b: b.kind("judged")[0].update(ids=[1, 256]))
add("text_generation.judged", "sealed", "two tokens that are likelier than certain", lambda b: b.kind("judged")[0].update(nll=[0.5, 0.25]))
add("text_generation.judged", "sealed", "the likeliest of 256, and rarer than each", lambda b: b.kind("judged")[0].update(nll=[5.6, 0.75]))


@attack("text_generation.requests", "sealed")
def submitted_when_its_turn_came(bench: Bench) -> None:
    """Who is asked late waits less for the first token."""
    lines, late = events(bench, TEXT), bench.kind("submit")[3]
    lines.remove(late)
    late["t"] += 4_000_000
    lines.insert(lines.index(bench.kind("submit")[2]) + 1, late)


@attack("text_generation.prompt", "sealed")
def easy_prompts_where_nobody_looked(bench: Bench) -> None:
    """The true prompts at the ends alone."""
    for submit in bench.kind("submit")[1:-1]:
        submit["prompt_sha256"] = f"{submit['request']:064x}"


@attack("text_generation.requests", "sealed")
def one_after_the_other(bench: Bench) -> None:
    """Requests of a round that wait for each other have the device for themselves."""
    lines = events(bench, TEXT)
    first = bench.kind("submit")[1]
    lines.remove(first)
    last = next(event for event in lines if event["e"] == "tokens" and event["request"] == 0 and event["ids"] == [2])
    mine = [event for event in lines if event.get("request") == 1]
    for event in mine:
        lines.remove(event)
    place = lines.index(bench.kind("finish")[0]) + 1
    lines[place:place] = [event | {"t": last["t"]} for event in [first, *mine]]


@attack("text_generation.prompt", "sealed")
def the_same_prompt_twice(bench: Bench) -> None:
    """A prompt met before is in the cache."""
    submits = bench.kind("submit")
    submits[1]["prompt_sha256"] = submits[0]["prompt_sha256"]


def quantised(bench: Bench, nll: float) -> None:
    """An INT8 case whose text of 2040 tokens costs `nll` nats with quantisation, and 2040 without."""
    for case in (bench.plan.document["cases"][1], bench.handed[TEXT]["case"]):
        case["quantization"] = "w8a16"
    digest = table(judged.DATA)["text_sha256"]
    lines = events(bench, TEXT)
    for kind, found in (("none", 2040.0), ("w8a16", nll)):
        lines.insert(
            -1, {"t": lines[-1]["t"], "e": "perplexity", "quantization": kind, "text_sha256": digest, "tokens": 2040, "nll": found}
        )


def another_text(bench: Bench) -> None:
    for event in bench.kind("perplexity"):
        event["text_sha256"] = "0" * 64


def many_tokens(bench: Bench) -> None:
    """A text of a million tokens has nearly the same perplexity, whatever the difference in nats."""
    for event in bench.kind("perplexity"):
        event["tokens"] = 10**6


add("text_generation.int8", "sealed", "INT8 without its gate", lambda b: (quantised(b, 2040.0), events(b, TEXT).pop(-2)))
add("text_generation.int8", "sealed", "INT8 spread over more tokens", lambda b: (quantised(b, 9000.0), many_tokens(b)))
add("text_generation.int8", "sealed", "INT8 on an easier text", lambda b: (quantised(b, 2040.0), another_text(b)))


@attack("text_generation.window", "sealed")
def all_in_no_time(bench: Bench) -> None:
    begin = bench.kind("round_start")[1]["t"]
    for event in events(bench, TEXT):
        event["t"] = min(event["t"], begin)


def arriving(bench: Bench) -> None:
    """A case of arrivals, two a round at a thousand a second, submitted when the seed says."""
    for case in (bench.plan.document["cases"][1], bench.handed[TEXT]["case"]):
        case["arrival"] = {"requests": 2, "rate_per_s": 1000, "first_token_ms": 5, "per_token_ms": 1}
    due = [requests.offsets(bench.handed[TEXT]["case"], number) for number in range(3)]
    for event in bench.kind("submit"):
        event["t"] += due[event["round"]][event["request"] % 2]


@attack("text_generation.arrival", "sealed")
def arrivals_well_apart(bench: Bench) -> None:
    """Requests that come well apart are answered sooner than those that come in bursts."""
    arriving(bench)
    bench.kind("submit")[1]["t"] += 2000


@attack("text_generation.arrival", "sealed")
def arrivals_that_all_come_late(bench: Bench) -> None:
    """Each in its time from the next, all of them when the answers are nearly there."""
    arriving(bench)
    for event in bench.kind("submit"):
        event["t"] += 10_000


@attack("text_generation.client", "sealed")
def a_client_that_was_never_late(bench: Bench) -> None:
    """Every request sent, and no word of how late the client's loop was."""
    lines = events(bench, TEXT)
    for submit in bench.kind("submit"):
        lines.insert(lines.index(submit) + 1, {"t": submit["t"], "e": "send", "request": submit["request"]})


SHAPE = {
    "architecture": "llama", "hidden_size": 192, "num_layers": 4, "num_heads": 4, "num_kv_heads": 2, "ffn_size": 512, "vocab_size": 256,
    "sequence_length": 512,
}  # fmt: skip


def taught(bench: Bench, ids: list[int]) -> None:
    """A case of the weights for which a reference is stored, of which nobody but the reference judges what they go on with."""
    lock = (ROOT / "baselines/weights/taught-text/weights.lock.json").read_bytes()
    for case in (bench.plan.document["cases"][1], bench.handed[TEXT]["case"]):
        case.update(weights="taught-text", model=SHAPE, judge={"prompts": 1, "tokens": len(ids), "reference": "none"})
    bench.kind("model")[0].update(weights="file", weights_sha256=hashlib.sha256(lock).hexdigest())
    bench.kind("engine")[0].update(kv_bytes_per_token=2 * 4 * 2 * 48 * 4)
    bench.kind("judged")[0].update(ids=ids, nll=[], gap=[])


def stored() -> list[int]:
    """What the stored float32 model says after the first frozen prompt."""
    return list(table(judged.DATA)["reference"][0]["outputs"][0]["ids"])


@attack("text_generation.reference", "sealed")
def another_model_answers(bench: Bench) -> None:
    """A model with fewer layers is faster, and says something else where the true one was sure."""
    taught(bench, [*stored()[:2], stored()[2] ^ 1, *stored()[3:8]])
