"""The script for an accelerator, from start to end on a CPU: a small model, and a stand-in for the library that no CPU runs."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
import types
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from kit import plan  # noqa: E402
from kit.worker.engines import Facts, lmdeploy  # noqa: E402
from kit.worker.models import causal  # noqa: E402
from tests.conftest import ROOT  # noqa: E402
from tests.device import generation  # noqa: E402

pytestmark = pytest.mark.torch
SMALL = {"hidden_size": 64, "num_layers": 2, "num_heads": 4, "num_kv_heads": 4, "ffn_size": 128, "vocab_size": 256, "sequence_length": 512}
PLAN = str(ROOT / "tests/device/generation.toml")
STEP_S = 0.001


class StandInInstance:
    """In place of the library's: the asked number of tokens, two a chunk."""

    async def async_stream_infer(self, session: int, prompt: list[int], gen_config: Any, **_: Any) -> AsyncIterator[Any]:
        for begin in range(0, gen_config.max_new_tokens, 2):
            await asyncio.sleep(STEP_S)
            yield types.SimpleNamespace(
                status=types.SimpleNamespace(name="SUCCESS"), token_ids=[1] * min(2, gen_config.max_new_tokens - begin)
            )


class StandInProfiler:
    """In place of the library's: counts what it is told, and times the whole."""

    def __init__(self, **_: Any) -> None:
        self.total_output, self.ttft_mean = 0, 0.001

    def new_session(self, *_: int) -> StandInProfiler:
        self.count = 0
        return self

    def tick(self, count: int) -> None:
        self.count = count

    def finish(self, *status: int) -> None:
        if status:
            self.total_output += self.count
        self.end = time.monotonic()

    def start(self) -> None:
        self.begin = time.monotonic()

    def compute_metrics(self) -> None:
        self.output_throughput = self.total_output / (self.end - self.begin)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The script's own plan with a small model and short rounds, on a CPU."""
    monkeypatch.setenv("CHIPASSAY_DEVICE", "cpu")
    monkeypatch.setenv(causal.SCRATCH, str(tmp_path))
    library, profiler = types.ModuleType("lmdeploy"), types.ModuleType("lmdeploy.profiler")
    library.GenerationConfig = types.SimpleNamespace  # type: ignore[attr-defined]
    profiler.Profiler, profiler.Session = StandInProfiler, types.SimpleNamespace(SUCCESS=1)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lmdeploy", library)
    monkeypatch.setitem(sys.modules, "lmdeploy.profiler", profiler)
    monkeypatch.setattr(lmdeploy, "load", stood_in)
    monkeypatch.setattr(generation, "WARM_TOKENS", 4)
    found = plan.load(PLAN)
    for case in found.cases:
        lengths = {"concurrency": min(case["concurrency"], 3), "input_tokens": 8, "output_tokens": 4}
        case.update({"model": case["model"] | SMALL, "dtype": "float32", "kv_dtype": "float32"} | lengths)
    monkeypatch.setattr(generation.plan, "load", lambda _: found)
    return tmp_path / "out.jsonl"


def stood_in(case: dict[str, Any], here: Any) -> lmdeploy.LMDeployEngine:
    """The engine module's own class around a stand-in for the library's engine."""
    library = types.SimpleNamespace(create_instance=StandInInstance, close=lambda: None)
    return lmdeploy.LMDeployEngine(library, asyncio.new_event_loop(), here, Facts("stand-in", 1, kv_tokens=1000))


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def test_every_part_is_done_and_written(small: Path) -> None:
    generation.main("generation.toml", small)
    found = rows(small)
    assert [(row["part"], row["ended"]) for row in found if "part" in row] == [
        ("lmdeploy", "done"), ("transformers-none", "done"), ("transformers-w8a16", "done"),
    ]  # fmt: skip
    compared = [case["id"] for case in plan.load(PLAN).cases if case["engine"] == "lmdeploy"]
    assert [row["case"] for row in found if row.get("ratio", 0) > 0] == compared
    assert {row["quantization"] for row in found if "quantization" in row} == {"none", "w8a16"}
    [gate] = [row["int8_perplexity_ratio"] for row in found if "int8_perplexity_ratio" in row]
    assert 0.9 < gate < 1.1


def test_a_part_that_fails_or_is_too_slow_leaves_what_it_had_and_the_next_begins(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*_: Any) -> None:
        signal.alarm(1)  # what is left of the cap by now
        time.sleep(600)

    monkeypatch.setattr(generation, "compared", slow)
    monkeypatch.setattr(generation.engines.module("transformers"), "quantize", lambda _: 1 / 0)
    generation.main("generation.toml", small)
    ended = {row["part"]: row["ended"] for row in rows(small) if "part" in row}
    assert ended["lmdeploy"].startswith("TimeoutError: longer than 300 s")
    assert ended["transformers-none"] == "done"
    assert ended["transformers-w8a16"].startswith("ZeroDivisionError")
    assert rows(small)[0]["engine"] == "lmdeploy"


def test_the_whole_takes_at_most_eight_minutes() -> None:
    others = [case for case in plan.load(PLAN).cases if case["engine"] != "lmdeploy"]
    assert generation.CAPS_S["lmdeploy"] + len(others) * generation.CAPS_S["other"] <= 8 * 60
