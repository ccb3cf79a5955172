"""LMDeploy's PyTorch engine, driven below its pipeline: token ids in, token ids out, no text made of them on the way.

All requests of a round are handed to the engine on one event loop; a chunk's time is taken when the engine hands its ids over. The
engine schedules by itself: what does not fit into its cache waits. Prefix caching stays off. On several cards the library's ranks are
processes of their own, started by Ray where that is installed and by Python's multiprocessing where it is not.
"""

from __future__ import annotations

import asyncio
import importlib.util
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from .. import reference, spawned
from ..generation import FROZEN_TOKENS
from ..models import causal
from . import Chunk, Done, Facts, Failed, Item, MissingEngine, Request, wanted

Case = dict[str, Any]
NS_PER_S = 10**9
KV_INT8 = 8  # the library's quant_policy
ENDED_WELL = ("SUCCESS", "FINISH")


class LMDeployEngine:
    """An engine of the library and the event loop it lives on."""

    arrivals = True

    def __init__(
        self, engine: Any, loop: asyncio.AbstractEventLoop, device: torch.device, facts: Facts, notifiers: Sequence[Any] = ()
    ) -> None:
        self.engine, self.loop, self.device, self.facts = engine, loop, device, facts
        self.notifiers = notifiers  # by which spawned ranks and this process wait for each other
        self.sessions = 0

    def generate(self, requests: Sequence[Request], output_tokens: int) -> Iterator[Item]:
        """All requests at once, or each when it is due; items are handed over when the last of them has ended."""
        return iter(self.loop.run_until_complete(self._round(requests, output_tokens)))

    async def _round(self, requests: Sequence[Request], output_tokens: int) -> list[Item]:
        from lmdeploy import GenerationConfig

        items: list[Item] = []
        asked = GenerationConfig(max_new_tokens=output_tokens, ignore_eos=True, do_sample=False, top_k=1)
        tasks = [self._one(request, asked, self.sessions + place, items) for place, request in enumerate(requests)]
        self.sessions += len(requests)
        await asyncio.gather(*tasks)
        return items

    async def _one(self, request: Request, asked: Any, session: int, items: list[Item]) -> None:
        """One request; its session is never used again."""
        if request.due_ns:
            await asyncio.sleep(max(0.0, (request.due_ns - time.monotonic_ns()) / NS_PER_S))
        instance = self.engine.create_instance()
        async for found in instance.async_stream_infer(session, request.prompt, gen_config=asked, stream_output=True):
            now = time.monotonic_ns()
            if found.status.name not in ENDED_WELL:
                items.append(Failed(request.number, now, f"the engine ended the request with {found.status.name}"))
                return
            if found.token_ids:
                items.append(Chunk(request.number, list(found.token_ids), now))
        items.append(Done(request.number, now))

    def unload(self) -> None:
        """Stop the engine, let its tasks end, and give the memory back, also where stopping fails; no rank is left."""
        try:
            with spawned.ending(self.notifiers):
                self._stop()
        except BaseException as error:
            traceback.clear_frames(error.__traceback__)  # they hold the engine, and it holds the memory
            raise
        finally:
            del self.engine
            reference.free(self.device)

    def _stop(self) -> None:
        try:
            self.engine.close()
        finally:
            pending = asyncio.all_tasks(self.loop)
            for task in pending:
                task.cancel()
            if pending:
                self.loop.run_until_complete(asyncio.wait(pending, timeout=spawned.STOP_S))
            self.loop.close()


def prepare(case: Case, device: torch.device) -> None:
    """Draw random weights into a checkpoint, which loading then reads."""
    causal.folder(case, device)
    reference.free(device)


def longest(case: Case) -> int:
    """Tokens of the longest session of a case, frozen prompts included."""
    return int(max(case["input_tokens"] + case["output_tokens"], FROZEN_TOKENS + case["judge"]["tokens"]))


def check(case: Case) -> None:
    """What the library's engines have of the case's precisions; NotImplementedError for the others."""
    if case["quantization"] != "none" or case["kv_dtype"] not in {case["dtype"], "int8"} or case["dtype"] == "float32":
        asked = f"dtype {case['dtype']}, quantization {case['quantization']}, KV cache {case['kv_dtype']}"
        raise NotImplementedError(f"engine '{case['engine']}' is driven with half precision and an INT8 KV cache at most, not {asked}")


def ranks_by(cards: int) -> str | None:
    """What starts the ranks of several cards, by the library's name for it; None on one card, which has no ranks."""
    if cards == 1:
        return None
    return "mp" if importlib.util.find_spec("ray") is None else "ray"


def load(case: Case, device: torch.device) -> LMDeployEngine:
    """The PyTorch engine over the case's folder of weights."""
    version = wanted("lmdeploy", "0.16", "0.19")
    check(case)
    from lmdeploy import PytorchEngineConfig
    from lmdeploy.pytorch.engine import Engine

    path, digest = causal.folder(case, device)
    starter = ranks_by(case["cards"])
    asked = PytorchEngineConfig(
        dtype=case["dtype"],
        tp=case["cards"],
        session_len=longest(case),
        max_batch_size=max(case["concurrency"], 1),
        quant_policy=KV_INT8 if case["kv_dtype"] == "int8" else 0,
        device_type=device.type,
        enable_metrics=False,
        distributed_executor_backend=starter,
    )
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    with spawned.starting("lmdeploy"):
        try:
            engine = Engine.from_pretrained(str(path), engine_config=asked)
        except SystemExit:  # what the library does where its own check of the device fails
            raise MissingEngine(
                f"lmdeploy {version} finds this machine unfit for its PyTorch engine; stderr.log of the case says why"
            ) from None
        notifiers = _notifiers(engine.executor) if starter == "mp" else []
        spawned.told_in_time(notifiers)
        loop.run_until_complete(_started(engine))
    held = engine.cache_config.num_gpu_blocks * engine.cache_config.block_size
    how = f"PyTorch engine, ranks by {starter}" if starter else "PyTorch engine"
    facts = Facts(f"{version} ({how})", causal.parameters(case), digest, kv_tokens=int(held), queues=True)
    return LMDeployEngine(engine, loop, device, facts, notifiers)


def _notifiers(executor: Any) -> list[Any]:
    """Of the way to the ranks, and of each one's way back."""
    return [buffer.notifier for buffer in (executor.comm_buf, *executor.ret_bufs)]


async def _started(engine: Any) -> None:
    """Its loop is made on the running event loop."""
    engine.start_loop()
