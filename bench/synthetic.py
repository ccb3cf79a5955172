"""Writes a sealed run of any size with the kit's own writers. Nothing in it was measured, and its names say so.

One training case on many ranks, as a long stability test leaves it, and one of text generation; every event goes
through the worker's Recorder, the run log and the seal.
"""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kit import plan, record, runkey, seal
from kit.worker import inside
from kit.worker.record import Recorder
from verify import flop
from verify.generation import requests as requests_of
from verify.metrics.text_generation import kv_bytes_per_token
from verify.strict import canonical

KEY = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"benchmarks of ChipAssay, worth nothing").digest())
STEP_BYTES = 215  # of a `step` line, about
SERVING_SHARE = 0.03  # of the bytes
REQUEST_BYTES = 60 * 512
OPTIMIZER = {"learning_rate": 0.001, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.01, "clip": 1.0, "schedule": "constant"}
MODEL = {
    "architecture": "llama", "hidden_size": 64, "num_layers": 1, "num_heads": 2, "num_kv_heads": 2, "ffn_size": 128, "vocab_size": 32000,
}  # fmt: skip
INSIDE: dict[str, Any] = {
    "schemaVersion": 1,
    "worker": {"sha256": "1" * 64},
    "variables": {},
    "roots": [],
    "temporary": "/",
    "mounts": [],
    "code": [],
    "libraries": [],
}
Case = dict[str, Any]


@dataclass(frozen=True)
class Made:
    """A synthetic run: where it is, how many events and bytes of events it holds."""

    run: Path
    events: int
    size_bytes: int


def source(steps: int, ranks: int, rounds: int) -> dict[str, Any]:
    """The plan."""
    return {
        "schemaVersion": 1, "name": "synthetic", "title": {"en": "Synthetic events", "zh": "合成事件"}, "source": "bench/synthetic.py",
        "isolation": "preferred", "official": False,
        "case": [
            {"id": "synthetic-training", "suite": "pretrain", "cards": ranks, "processes": ranks, "engine": "deepspeed",
             "zero_stage": 1, "checkpoint_activations": False, "offload": "none", "loss_chunks": 1, "weights": "random",
             "global_batch": 2 * ranks, "micro_batch": 2, "warmup_steps": 10, "measured_steps": steps - 10, "optimizer": OPTIMIZER,
             "dtype": "bfloat16", "seed": 7, "compile": False, "deterministic": False, "attention": ["MATH"], "data": "shakespeare.txt",
             "tokenizer": "bytes", "packing": "none",
             "time_limit_s": 604800, "model": MODEL | {"sequence_length": 2048}},
            {"id": "synthetic-serving", "suite": "text_generation", "cards": 1, "processes": 1, "engine": "transformers", "concurrency": 16,
             "input_tokens": 256, "output_tokens": 512, "warmup_rounds": 1, "measured_rounds": rounds, "generation": "own",
             "weights": "random", "prompts": "seeded", "quantization": "none", "kv_dtype": "bfloat16", "compile": "none",
             "dtype": "bfloat16", "seed": 7, "discarded_loads": 1, "measured_loads": 0,
             "judge": {"prompts": 0, "tokens": 1, "reference": "none"},
             "time_limit_s": 604800, "model": MODEL | {"sequence_length": 1024}},
        ],
    }  # fmt: skip


def _start(recorder: Recorder, case: Case) -> None:
    recorder.event("environment", 10, python="3.11", torch="none", device="cpu", device_name="synthetic", packages={})
    count = flop.parameters(case["model"])
    recorder.event("model", 20, parameters=count, weights="random", weights_sha256=None, seed=case["seed"], dtype=case["dtype"])


def training(recorder: Recorder, case: Case, rank: int, losses: array[float]) -> int:
    """Every step of one rank, 30 s of synthetic time each; returns the number of events."""
    rng, norms = Random(rank), Random(-1)  # every rank works out one norm
    _start(recorder, case)
    recorder.event("data", 30, source=case["data"], sha256="0" * 64, tokens=1_115_394)
    tokens = case["micro_batch"] * case["model"]["sequence_length"]
    for number, loss in enumerate(losses):
        begin = 1_000_000 + 30_000_000_000 * number + rng.randrange(1_000_000)
        recorder.event(
            "step", begin + 29_000_000_000 + rng.randrange(900_000_000), step=number,
            phase="warmup" if number < case["warmup_steps"] else "measured", begin_ns=begin, loss=loss * (0.999 + 0.002 * rng.random()),
            loss_dp_mean=loss, tokens=tokens, real_tokens=tokens, grad_norm=0.1 + norms.random(), loss_scale=None, skipped=False,
        )  # fmt: skip
    recorder.event("memory", 30_000_000_000 * (len(losses) + 1), peak_bytes=1)
    recorder.event("case_end", 30_000_000_000 * (len(losses) + 1), state="done", reason=None)
    return len(losses) + 6


