"""Builds a small sealed run with the kit's own writer and made-up events, so that tests can break it in one place.

`build(folder)` gives a run that verifies. `edit` is called on the open run before sealing: whoever holds the key can
seal anything, so that rules about content must catch it. Changes after sealing are made on the finished folder.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kit import heartbeat, plan, record, seal, statements
from kit.keys import public_pem
from verify import challenge, runkey
from verify.data import table
from verify.envelope import keyid, spki
from verify.generation import judged, requests
from verify.strict import canonical

KEY = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"tests of ChipAssay, worth nothing").digest())
RUN_KEY = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"tests of ChipAssay: log of a run").digest())
PRETRAIN = "pretrain-x"
TEXT = "text-x"
NAME = "tiny-cpu-20261124T000000Z-abcdef"
MODEL = {"architecture": "llama", "hidden_size": 64, "num_layers": 1, "num_heads": 2, "num_kv_heads": 2, "ffn_size": 128, "vocab_size": 256}
PARAMETERS = 2 * 256 * 64 + 4 * 64 * 64 + 3 * 64 * 128 + 3 * 64  # words at both ends, attention, feed-forward, norms
OPTIMIZER = {"learning_rate": 0.001, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.01, "clip": 1.0, "schedule": "constant"}
WALL_NS = 1_790_000_000_000_000_000
MONOTONIC_NS = 5_000
TELEMETRY = "telemetry-"
NS_PER_S = 10**9
BEAT_S = 50
Event = dict[str, Any]
Edit = Callable[["Bench"], None]


def source(steps: int = 3) -> dict[str, Any]:
    """A plan with one case of each suite."""
    return {
        "schemaVersion": 1,
        "name": "tiny",
        "title": {"en": "Tiny", "zh": "微型"},
        "source": "tests",
        "isolation": "preferred",
        "official": False,
        "case": [
            {
                "id": PRETRAIN, "suite": "pretrain", "cards": 2, "processes": 2, "engine": "deepspeed", "zero_stage": 1, "global_batch": 4, "micro_batch": 2,
                "checkpoint_activations": False, "offload": "none", "loss_chunks": 1, "weights": "random", "optimizer": OPTIMIZER,
                "warmup_steps": 1, "measured_steps": steps, "dtype": "float32", "compile": False, "deterministic": False,
                "attention": ["MATH"], "seed": 7, "data": "shakespeare.txt", "tokenizer": "bytes", "packing": "none",
                "time_limit_s": 60, "model": MODEL | {"sequence_length": 16},
            },
            {
                "id": TEXT, "suite": "text_generation", "cards": 1, "processes": 1, "engine": "transformers", "generation": "own",
                "weights": "random", "concurrency": 2, "input_tokens": 8, "output_tokens": 3, "prompts": "seeded", "warmup_rounds": 1,
                "measured_rounds": 2, "dtype": "float32", "quantization": "none", "kv_dtype": "float32", "compile": "none", "seed": 7,
                "discarded_loads": 1, "measured_loads": 1, "judge": {"prompts": 1, "tokens": 2, "reference": "float32"},
                "time_limit_s": 60, "model": MODEL | {"sequence_length": 128},
            },
        ],
    }  # fmt: skip


def start(case: str, suite: str, rank: int = 0, world_size: int = 1) -> list[Event]:
    """The events with which every rank begins."""
    return [
        {"t": 0, "e": "case_start", "case": case, "suite": suite, "attempt": 1, "rank": rank, "world_size": world_size,
         "wall_ns": WALL_NS, "monotonic_ns": MONOTONIC_NS},
        {"t": 10, "e": "environment", "python": "3.11.7", "torch": "2.13.0", "device": "cpu", "device_name": "fake", "packages": {}},
        {"t": 20, "e": "model", "parameters": 1000, "weights": "random", "weights_sha256": None, "seed": 7, "dtype": "float32"},
    ]  # fmt: skip


def end(events: list[Event]) -> list[Event]:
    """The same events with the last one of a case that went well."""
    return [*events, {"t": events[-1]["t"] + 1, "e": "case_end", "state": "done", "reason": None}]


def inside(rank: int) -> dict[str, Any]:
    """What an honest worker in an environment says of itself."""
    return {
        "schemaVersion": 1, "rank": rank, "worker": {"sha256": "1" * 64}, "variables": {"PYTHONUNBUFFERED": "1"}, "roots": ["/usr", "~/made"],
        "temporary": "/tmp", "mounts": [], "code": ["/usr/bin/python3.11", "/usr/lib/libc.so.6", "~/made/lib/python3.11/site-packages/"],
        "libraries": [
            {"path": "/usr/lib/libc.so.6", "size_bytes": 1922136, "sha256": None if rank else "7" * 64,
             "package": {"kind": "debian", "name": "libc6", "version": "2.36-9"}, "recorded": None},
            {"path": "~/made/lib/python3.11/site-packages/torch/lib/libtorch.so", "size_bytes": 4096, "sha256": None if rank else "8" * 64,
             "package": {"kind": "python", "name": "torch", "version": "2.13.0"}, "recorded": "8" * 64},
        ],
    }  # fmt: skip


def pretrain(rank: int, steps: int) -> list[Event]:
    """One rank's training events: every step lasts 1 ms on rank 0 and 2 ms on rank 1."""
    events = start(PRETRAIN, "pretrain", rank, 2)
    events[2]["parameters"] = PARAMETERS
    events.append({"t": 30, "e": "data", "source": "shakespeare.txt", "sha256": "0" * 64, "tokens": 4096})
    for number in range(steps + 1):
        begin = 1_000_000 + number * 3_000_000
        events.append(
            {"t": begin + 1_000_000 * (rank + 1), "e": "step", "step": number, "phase": "measured" if number else "warmup", "begin_ns": begin,
             "loss": 4.0 - 0.125 * number, "loss_dp_mean": 4.0 - 0.125 * number, "tokens": 32, "real_tokens": 30, "grad_norm": 1.5,
             "loss_scale": None, "skipped": False}
        )  # fmt: skip
    events.append({"t": events[-1]["t"] + 1, "e": "memory", "peak_bytes": 10**9})
    return end(events)


