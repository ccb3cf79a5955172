"""Our client as a command, so that it is started, pinned and paid for like its peers: the `openai` engine, rounds of a closed loop."""

from __future__ import annotations

import json
import random
import resource
import sys
import time
from pathlib import Path
from typing import Any

from kit.worker.engines import Chunk, Client, Done, Failed, Request, Sent, Text, openai

SHAPE = {"hidden_size": 4096, "num_layers": 32, "num_heads": 32, "num_kv_heads": 32, "ffn_size": 11008, "vocab_size": 32000}


def case(url: str, concurrency: int, processes: int = 1) -> dict[str, Any]:
    """What the engine needs of a case."""
    server = {"url": url, "model": "mock", "processes": processes, "stall_s": 60}
    return {"model": SHAPE, "concurrency": concurrency, "server": server}


def prompts(drawn: random.Random, count: int, tokens: int) -> list[Request]:
    """Token ids, all different."""
    return [Request(number, [drawn.randrange(32000) for _ in range(tokens)]) for number in range(count)]


def first_ms(items: list[Any]) -> dict[int, float]:
    """Request -> first token - send, in ms."""
    sent = {item.request: item.submit_ns for item in items if isinstance(item, Sent)}
    first: dict[int, int] = {}
    for item in items:
        if isinstance(item, Chunk | Text):
            first[item.request] = min(item.ns, first.get(item.request, item.ns))
    return {number: (ns - sent[number]) / 1e6 for number, ns in first.items()}


def peak_bytes() -> int:
    """Largest resident size of the client's processes so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(argv: list[str]) -> None:
    url, out = argv[0], Path(argv[1])
    concurrency, tokens, output, rounds, processes = map(int, argv[2:])
    engine, drawn = openai.load(case(url, concurrency, processes), None), random.Random(1)
    waits: list[float] = []
    lags: list[int] = []
    marks: list[dict[str, float]] = []
    for _ in range(rounds):
        asked = prompts(drawn, concurrency, tokens)
        begin_ns = time.monotonic_ns()
        items = list(engine.generate(asked, output))
        end_ns = time.monotonic_ns()
        failed = [item.why for item in items if isinstance(item, Failed)]
        if failed:
            sys.exit(f"{len(failed)} requests failed, the first: {failed[0]}")
        waits += first_ms(items).values()
        lags += [lag for item in items if isinstance(item, Client) for lag in item.lag_ns]
        came = [item.ns for item in items if isinstance(item, Chunk | Text)]
        read = [item.ns for item in items if isinstance(item, Done)]  # when this process had read the last byte, not when that had arrived
        received_s, whole_s = (max(read) - min(came)) / 1e9, (end_ns - begin_ns) / 1e9
        marks.append({"chunks": len(came), "received_s": received_s, "whole_s": whole_s, "peak_bytes": peak_bytes()})
    engine.unload()
    (out / "ours.json").write_text(json.dumps({"first_ms": waits, "lag_ns": lags, "marks": marks}))


if __name__ == "__main__":
    main(sys.argv[1:])