def serving(recorder: Recorder, case: Case) -> int:
    """Every round of one engine: one event a token, as the transformers engine leaves them; returns the number of events."""
    rng, count, t = Random(1), 5, 1_000_000
    _start(recorder, case)
    recorder.event("load", t, begin_ns=100, kind="cold")
    recorder.event(
        "engine", t, name=case["engine"], version="none", kv_tokens=None, queues=False,
        needed_tokens=case["concurrency"] * (case["input_tokens"] + case["output_tokens"]), kv_bytes_per_token=kv_bytes_per_token(case),
    )  # fmt: skip
    for number in range(case["warmup_rounds"] + case["measured_rounds"]):
        requests = [number * case["concurrency"] + index for index in range(case["concurrency"])]
        recorder.event("round_start", t, round=number, phase="warmup" if number < case["warmup_rounds"] else "measured")
        for request in requests:
            digest = requests_of.digest(requests_of.prompt(case, case["seed"], request))
            recorder.event("submit", t, request=request, round=number, prompt_tokens=case["input_tokens"], prompt_sha256=digest)
        for _ in range(case["output_tokens"]):
            for request in requests:
                t += rng.randrange(1_000_000)
                recorder.event("tokens", t, request=request, ids=[rng.randrange(32000)])
        for request in requests:
            recorder.event("finish", t, request=request, reason="length", usage_tokens=None, detail=None)
        count += 1 + len(requests) * (case["output_tokens"] + 2)
    recorder.event("memory", t, peak_bytes=1)
    recorder.event("case_end", t + 1, state="done", reason=None)
    return count + 2


def _recorded(folder: Path, case: Case, losses: array[float]) -> int:
    """All ranks of a case, one after the other; returns the number of events."""
    count = 0
    for rank in range(case["processes"]):
        recorder = Recorder(folder, rank=rank, case=case, attempt=1, world_size=case["processes"])
        count += training(recorder, case, rank, losses) if case["suite"] == "pretrain" else serving(recorder, case)
        recorder.close()
    return count


def _open(run: Path, made: plan.Plan) -> record.RunLog:
    evidence = run / "evidence"
    evidence.mkdir(parents=True)
    (evidence / "plan.json").write_bytes(made.to_bytes())
    environment = {
        "schemaVersion": 1, "host": {}, "chip": {"id": "synthetic"},
        "kit": {"version": "0.1.0", "worker": {"sha256": "1" * 64}, "tree": {"sha256": "2" * 64}},
        "isolation": {"kind": "environment", "reason": "synthetic events: nothing was measured"}, "image": None,
        "lock": {"file": "images/cpu/requirements.lock", "sha256": "3" * 64, "built": {}}, "patches": [], "grants": {}, "packages": None,
    }  # fmt: skip
    (evidence / "environment.json").write_bytes(canonical(environment) + b"\n")
    own = runkey.obtain(run, KEY, made.sha256(), None)
    log = record.RunLog(run, own.key)
    log.append("open", run=run.name, plan_sha256=made.sha256(), kit_version="0.1.0", worker_sha256="1" * 64, isolation="environment",
               challenge_sha256=None, run_key=own.keyid)  # fmt: skip
    for name in ("plan.json", "environment.json", "run-keys/0.dsse.json"):
        log.append_file(evidence / name)
    return log


def _case(log: record.RunLog, case: Case, losses: array[float]) -> int:
    folder = log.run / "evidence/cases" / case["id"] / "attempt-1"
    folder.mkdir(parents=True)
    log.append("case-start", case=case["id"], attempt=1)
    (folder / "case.json").write_bytes(canonical({"case": case, "attempt": 1}) + b"\n")
    count = _recorded(folder, case, losses)
    for rank in range(case["processes"]):
        (folder / inside.NAME.format(rank)).write_bytes(canonical(INSIDE | {"rank": rank}) + b"\n")
    for path in sorted(folder.iterdir()):
        log.append_file(path)
    log.append("case-end", case=case["id"], attempt=1, state="done", reason=None)
    log.checkpoint()
    return count


def build(folder: Path, size_bytes: int, ranks: int = 32, share: float = SERVING_SHARE) -> Made:
    """A sealed run in `folder` with about `size_bytes` of events; `share` of them are of text generation."""
    steps = max(20, int(size_bytes * (1 - share) / ranks / STEP_BYTES))
    rounds = max(1, int(size_bytes * share / REQUEST_BYTES / 16))
    made = plan.resolve(source(steps, ranks, rounds), "bench/synthetic.py")
    run = folder / "synthetic-synthetic-20261124T000000Z-abcdef"
    rng, log = Random(0), _open(run, made)
    losses = array("d", [2 + rng.random() + 8 * 0.9**step for step in range(steps)])  # from random weights on
    try:
        count = sum(_case(log, case, losses) for case in made.cases)
        seal.seal(run, made, log, KEY)
    finally:
        log.close()
    return Made(run, count, sum(path.stat().st_size for path in run.glob("evidence/cases/*/attempt-1/events-*")))
