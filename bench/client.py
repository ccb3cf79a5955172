"""The measuring client against others, on a mock server that knows the truth: `python -m bench client --help`.

Server and client are pinned to one processor each. A tool's error is the mean of its first-token times less the mean of what really
happened to the same requests. CPU time is that of a run less that of the same run with two tokens out, so that start-up and the making
of prompts are not in it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import ours, peers
from bench.peers import Tool
from kit.worker.engines import openai
from tests.mockserver.started import Started, started

SERVER_CPU, CLIENT_CPU = 0, 1
BURSTS = {
    "64 x 256 -> 128": ({"concurrency": 64, "input": 256, "output": 128, "requests": 256}, ("--first-ms", 100, "--step-ms", 15)),
    "96 x 1024 -> 1024": ({"concurrency": 96, "input": 1024, "output": 1024, "requests": 96}, ("--first-ms", 300, "--step-ms", 10)),
}
FLAT, FLAT_FIRST_MS = {"concurrency": 32, "input": 256, "output": 2048, "requests": 32}, 500
EDGES_MS = (500, 1000, 3000)  # tiers of the report, right-closed
OFF_MS = 15
CONCURRENCY = {7: (1, 8, 16, 32, 64), 65: (1, 8, 16, 32, 64, 80, 96)}
LENGTHS = ((256, 128), (256, 512), (256, 1024), (512, 128), (512, 512), (512, 1024), (1024, 1024))


@contextlib.contextmanager
def server(options: tuple[object, ...]) -> Iterator[Started]:
    """A mock server on its processor."""
    with started("--cpu", SERVER_CPU, *options) as found:
        yield found


def run(tool: Tool, load: dict[str, Any]) -> float:
    """CPU seconds of a tool's whole process tree, on the client's processor."""
    before = os.times()
    done = subprocess.run(
        tool.command(load),
        check=False,
        preexec_fn=lambda: os.sched_setaffinity(0, {CLIENT_CPU}),
        capture_output=True,
        text=True,
        cwd=load["out"],
        env=_environment(),
    )
    after = os.times()
    if done.returncode:
        raise SystemExit(f"{tool.name} ended with {done.returncode}: {done.stderr[-2000:]}")
    return after.children_user + after.children_system - before.children_user - before.children_system


def _environment() -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[1])
    return {**{name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}, "PYTHONPATH": root}


def mine(processes: int = 1) -> Tool:
    """Our client as a tool."""

    def command(load: dict[str, Any]) -> list[str]:
        numbers = (load["concurrency"], load["input"], load["output"], load["requests"] // load["concurrency"], processes)
        return [sys.executable, "-m", "bench.ours", load["url"], str(load["out"]), *map(str, numbers)]

    def said(load: dict[str, Any]) -> dict[str, Any]:
        return dict(json.loads((Path(str(load["out"])) / "ours.json").read_text()))

    return Tool("ours", command, lambda load: said(load)["first_ms"], lambda load: sum(mark["whole_s"] for mark in said(load)["marks"]))


def received(load: dict[str, Any]) -> float:
    """Chunks a second of the best of our rounds, from the first chunk's arrival until the last was read."""
    marks = json.loads((Path(str(load["out"])) / "ours.json").read_text())["marks"]
    return max(float(mark["chunks"] / mark["received_s"]) for mark in marks)


def measured(tool: Tool, load: dict[str, Any], options: tuple[object, ...]) -> dict[str, float]:
    """One run of a tool: its error and mean in ms, CPU seconds, chunks a second, and how late the server itself was in ms."""
    with server(options) as found, tempfile.TemporaryDirectory() as out:
        filled = load | {"url": found.url, "out": Path(out)}
        cpu_s = run(tool, filled)
        said, truth = tool.first_ms(filled), found.truth()[-load["requests"] :]
        whole_s, rate = tool.whole_s(filled), received(filled) if tool.name == "ours" else 0.0
    true = [(one["first_ns"] - one["arrival_ns"]) / 1e6 for one in truth]
    late = [(one["first_ns"] - one["due_ns"]) / 1e6 for one in truth]
    chunks = sum(one["chunks"] for one in truth)
    return {
        "error_ms": statistics.mean(said) - statistics.mean(true),
        "mean_ms": statistics.mean(said),
        "true_ms": statistics.mean(true),
        "cpu_s": cpu_s,
        "chunks": chunks,
        "whole_s": whole_s,
        "received_per_s": rate,
        "server_late_ms": statistics.mean(late),
        "requests": len(said),
    }


