"""Ranks that an engine of another library starts out of the worker archive, with a stand-in for lmdeploy whose ranks are real processes."""

from __future__ import annotations

import asyncio
import importlib.machinery
import importlib.util
import json
import os
import re
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from kit import archive, plan  # noqa: E402
from kit.worker.engines import Facts, lmdeploy  # noqa: E402
from tests.conftest import ROOT  # noqa: E402

pytestmark = pytest.mark.torch
HANGS_S = 900  # no measure of speed: what hangs, hangs for good
SMALL = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 2, "ffn_size": 32, "vocab_size": 64, "sequence_length": 64}
PACKAGE = """
import types

GenerationConfig = PytorchEngineConfig = types.SimpleNamespace
"""
ENGINE = """
import os
import signal
import time
import types

import torch.distributed as dist
import torch.multiprocessing as mp


class Rank:
    # as the library does it: a bound method in a spawned daemon, which meets the others in a group

    def main(self, number, world, queue, notifier, fault):
        import torch

        if fault == "dies":
            os._exit(number * 3)  # the other one waits for it

        dist.init_process_group("gloo", rank=number, world_size=world)
        total = torch.tensor(number + 1)
        dist.all_reduce(total)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a rank that hangs
        queue.put((number, int(total)))
        notifier.event.wait()


class Notifier:
    # as in the library: told to end, it waits until each rank that slept has woken up
    def __init__(self, spawn):
        self.event = spawn.Event()

    def close(self):
        self.event.set()


class Instance:
    def __init__(self, engine):
        self.token = engine.totals[1]

    async def async_stream_infer(self, session, prompt, gen_config, stream_output):
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
        queue, world, fault = spawn.Queue(), engine_config.tp, os.environ.get("FAULT")
        notifier = Notifier(spawn)
        given = (world, queue, notifier, fault)
        cls.ranks = [spawn.Process(target=Rank().main, args=(n, *given), daemon=True) for n in range(world)]
        for rank in cls.ranks:
            rank.start()
        cls.totals = dict(queue.get() for _ in cls.ranks)
        assert cls.totals == {0: 3, 1: 3}, cls.totals
        if fault == "start":
            raise RuntimeError("no room for the cache")
        return cls(notifier)

    def __init__(self, notifier):
        self.executor = types.SimpleNamespace(comm_buf=types.SimpleNamespace(notifier=notifier), ret_bufs=[])

    def start_loop(self):
        pass

    def create_instance(self):
        return Instance(self)

    def close(self):
        notifier = self.executor.comm_buf.notifier
        if os.environ.get("FAULT") == "hangs":
            while notifier.event._cond._sleeping_count.get_value() < 2:
                time.sleep(0.01)
        else:
            notifier.close()
        for rank in self.ranks:
            rank.join()
        notifier.close()
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


def ran(tmp_path: Path, fault: str | None = None) -> tuple[subprocess.CompletedProcess[str], list[dict[str, Any]]]:
    """The worker archive over the stand-in: how it ended, and its events."""
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
    told |= {"FAULT": fault} if fault else {}
    command = [sys.executable, made, folder / "case.json", folder]
    done = subprocess.run(command, env=told, capture_output=True, text=True, check=False, timeout=HANGS_S)
    return done, [json.loads(line) for line in (folder / "events-00000.jsonl").read_bytes().splitlines()]


@pytest.mark.parametrize("fault", [None, "hangs"])
def test_ranks_are_spawned_out_of_the_worker_archive(fault: str | None, tmp_path: Path) -> None:
    """Also where they do not end when told to, and are killed while they wait."""
    done, lines = ran(tmp_path, fault)
    assert done.returncode == 0, done.stderr
    assert (lines[-1]["e"], lines[-1]["state"]) == ("case_end", "done")
    assert [line["version"] for line in lines if line["e"] == "engine"] == ["0.18.0 (PyTorch engine, ranks by mp)"]
    assert {one for line in lines if line["e"] == "tokens" for one in line["ids"]} == {3}


def test_a_start_that_fails_behind_its_ranks_ends_them_and_the_case(tmp_path: Path) -> None:
    done, lines = ran(tmp_path, "start")
    assert done.returncode == 1, done.stderr
    assert lines[-1]["reason"] == "RuntimeError: no room for the cache"


def test_a_rank_that_dies_while_the_library_waits_for_it_ends_the_case(tmp_path: Path) -> None:
    done, _ = ran(tmp_path, "dies")
    assert done.returncode == 1
    assert re.search(r"^worker: SpawnProcess-\d of lmdeploy exited with 3 while the engine was starting", done.stderr, re.MULTILINE)


def test_an_engine_that_cannot_be_stopped_gives_its_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stuck:
        def close(self) -> None:
            raise OSError("a card is gone")

    library, loop, gone = Stuck(), asyncio.new_event_loop(), []
    held, task = weakref.ref(library), loop.create_task(asyncio.sleep(3600))
    monkeypatch.setattr(lmdeploy.reference, "free", lambda _: gone.append(held() is None))
    engine = lmdeploy.LMDeployEngine(library, loop, torch.device("cpu"), Facts("stand-in", 1))
    del library
    with pytest.raises(OSError, match="a card is gone"):
        engine.unload()
    assert gone == [True]
    assert task.cancelled()
    assert loop.is_closed()
