"""Feeds every parser with damaged samples and with noise. A parser answers or refuses in its own words; anything else is a crash."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest

from kit import chip, lock, patches, plan
from kit.errors import KitError
from tests.adversarial import builder, test_packed, trust
from tests.adversarial import pictures as shown
from tests.conftest import ROOT
from tests.fuzz import damage
from tests.unit import test_patches
from verify import (
    archive,
    chain,
    cosign,
    envelope,
    events,
    ledger,
    metrics,
    notes,
    pictures,
    policy,
    runlog,
    score,
    statement,
    statements,
    strict,
    telemetry,
    timestamp,
    tolerance,
    tree,
)
from verify.files import Evidence
from verify.findings import Refused, Unchecked
from verify.lines import Lines
from verify.scoring import baseline
from verify.strict import canonical

REFUSALS = (Refused, Unchecked, KitError)
ROUND = 50  # inputs between two looks at the clock
KEPT = 400  # accepted or new kinds of refused inputs that are damaged further
Feed = Callable[[bytes], object]


@dataclass(frozen=True)
class Target:
    """A parser and inputs that it takes."""

    name: str
    feed: Feed
    samples: list[bytes]


@dataclass
class Tally:
    """What one parser was fed."""

    name: str
    count: int = 0
    taken: int = 0
    cpu_s: float = 0.0
    answers: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"  {self.name:<20} {self.count:>10,} inputs, {self.taken:>9,} taken, {len(self.answers):>4} answers, "
            f"{len(self.faults)} crashes, {self.cpu_s:.0f} s of CPU"
        )


def _written(path: Path, feed: Callable[[Path], object]) -> Feed:
    """For a parser of files: the bytes, put into a file in memory."""

    def put(data: bytes) -> object:
        path.write_bytes(data)
        return feed(path)

    return put


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines()


def targets(folder: Path) -> list[Target]:
    """Every parser of verify, and those of kit that read files of others."""
    run = builder.build(folder / "whole")
    evidence = run / "evidence"
    logged = {suite: [line for path in evidence.glob(f"cases/{case}/attempt-1/events-*") for line in _lines(path)]
              for suite, case in (("pretrain", builder.PRETRAIN), ("text_generation", builder.TEXT))}  # fmt: skip
    inside = f"cases/{builder.TEXT}/attempt-1/inside-rank0000.json"
    documents = [(evidence / name).read_bytes() for name in ("plan.json", "cases.json", "environment.json", inside)]
    sealed = (run / "run.dsse.json").read_bytes()
    payload = envelope.parse(sealed).payload
    scratch = folder / "input"
    (folder / "chip/patches").mkdir(parents=True)
    plans = [path.read_bytes() for path in sorted((ROOT / "manifests/plans").glob("*.toml"))]
    chips = [path.read_bytes() for path in sorted((ROOT / "images").glob("*/chip.toml"))]
    locks = [(ROOT / "requirements/lint.lock").read_bytes()]
    return [
        Target("strict.loads", strict.loads, [*documents, payload, b'[1.5e-3,"\\ud83d\\ude00"]']),
        Target("strict.loads exact", lambda data: strict.loads(data, real=strict.exact), [*documents, *logged["pretrain"][-2:]]),
        Target("envelope", envelope.parse, [sealed]),
        Target(
            "public key",
            lambda data: envelope.load_key(data, "key"),
            [(evidence / "signer.pub.pem").read_bytes(), envelope.spki(builder.KEY.public_key())],
        ),
        Target(
            "statement", lambda data: statements.parse(envelope.Envelope(statements.PAYLOAD_TYPE, data, ()), statement.KIND, "x"), [payload]
        ),
        Target("policy", lambda data: policy.parse(data, "policy"), [canonical(trust.document())]),
        Target("sealed policy", lambda data: chain.open_version(data, "policy"), [trust.seal(trust.document())]),
        Target("checkpoints", lambda data: list(notes.split(data)), [(run / "runlog/checkpoints.txt").read_bytes()]),
        Target("cosignatures", cosign.split, [_cosigned(run)]),
        Target("run log entry", lambda data: runlog._entry(data, 0), _lines(run / "runlog/entries.jsonl")),
        Target(
            "ledger entry",
            lambda data: ledger.parse(data, "entry"),
            [
                b'{"challenge":"%s","n":0,"nonce_sha256":"%s","type":"challenge","wall_ns":5}' % (b"0" * 64, b"1" * 64),
                b'{"challenge":"%s","n":1,"sha256":"%s","type":"audit","verdict":"pass","wall_ns":6}' % (b"0" * 64, b"1" * 64),
            ],
        ),
        Target(
            "tolerance table", lambda data: tolerance.parse(data, "table"), [(ROOT / "baselines/tolerances/provisional.toml").read_bytes()]
        ),
        Target("SHA256SUMS", tree.parse_sums, [(run / "SHA256SUMS").read_bytes()]),
        *(Target(f"event {suite}", _event(suite), lines) for suite, lines in logged.items()),
        *(Target(f"blocks {suite}", _blocks(suite), [b"\n".join([*lines[:6], *lines[-3:]]) + b"\n"]) for suite, lines in logged.items()),
        Target(
            "telemetry line",
            lambda data: telemetry._parse(data, "line"),
            [b'{"cards":2,"e":"opened","interval_ms":10,"missing":null,"t":5}'],
        ),
        Target("baseline", _written(scratch, baseline.read), [_baseline()]),
        *(
            Target(
                f"evidence {name}",
                _written(scratch, lambda file, schema=schema: score.document(Evidence(file.parent), file.name, schema)),
                [data],
            )
            for name, schema, data in zip(
                ("plan", "cases", "environment", "inside"), ("resolved_plan", "cases", "environment", "inside"), documents, strict=True
            )
        ),
        Target("archive", _written(folder / f"{test_packed.TOP}.tar.zst", _unpack), [test_packed.packed(test_packed.HONEST)]),
        Target("tar in an archive", _written(folder / f"{test_packed.TOP}.tar.zst", _pack_and_unpack), [test_packed.HONEST]),
        Target("plan", _written(folder / "plan.toml", lambda path: plan.load(str(path))), plans),
        Target("chip", _written(scratch, lambda path: chip.read_toml(path, "chip")), chips),
        Target("lock", _written(scratch, lock.read), locks),
        Target("patch", _written(folder / "chip/patches/1.patch", patches._read), [test_patches.GOOD, test_patches.ADDS]),
        Target("picture", _picture, [shown.png(shown.FLAT), shown.png(bytes(range(192)), 8)]),
        Target("time stamp", lambda data: timestamp.speaks_of(data, sealed), [timestamp.IMPRINT + hashlib.sha256(sealed).digest()]),
    ]


def _picture(data: bytes) -> object:
    try:
        return pictures.colours(pictures.decode(data, shown.SIDE))
    except ValueError as bad:
        raise Refused("text_to_image.pixels", "picture", "a picture", str(bad)) from None


def _unpack(path: Path) -> None:
    with archive.unpacked(path):
        pass


def _pack_and_unpack(path: Path) -> None:
    path.write_bytes(test_packed.packed(path.read_bytes()))
    _unpack(path)


def _cosigned(run: Path) -> bytes:
    note = next(notes.split((run / "runlog/checkpoints.txt").read_bytes()))
    return (notes.render(note) + cosign.render("w.example/1", builder.KEY.public_key(), 1, bytes(64)) + "\n").encode()


def _event(suite: str) -> Feed:
    kind: Any = events.union(metrics.load(suite).EVENTS)
    return lambda data: events.parse(data, kind, "event")


def _blocks(suite: str) -> Feed:
    """The quick reader of blocks says what the strict one says of their lines."""
    quick, slow = (Lines(metrics.load(suite).EVENTS, fast=fast) for fast in (True, False))

    def both(data: bytes) -> object:
        data = data if data.endswith(b"\n") else data + b"\n"
        try:
            expected = slow.events(data, "events", 1)
        except Refused as refusal:
            with pytest.raises(Refused, match=re.escape(str(refusal))):
                quick.events(data, "events", 1)
            raise
        assert quick.events(data, "events", 1) == expected
        return expected

    return both


def _baseline() -> bytes:
    """Two cells of the shipped one."""
    document = json.loads((ROOT / "baselines/a100-report-0.2.1/baseline.json").read_bytes())
    return canonical(document | {"cells": document["cells"][:2]})


def _answer(feed: Feed, data: bytes) -> tuple[str, str]:
    """What a parser said: `taken`, a refusal without its details, or a crash with its traceback."""
    try:
        feed(data)
    except REFUSALS as refusal:
        return "refused", str(refusal)[:60]
    except BaseException:
        return "crash", traceback.format_exc()
    return "taken", "taken"


def _inputs(rng: Random, corpus: list[bytes]) -> Iterator[bytes]:
    while True:
        if rng.random() < 0.05:
            yield rng.randbytes(rng.randrange(200))
            continue
        data = rng.choice(corpus)
        for _ in range(rng.choice((1, 1, 2, 4))):
            data = damage.any_of(rng, data)[1]
        yield data


def feed(target: Target, seconds: float, seed: int) -> Tally:
    """Feed one parser for so many seconds of CPU; inputs that got a new answer are damaged further."""
    rng = Random(int.from_bytes(hashlib.sha256(f"{seed} {target.name}".encode()).digest()[:8], "big"))
    tally, corpus = Tally(target.name), list(target.samples)
    assert corpus, target.name
    assert all(_answer(target.feed, data)[0] == "taken" for data in corpus), target.name
    begin, made = time.process_time(), _inputs(rng, corpus)
    while (spent := time.process_time() - begin) < seconds:
        for data in (next(made) for _ in range(ROUND)):
            _one(target, data, tally, corpus)
    tally.cpu_s = spent
    return tally


def _one(target: Target, data: bytes, tally: Tally, corpus: list[bytes]) -> None:
    kind, text = _answer(target.feed, data)
    tally.count += 1
    tally.taken += kind == "taken"
    if kind == "crash" and len(tally.faults) < 50:
        tally.faults.append(f"{target.name}: {data!r:.2000}\n{text}")
    if text not in tally.answers and len(tally.answers) < KEPT:
        tally.answers.add(text)
        if len(data) < 20_000:
            corpus.append(data)


def names(match: str = "") -> list[str]:
    """Names of the parsers with `match` in them."""
    with tempfile.TemporaryDirectory() as folder:
        return [target.name for target in targets(Path(folder)) if match in target.name]


def fuzz(seconds: float, seed: int, match: str = "") -> list[Tally]:
    """Every parser with `match` in its name, `seconds` of CPU in all."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        listed = [target for target in targets(Path(folder)) if match in target.name]
        return [_told(feed(target, seconds / len(listed), seed)) for target in listed]


def _told(tally: Tally) -> Tally:
    print(tally, flush=True)
    return tally
