"""What the harness costs: the rounds of the suite and a bare loop with the library's own profiler, in turn, on one engine.

`python -m tests.device.generation PLAN.toml CASE ... ` prints one JSON object a case: tokens per second of each round, both ways, and their
ratio of medians. The engine is loaded once for all cases, which must differ in concurrency and lengths alone.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from typing import Any

from kit import plan
from kit.worker import device, engines, generation

PAIRS = {128: 4, 512: 2}  # measured rounds each way, by tokens out


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
    for number in range(PAIRS[case["output_tokens"]]):
        asked = [generation.requests(case, 2 * number + place) for place in (0, 1)]
        made = {way: way(engine, asked[place], case["output_tokens"]) for place, way in enumerate((ours, bare)[:: 1 if number % 2 else -1])}
        rows.append((*made[ours], *made[bare]))
    medians = [statistics.median(column) for column in zip(*rows, strict=True)]
    names = ("ours_tokens_per_s", "ours_first_ms", "ours_after_s", "bare_tokens_per_s", "bare_first_ms")
    found = dict(zip(names, medians, strict=True))
    return {"case": case["id"], "rounds": rows, **found, "ratio": medians[0] / medians[3]}


def main(path: str, names: list[str]) -> None:
    """Load once with room for the largest case, then compare case by case."""
    here = device.choose(0)
    cases = [case for case in plan.load(path).cases if case["id"] in names]
    largest = dict(cases[0])
    for field in ("concurrency", "input_tokens", "output_tokens"):
        largest[field] = max(case[field] for case in cases)
    module = engines.module(largest["engine"])
    module.prepare(largest, here)
    begin = time.monotonic()
    engine = module.load(largest, here)
    print(json.dumps({"load_s": time.monotonic() - begin, "kv_tokens": engine.facts.kv_tokens}), flush=True)
    for way in (ours, bare):
        way(engine, generation.requests(largest | {"output_tokens": 128}, 1000), 128)
    for case in cases:
        print(json.dumps(compared(engine, case)), flush=True)
    engine.unload()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