def text() -> list[Event]:
    """Three rounds of two requests: first tokens after 5 ms, the two others 1 ms apart; two loads; one continuation judged."""
    events = start(TEXT, "text_generation")
    events.append({"t": 1_000_000, "e": "load", "begin_ns": 100, "kind": "cold"})
    events.append({"t": 3_000_000, "e": "load", "begin_ns": 2_000_000, "kind": "warm"})
    events.append({"t": 3_000_010, "e": "engine", "name": "transformers", "version": "5.0", "kv_tokens": None, "needed_tokens": 22,
                   "kv_bytes_per_token": 512, "queues": False})  # fmt: skip
    for number in range(3):
        begin = 10_000_000 * (number + 1)
        numbers = (2 * number, 2 * number + 1)
        events.append({"t": begin, "e": "round_start", "round": number, "phase": "measured" if number else "warmup"})
        events += [
            {"t": begin, "e": "submit", "request": r, "round": number, "prompt_tokens": 8, "prompt_sha256": prompt(r)} for r in numbers
        ]
        for step in range(3):
            events += [{"t": begin + 5_000_000 + step * 1_000_000, "e": "tokens", "request": r, "ids": [step]} for r in numbers]
        ended = {"reason": "length", "usage_tokens": None, "detail": None}
        events += [{"t": begin + 7_000_000, "e": "finish", "request": r} | ended for r in numbers]
    events.append({"t": 40_000_000, "e": "memory", "peak_bytes": 10**9})
    events.append({"t": 40_000_010, "e": "judged", "prompt": 0, "prompt_sha256": table(judged.DATA)["prompts"][0], "ids": [1, 2],
                   "nll": [0.5, 0.75], "gap": [0.0, 0.001]})  # fmt: skip
    return end(events)


def prompt(number: int, seed: int = 7) -> str:
    """Hash of a request's prompt."""
    return requests.digest(requests.prompt({"prompts": "seeded", "input_tokens": 8, "model": MODEL}, seed, number))


class Clock:
    """The clocks of a made-up host: every look at them takes a microsecond."""

    def __init__(self) -> None:
        self.since_boot_ns = 1000 * NS_PER_S

    def __call__(self) -> tuple[int, int]:
        self.since_boot_ns += 1000
        return WALL_NS + self.since_boot_ns, self.since_boot_ns


