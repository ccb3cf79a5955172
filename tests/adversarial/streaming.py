"""Attacks on the streaming log: what was said while a case went on must be what is found at its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

from tests.adversarial import builder
from tests.adversarial.attacks import add, rewrite
from tests.adversarial.builder import Bench


def rewritten_under_way(bench: Bench) -> None:
    """A slow step made faster after a heartbeat had told the digest; everything else is sealed as if it had been so."""
    bench.after_beat = lambda folder: rewrite(
        folder / "events-00000.jsonl", lambda d: d.replace(b'"grad_norm":1.5', b'"grad_norm":1.49', 1)
    )


def shortened_under_way(bench: Bench) -> None:
    """Output of the worker cut away after a heartbeat."""

    def cut(folder: Path) -> None:
        path = folder / "events-rank0001-00000.jsonl"
        if path.exists():
            path.write_bytes(b"".join(line.replace(b".0,", b",") for line in path.read_bytes().splitlines(keepends=True)))

    bench.after_beat = cut


def clock_set_without_a_word(bench: Bench) -> None:
    """A writer that keeps quiet about a clock that was set back by an hour."""
    write = bench.write

    def quiet() -> Any:
        jumped: list[int] = []
        clock = bench.clock

        class Set(builder.Clock):
            def __call__(self) -> tuple[int, int]:
                wall, monotonic = clock()
                jumped.append(monotonic)
                return wall - (3600 * builder.NS_PER_S if len(jumped) > 6 else 0), monotonic

        bench.clock = Set()
        with mock.patch("verify.heartbeat.step_ns", return_value=0):
            return write()

    bench.write = quiet  # type: ignore[method-assign]


def checkpoints_deleted(run: Path) -> None:
    """The checkpoints of all heartbeats taken away, so that a rewritten log would fit (attack 29)."""
    path = run / "runlog/checkpoints.txt"
    found = path.read_bytes().split(b"\n\nchipassay")
    path.write_bytes(b"\n\nchipassay".join([found[0], *found[2:]]))


add("heartbeat.prefix", "sealed", "events rewritten after a heartbeat", rewritten_under_way)
add("heartbeat.prefix", "sealed", "events shortened after a heartbeat", shortened_under_way)
add("log.clock_step", "sealed", "a clock set without a word", clock_set_without_a_word)
add("log.checkpoint_missing", "tampered", "a heartbeat's checkpoint deleted", checkpoints_deleted)
