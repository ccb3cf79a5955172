"""What the harness costs: the rounds of the suite and a bare loop with the library's own profiler, in turn, on one engine.

`python -m tests.device.generation tests/device/generation.toml OUT.jsonl` takes at most eight minutes of an accelerator. It writes each result as soon as there is one:
tokens per second of each round, both ways, and their ratio of medians; then an engine of ours alone, and one with INT8. The library's engine
is loaded once for all its cases, which must differ in concurrency and lengths alone. Rehearsed on a CPU with stand-ins by test_generation.py.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from kit import plan
from kit.worker import device, engines, generation
from tests.device import plain_training

PAIRS, FEW = {128: 4, 512: 2}, 2  # measured rounds each way, by tokens out
WARM_TOKENS = 128
CAPS_S = {"lmdeploy": 300, "other": 90}  # with two other parts: eight minutes


def ours(engine: Any, requests: list[engines.Request], tokens: int) -> tuple[float, float, float]:
    """(tokens/s, mean first-token latency in ms, seconds from the last token to the end of the call) of one round, as the suite has it."""
    begin = time.monotonic_ns()
    items = list(engine.generate(requests, tokens))
    end = time.monotonic_ns()
    chunks = [item for item in items if isinstance(item, engines.Chunk)]
    last, first = max(chunk.ns for chunk in chunks), {}
    for chunk in chunks:
        first[chunk.request] = min(first.get(chunk.request, chunk.ns), chunk.ns)
    count = sum(len(chunk.ids) for chunk in chunks)
    assert count == len(requests) * tokens
    return count * 1e9 / (last - begin), statistics.fmean(ns - begin for ns in first.values()) / 1e6, (end - last) / 1e9


def bare(engine: Any, requests: list[engines.Request], tokens: int) -> tuple[float, float]:
    """(tokens/s, mean first-token latency in ms) of one round by the library's profiler, around the same engine."""
    from lmdeploy import GenerationConfig
    from lmdeploy.profiler import Profiler, Session

    profiler = Profiler(stream_output=True, percentages=[50])
    asked = GenerationConfig(max_new_tokens=tokens, ignore_eos=True, do_sample=False, top_k=1)

    async def one(request: engines.Request, session: int) -> None:
        seen, count = profiler.new_session(len(request.prompt), tokens), 0
        seen.tick(0)
        async for found in engine.engine.create_instance().async_stream_infer(session, request.prompt, gen_config=asked):
            count += len(found.token_ids)
            seen.tick(count)
        seen.finish(Session.SUCCESS)

    async def everyone() -> None:
        profiler.start()
        await asyncio.gather(*[one(request, engine.sessions + place) for place, request in enumerate(requests)])
        profiler.finish()

    engine.loop.run_until_complete(everyone())
    engine.sessions += len(requests)
    profiler.compute_metrics()
    assert profiler.total_output == len(requests) * tokens
    return profiler.output_throughput, 1000 * profiler.ttft_mean


def compared(engine: Any, case: dict[str, Any]) -> dict[str, Any]:
    """Rounds in turn, ours first in one pair and second in the next, new prompts for each; the engine has been warmed."""
    rows = []
    for number in range(PAIRS.get(case["output_tokens"], FEW)):
        asked = [generation.requests(case, 2 * number + place) for place in (0, 1)]
        made = {way: way(engine, asked[place], case["output_tokens"]) for place, way in enumerate((ours, bare)[:: 1 if number % 2 else -1])}
        rows.append((*made[ours], *made[bare]))
    medians = [statistics.median(column) for column in zip(*rows, strict=True)]
    names = ("ours_tokens_per_s", "ours_first_ms", "ours_after_s", "bare_tokens_per_s", "bare_first_ms")
    found = dict(zip(names, medians, strict=True))
    return {"case": case["id"], "rounds": rows, **found, "ratio": medians[0] / medians[3]}


def shown(out: Path, row: dict[str, Any]) -> None:
    """One result, at once: what has been measured stays, however the call ends."""
    line = json.dumps(row)
    print(line, flush=True)
    with out.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def beside(cases: list[dict[str, Any]], here: Any, out: Path) -> None:
    """The library's engine, loaded once with room for the largest case, and its profiler beside our rounds, case by case."""
    largest = dict(cases[0])
    for field in ("concurrency", "input_tokens", "output_tokens"):
        largest[field] = max(case[field] for case in cases)
    module = engines.module(largest["engine"])
    module.prepare(largest, here)
    begin = time.monotonic()
    engine = module.load(largest, here)
    shown(out, {"engine": largest["engine"], "load_s": time.monotonic() - begin, "kv_tokens": engine.facts.kv_tokens})
    try:
        for way in (ours, bare):
            way(engine, generation.requests(largest | {"output_tokens": WARM_TOKENS}, 1000), WARM_TOKENS)
        for case in cases:
            shown(out, compared(engine, case))
    finally:
        engine.unload()


def alone(case: dict[str, Any], here: Any, out: Path) -> None:
    """Rounds of an engine of ours, the first of them thrown away; where it is quantised, the perplexity of the frozen text both ways."""
    module, nll = engines.module(case["engine"]), {}
    module.prepare(case, here)
    for kind in {case["quantization"], "none"} if case["quantization"] != "none" else {"none"}:
        engine = module.load(case | {"quantization": kind}, here)
        try:
            if kind == case["quantization"]:
                rows = [ours(engine, generation.requests(case, number), case["output_tokens"]) for number in range(3)][1:]
                shown(out, {"case": case["id"], "quantization": kind, "rounds": rows})
            if case["quantization"] != "none":
                nll[kind] = [value for window in generation.frozen_windows() for value in engine.losses(window)]
        finally:
            engine.unload()
    if nll:
        gained = statistics.fmean(nll[case["quantization"]]) - statistics.fmean(nll["none"])
        shown(out, {"case": case["id"], "int8_perplexity_ratio": math.exp(gained)})


def part(name: str, cap_s: int, act: Callable[[], None], out: Path) -> None:
    """Do a part within its cap; one that fails or is too slow is a line among the results, and the next begins."""

    def over(*_: object) -> None:
        raise TimeoutError(f"longer than {cap_s} s")

    signal.signal(signal.SIGALRM, over)
    signal.alarm(cap_s)
    begin = time.monotonic()
    try:
        act()
        said = "done"
    except Exception as error:  # the next part is worth its time, whatever this one died of
        said = f"{type(error).__name__}: {error}"[:300]
    finally:
        signal.alarm(0)
    shown(out, {"part": name, "seconds": round(time.monotonic() - begin, 1), "ended": said})


def main(path: str, out: Path) -> None:
    """All parts of a plan: its cases of lmdeploy together, then each other case."""
    cases = plan.load(path).cases
    os.environ.setdefault("CHIPASSAY_DEVICE", plain_training.where().type)
    here = device.choose(0)
    chosen = [case for case in cases if case["engine"] == "lmdeploy"]
    if chosen:
        part("lmdeploy", CAPS_S["lmdeploy"], lambda: beside(chosen, here, out), out)
    for case in cases:
        if case["engine"] != "lmdeploy":
            part(case["id"], CAPS_S["other"], partial(alone, case, here, out), out)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