def bursts(tools: list[Tool], repeats: int) -> list[dict[str, Any]]:
    """First-token errors, peers and ours in turn and back again."""
    rows = []
    for name, (load, options) in BURSTS.items():
        for turn in range(repeats):
            for tool in tools if turn % 2 == 0 else tools[::-1]:
                found = measured(tool, load, options)
                rows.append({"case": name, "tool": tool.name, "turn": turn, "load": os.getloadavg()[0], **found})
                show(rows[-1])
    return rows


def cpu(tools: list[Tool], repeats: int) -> list[dict[str, Any]]:
    """CPU seconds a hundred thousand chunks, start-up and prompts taken out."""
    load, options = BURSTS["96 x 1024 -> 1024"]
    rows = []
    for turn in range(repeats):
        for tool in tools if turn % 2 == 0 else tools[::-1]:
            whole = measured(tool, load, options)
            start = measured(tool, load | {"output": 2}, options)
            each = (whole["cpu_s"] - start["cpu_s"]) / (whole["chunks"] - start["chunks"]) * 1e5
            rows.append(
                {
                    "case": "cpu",
                    "tool": tool.name,
                    "turn": turn,
                    "cpu_s_per_100k": each,
                    "whole_s": whole["cpu_s"],
                    "start_s": start["cpu_s"],
                }
            )
            rows[-1] |= {"load": os.getloadavg()[0], "error_ms": whole["error_ms"], "server_late_ms": whole["server_late_ms"]}
            show(rows[-1])
    return rows


def flat(tools: list[Tool], repeats: int) -> list[dict[str, Any]]:
    """Chunks a second as fast as the socket takes them: a whole load less its first delay, reading included; ours also as received."""
    rows = []
    for turn in range(repeats):
        for tool in tools if turn % 2 == 0 else tools[::-1]:
            found = measured(tool, FLAT, ("--first-ms", FLAT_FIRST_MS, "--flat"))
            rate = found["chunks"] / (found["whole_s"] - FLAT_FIRST_MS / 1000)
            rows.append({"case": "flat", "tool": tool.name, "turn": turn, "chunks_per_s": rate, **found})
            show(rows[-1])
    return rows


def tiers(tools: list[Tool], levels: list[int]) -> list[dict[str, Any]]:
    """Truth 15 ms beside each edge of a tier, at every concurrency of the report: is the tool's mean in the tier of the truth?"""
    rows = []
    for concurrency in levels:
        for edge in EDGES_MS:
            for side in (-OFF_MS, OFF_MS):
                load = {"concurrency": concurrency, "input": 256, "output": 2, "requests": concurrency}
                for tool in tools:
                    found = measured(tool, load, ("--first-ms", edge + side, "--step-ms", 10, "--apart"))
                    right = tier(found["mean_ms"]) == tier(found["true_ms"])
                    rows.append(
                        {"case": "tier", "tool": tool.name, "concurrency": concurrency, "edge": edge, "side": side, "right": right, **found}
                    )
                    show(rows[-1])
    return rows


def tier(mean_ms: float) -> int:
    """Number of the report's tier, by its right-closed edges."""
    return sum(mean_ms > edge for edge in EDGES_MS)


