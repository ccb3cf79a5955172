"""Ranks that an engine of another library starts out of the worker archive, with a stand-in for lmdeploy whose ranks are real processes."""

from __future__ import annotations

import asyncio
import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from kit import archive, plan  # noqa: E402
from kit.worker.engines import lmdeploy  # noqa: E402
from tests.conftest import ROOT  # noqa: E402

pytestmark = pytest.mark.torch
SMALL = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 2, "ffn_size": 32, "vocab_size": 64, "sequence_length": 64}
PACKAGE = """
import types

GenerationConfig = PytorchEngineConfig = types.SimpleNamespace
"""
ENGINE = """
import asyncio
import os
import types

import torch.distributed as dist
import torch.multiprocessing as mp


class Rank:
    # as the library does it: a bound method in a spawned daemon, which meets the others in a group

    def main(self, number, world, queue):
        import torch

        dist.init_process_group("gloo", rank=number, world_size=world)
        total = torch.tensor(number + 1)
        dist.all_reduce(total)
        queue.put((number, int(total)))


class Buffer:
    # the way to the ranks: as in the library, two messages at a time are one too many
    busy = False

    async def send_async(self, data):
        assert not self.busy, "two messages at a time"
        self.busy = True
        await asyncio.sleep(0.01)
        self.busy = False


class Instance:
    def __init__(self, engine):
        self.buffer, self.token = engine.executor.comm_buf, engine.totals[1]

    async def async_stream_infer(self, session, prompt, gen_config, stream_output):
        await self.buffer.send_async(prompt)
        yield types.SimpleNamespace(status=types.SimpleNamespace(name="FINISH"), token_ids=[self.token] * gen_config.max_new_tokens)


class Engine:
    cache_config = types.SimpleNamespace(num_gpu_blocks=8, block_size=64)

    @classmethod
    def from_pretrained(cls, path, engine_config):
        assert engine_config.distributed_executor_backend == "mp", engine_config
        import socket

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            os.environ["MASTER_PORT"] = str(probe.getsockname()[1])
        os.environ["MASTER_ADDR"] = "127.0.0.1"
        spawn = mp.get_context("spawn")
        queue, world = spawn.Queue(), engine_config.tp
        cls.ranks = [spawn.Process(target=Rank().main, args=(n, world, queue), daemon=True) for n in range(world)]
        for rank in cls.ranks:
            rank.start()
        cls.totals = dict(queue.get() for _ in cls.ranks)
        assert cls.totals == {0: 3, 1: 3}, cls.totals
        return cls()

    def __init__(self):
        self.executor = types.SimpleNamespace(comm_buf=Buffer())

    def start_loop(self):
        pass

    def create_instance(self):
        return Instance(self)

    def close(self):
        for rank in self.ranks:
            rank.join()
"""


def small() -> dict[str, Any]:
    """The case of several cards, with a small model and short rounds."""
    found = next(one for one in plan.load(str(ROOT / "tests/device/cards-suites.toml")).cases if one["suite"] == "text_generation")
    return found | {"model": found["model"] | SMALL, "concurrency": 2, "input_tokens": 8, "output_tokens": 4}


@pytest.mark.parametrize(("cards", "ray", "starter"), [(1, False, None), (1, True, None), (2, False, "mp"), (2, True, "ray")])
def test_ray_starts_the_ranks_where_it_is_installed(cards: int, ray: bool, starter: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.machinery.ModuleSpec("ray", None) if ray else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec if name == "ray" else pytest.fail(name))
    assert lmdeploy.ranks_by(cards) == starter


@pytest.mark.parametrize("alone", [True, False])
def test_messages_to_ranks_never_overlap(alone: bool) -> None:
    known: dict[str, Any] = {}
    exec(ENGINE, known)
    executor = known["types"].SimpleNamespace(comm_buf=known["Buffer"]())
    if alone:
        lmdeploy.one_message_at_a_time(executor)

    async def both() -> list[Any]:
        return await asyncio.gather(*(executor.comm_buf.send_async(n) for n in range(2)), return_exceptions=True)

    assert [type(one).__name__ for one in asyncio.run(both())] == ["NoneType", "NoneType" if alone else "AssertionError"]


def test_ranks_are_spawned_out_of_the_worker_archive(tmp_path: Path) -> None:
    made, packages, folder = tmp_path / "worker.pyz", tmp_path / "packages", tmp_path / "run"
    made.write_bytes(archive.to_bytes())
    (packages / "lmdeploy/pytorch").mkdir(parents=True)
    (packages / "lmdeploy-0.18.0.dist-info").mkdir()
    (packages / "lmdeploy-0.18.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: lmdeploy\nVersion: 0.18.0\n")
    (packages / "lmdeploy/__init__.py").write_text(PACKAGE)
    (packages / "lmdeploy/pytorch/__init__.py").write_text("")
    (packages / "lmdeploy/pytorch/engine.py").write_text(ENGINE)
    folder.mkdir()
    (folder / "case.json").write_text(json.dumps({"case": small(), "attempt": 1}))
    told = os.environ | {"PYTHONPATH": str(packages), "CHIPASSAY_DEVICE": "cpu", "CHIPASSAY_SCRATCH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, made, folder / "case.json", folder], env=told, capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in (folder / "events-00000.jsonl").read_bytes().splitlines()]
    assert done.returncode == 0, done.stderr
    assert (lines[-1]["e"], lines[-1]["state"]) == ("case_end", "done")
    assert [line["version"] for line in lines if line["e"] == "engine"] == ["0.18.0 (PyTorch engine, ranks by mp)"]
    assert {one for line in lines if line["e"] == "tokens" for one in line["ids"]} == {3}