class Bench:
    """A run about to be sealed: everything in it may still be edited."""

    def __init__(self, folder: Path, steps: int) -> None:
        self.source = source(steps)
        self.plan = plan.resolve(self.source, "tests")
        self.run = folder / NAME
        self.evidence = self.run / "evidence"
        self.events: dict[str, dict[str, list[Event]]] = {
            PRETRAIN: {"events-00000.jsonl": pretrain(0, steps), "events-rank0001-00000.jsonl": pretrain(1, steps)},
            TEXT: {"events-00000.jsonl": text()},
        }
        self.handed = {case["id"]: {"case": case, "attempt": 1} for case in self.plan.cases}
        self.environment: dict[str, Any] = {
            "schemaVersion": 1, "host": {}, "chip": {"id": "cpu"},
            "kit": {"version": "0.1.0", "worker": {"sha256": "1" * 64}, "tree": {"sha256": "2" * 64}},
            "isolation": {"kind": "environment", "reason": "tests"}, "image": None,
            "lock": {"file": "images/cpu/requirements.lock", "sha256": "3" * 64, "built": {}}, "patches": [], "grants": {}, "packages": None,
        }  # fmt: skip
        self.states = {PRETRAIN: ("done", None), TEXT: ("done", None)}
        self.raw: dict[str, bytes] = {}
        self.inside: dict[str, Any] = {}
        self.challenge: bytes | None = None
        self.certificate: dict[str, Any] = {}
        self.certified: dict[str, str] = {}
        self.certifier: Ed25519PrivateKey | None = None
        self.clock = Clock()
        self.beaten_late: set[str] = set()  # cases whose first heartbeat comes when all is written, so that it knows no future
        self.after_beat: Callable[[Path], object] = lambda _: None

    def answer(self, sealed: bytes) -> None:
        """Make this the run that answers a challenge: kept, logged, its seeds handed out and recorded."""
        self.challenge = sealed
        made = challenge.parse(sealed)
        for case in self.plan.cases:
            self.handed[case["id"]] = challenge.handed(case, 1, made)
            seed = challenge.effective(case, made)["seed"]
            for event in (event for events in self.events[case["id"]].values() for event in events):
                if event["e"] == "model":
                    event["seed"] = seed
                if event["e"] == "submit":
                    event["prompt_sha256"] = prompt(event["request"], seed)

    def step(self, number: int, rank: int = 0) -> Event:
        """The event of one training step."""
        name = "events-00000.jsonl" if rank == 0 else f"events-rank{rank:04}-00000.jsonl"
        return next(event for event in self.events[PRETRAIN][name] if event.get("step") == number)

    def kind(self, kind: str, case: str = TEXT) -> list[Event]:
        """Rank 0's events of one kind."""
        return [event for event in self.events[case]["events-00000.jsonl"] if event["e"] == kind]

    def certify(self) -> str:
        """Write the key that seals and its certificate for the log's key; the path of that."""
        (self.evidence / "signer.pub.pem").write_bytes(public_pem(KEY))
        (self.evidence / "run-keys").mkdir()
        predicate = {
            "run": self.run.name, "plan": {"sha256": self.plan.sha256()}, "spki": base64.b64encode(spki(RUN_KEY.public_key())).decode(),
            "challenge": None if self.challenge is None else {"sha256": challenge.parse(self.challenge).sha256},
            "host": runkey.host(self.environment), "notBefore": "2000-01-01T00:00:00Z", "notAfter": "2100-01-01T00:00:00Z",
        } | self.certificate  # fmt: skip
        payload = statements.payload("run-key/v1", {"run-key": keyid(RUN_KEY.public_key())} | self.certified, predicate)
        (self.evidence / "run-keys/0.dsse.json").write_bytes(statements.sign(payload, [self.certifier or KEY]))
        return "run-keys/0.dsse.json"

    def write(self) -> record.RunLog:
        """Write evidence and log, as a run does."""
        self.evidence.mkdir(parents=True)
        (self.evidence / "plan.json").write_bytes(self.plan.to_bytes())
        (self.evidence / "environment.json").write_bytes(canonical(self.environment) + b"\n")
        names = ["plan.json", "environment.json"]
        if self.challenge is not None:
            (self.evidence / challenge.FILE).write_bytes(self.challenge)
            names.append(challenge.FILE)
        names.append(self.certify())
        log = record.RunLog(self.run, RUN_KEY)
        log.append("open", run=self.run.name, plan_sha256=self.plan.sha256(), kit_version="0.1.0", worker_sha256="1" * 64, heartbeat_s=60,
                   isolation=self.environment["isolation"]["kind"],
                   challenge_sha256=None if self.challenge is None else challenge.parse(self.challenge).sha256,
                   run_key=keyid(RUN_KEY.public_key()))  # fmt: skip
        for name in names:
            log.append_file(self.evidence / name)
        log.checkpoint()
        for case, files in self.events.items():
            self._case(log, case, files)
        return log

    def _case(self, log: record.RunLog, case: str, files: dict[str, list[Event]]) -> None:
        folder = self.evidence / "cases" / case / "attempt-1"
        folder.mkdir(parents=True)
        log.append("case-start", case=case, attempt=1)
        self._start_now(files)
        written = {
            name: b"".join(json.dumps(event, separators=(",", ":")).encode() + b"\n" for event in events) for name, events in files.items()
        }
        written |= {"case.json": canonical(self.handed[case]) + b"\n", "stdout.log": b"", "stderr.log": b""}
        written |= {f"inside-rank{rank:04}.json": canonical(self.seen(rank)) + b"\n" for rank in range(self._processes(case))}
        written |= {key.removeprefix(f"{case}/"): data for key, data in self.raw.items() if key.startswith(f"{case}/")}
        for name, data in written.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data)
        own = [event for name, events in files.items() if not name.startswith(TELEMETRY) for event in events]
        self._beat(log, folder, max((event["t"] for event in own), default=0))
        for name in sorted(written):
            if (folder / name).relative_to(self.evidence).as_posix() not in log.logged:
                log.append_file(folder / name)
        state, reason = self.states[case]
        log.append("case-end", case=case, attempt=1, state=state, reason=reason)
        log.checkpoint()

    def seen(self, rank: int) -> dict[str, Any]:
        """What every worker said of itself from inside; `inside` holds what is to be said otherwise."""
        return inside(rank) | self.inside

    def _processes(self, case: str) -> int:
        return next((int(known["processes"]) for known in self.plan.cases if known["id"] == case), 0)

    def _start_now(self, files: dict[str, list[Event]]) -> None:
        """Let each rank begin now, unless somebody gave it another time; telemetry has the host's clock throughout."""
        wall, monotonic = self.clock()
        for events in (events for events in files.values() if events and events[0].get("wall_ns") == WALL_NS):
            events[0].update(wall_ns=wall, monotonic_ns=monotonic)
            for session in (event for event in events if event["e"] == "session"):
                session["wall_ns"] += wall - WALL_NS
        for event in (event for name, events in files.items() if name.startswith(TELEMETRY) for event in events):
            event["t"] += monotonic - MONOTONIC_NS

    def _beat(self, log: record.RunLog, folder: Path, lasted_ns: int) -> None:
        """Let the case's time pass, with its heartbeats."""
        heart = heartbeat.Heart(log, folder, counters=lambda: {"boottime_ns": self.clock.since_boot_ns})
        if folder.parent.name in self.beaten_late:
            self.clock.since_boot_ns += lasted_ns
        for _ in range(1 + lasted_ns // (BEAT_S * NS_PER_S)):
            heart.beat()
            self.after_beat(folder)
            self.clock.since_boot_ns += min(lasted_ns + NS_PER_S, BEAT_S * NS_PER_S)


def build(folder: Path, edit: Edit | None = None, *, steps: int = 3) -> Path:
    """A sealed run in `folder`; what `edit` changed is sealed with it."""
    bench = Bench(folder, steps)
    if edit:
        edit(bench)
    with mock.patch.object(record, "clocks", side_effect=lambda: bench.clock()):
        log = bench.write()
        try:
            seal.seal(bench.run, bench.plan, log, KEY)
        finally:
            log.close()
    return bench.run


def reseal(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the statement and sign it again with the run's own key."""
    document = json.loads((run / "run.dsse.json").read_bytes())
    statement = json.loads(base64.b64decode(document["payload"]))
    change(statement)
    (run / "run.dsse.json").write_bytes(statements.sign(canonical(statement), [KEY]))