def lengths() -> list[dict[str, Any]]:
    """Every length of the report's 84 cases, as the server got it and as it gave it, tokens from 1, 2, 4 and 8 a chunk."""
    wrong, cases = 0, 0
    drawn = random.Random(2)
    for number, (model, levels) in enumerate(CONCURRENCY.items()):
        for concurrency in levels:
            size = 2 ** ((cases // 7) % 4)
            with server(("--first-ms", 50, "--flat", "--tokens-per-chunk", size)) as found:
                engine = openai.load(ours.case(found.url, concurrency), None)
                found.truth()
                for input_tokens, output_tokens in LENGTHS:
                    items = list(engine.generate(ours.prompts(drawn, concurrency, input_tokens), output_tokens))
                    got: dict[int, int] = dict.fromkeys(range(concurrency), 0)
                    for item in items:
                        if isinstance(item, ours.Chunk):
                            got[item.request] += len(item.ids)
                    truth = [(one["prompt_tokens"], one["tokens"]) for one in found.truth()]
                    exact = truth == [(input_tokens, output_tokens)] * concurrency and set(got.values()) == {output_tokens}
                    cases, wrong = cases + 1, wrong + (not exact)
                engine.unload()
        print(f"{'7B' if not number else '65B/70B'} ({model}): {cases} cases so far, {wrong} not exact", flush=True)
    return [{"case": "lengths", "tool": "ours", "cases": cases, "wrong": wrong}]


def drift(minutes: float) -> list[dict[str, Any]]:
    """Rounds of 64 x 256 -> 128 for some minutes: the error of each minute, and memory."""
    rows: list[dict[str, Any]] = []
    drawn = random.Random(3)
    with server(("--first-ms", 100, "--step-ms", 15)) as found:
        os.sched_setaffinity(0, {CLIENT_CPU})
        engine = openai.load(ours.case(found.url, 64), None)
        found.truth()
        begin = time.monotonic()
        while time.monotonic() - begin < minutes * 60:
            waits = ours.first_ms(list(engine.generate(ours.prompts(drawn, 64, 256), 128)))
            truth = found.truth()
            true = statistics.mean((one["first_ns"] - one["arrival_ns"]) / 1e6 for one in truth)
            held = [int(Path(f"/proc/{child.pid}/statm").read_text().split()[1]) * 4096 for child in engine.clients._children]
            minute = int((time.monotonic() - begin) / 60)
            rows.append({"case": "drift", "minute": minute, "error_ms": statistics.mean(waits.values()) - true, "bytes": sum(held)})
        engine.unload()
    for minute in sorted({row["minute"] for row in rows}):
        these = [row for row in rows if row["minute"] == minute]
        errors = [row["error_ms"] for row in these]
        found_ms = f"error {statistics.mean(errors):.3f} ms (median {statistics.median(errors):.3f}, max {max(errors):.3f})"
        print(f"minute {minute}: {len(these)} rounds, {found_ms}, {these[-1]['bytes'] / 1e6:.1f} MB", flush=True)
    return rows


def ahead() -> None:
    """A session of its own, before all others: what runs in it shares its processors by the usual rules."""
    with contextlib.suppress(PermissionError):
        os.setsid()
    Path("/proc/self/autogroup").write_text("-20")


def show(row: dict[str, Any]) -> None:
    """One row, as it is measured."""
    print("  ".join(f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}" for name, value in row.items()), flush=True)


PARTS = ("bursts", "cpu", "flat", "tiers", "lengths", "drift")


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench client", description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; the first by default, none with --install")
    parser.add_argument("--peers", type=Path, help="folder with the peers' environments; without it ours alone is measured")
    parser.add_argument("--install", action="store_true", help="make those that are not there first")
    parser.add_argument("--only", nargs="*", default=(), help="peers by name")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--at", nargs="*", type=int, default=list(CONCURRENCY[65]), help="tiers: sessions at once")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--ahead", action="store_true", help="before other sessions of this machine (needs the right)")
    parser.add_argument("--out", type=Path, help="write all rows here, a JSON object a line")
    given = parser.parse_args(argv)
    unknown = [part for part in given.parts if part not in PARTS]
    if unknown:
        parser.error(f"{unknown[0]} is no part; known: {', '.join(PARTS)}")
    if given.install:
        if not given.peers:
            parser.error("--install needs to know where: add --peers DIR")
        peers.install(given.peers)
    parts = given.parts or ([] if given.install else PARTS[:1])
    if not parts:
        return
    found = {tool.name: tool for tool in (peers.tools(given.peers.resolve()) if given.peers else [])}
    wanted = given.only or list(found) or (peers.names() if given.peers else [])
    missing = [name for name in wanted if name not in found]
    if missing:
        where = f" below {given.peers}; add --install" if given.peers else ": add --peers DIR"
        parser.error(f"{', '.join(missing)} not installed{where}; known: {', '.join(peers.names())}")
    if given.ahead:
        ahead()
    tools = [mine(), *(found[name] for name in wanted)]
    print(f"processors {os.cpu_count()}, load {os.getloadavg()[0]:.1f}, ahead {given.ahead}, tools {[tool.name for tool in tools]}")
    acts = {
        "bursts": lambda: bursts(tools, given.repeats),
        "cpu": lambda: cpu(tools, given.repeats),
        "flat": lambda: flat(tools, given.repeats),
        "tiers": lambda: tiers(tools, given.at),
        "lengths": lengths,
        "drift": lambda: drift(given.minutes),
    }
    for part in parts:
        print(f"-- {part}", flush=True)
        rows = acts[part]()
        if given.out:
            with given.out.open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
