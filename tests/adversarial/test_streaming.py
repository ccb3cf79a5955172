"""The streaming log as verify sees it: old logs, long logs, and settings that cannot be used."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.adversarial import builder, streaming
from verify import heartbeat, runlog
from verify.findings import Unchecked
from verify.replay import replay
from verify.strict import canonical

MILLION = 1_000_000
HOURS = 72
RANKS = 32


def test_a_log_from_before_heartbeats_is_still_read(tmp_path: Path) -> None:
    lines = [
        {"n": 0, "type": "open", "wall_ns": 1, "monotonic_ns": 1, "run": "r", "plan_sha256": "0" * 64, "kit_version": "0.1.0",
         "worker_sha256": "0" * 64, "isolation": "none", "challenge_sha256": None, "run_key": "0" * 64},
        {"n": 1, "type": "case-start", "wall_ns": 2, "monotonic_ns": 2, "case": "a", "attempt": 1},
    ]  # fmt: skip
    (tmp_path / "entries.jsonl").write_bytes(b"".join(canonical(line) + b"\n" for line in lines))
    (tmp_path / "checkpoints.txt").write_bytes(b"")
    found = runlog.read(tmp_path)
    assert (found.findings, found.size, found.entries[0].heartbeat_s) == ([], 2, None)


def test_settings_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (heartbeat.root() / heartbeat.FILE).read_text().replace("gap_factor = 3", "gap_factor = 1")
    (tmp_path / "manifests").mkdir()
    (tmp_path / heartbeat.FILE).write_text(text)
    monkeypatch.setattr(heartbeat, "root", lambda: tmp_path)
    heartbeat.settings.cache_clear()
    with pytest.raises(Unchecked, match="run log settings cannot be used"):
        heartbeat.settings()
    heartbeat.settings.cache_clear()


def entries(count: int, ranks: int) -> bytes:
    """A log of one open case with `count` heartbeats a minute apart."""
    made = [
        {"n": 0, "type": "open", "wall_ns": 1, "monotonic_ns": 1, "run": "r", "plan_sha256": "0" * 64, "kit_version": "0",
         "worker_sha256": "0" * 64, "isolation": "none", "heartbeat_s": 60, "challenge_sha256": None, "run_key": "0" * 64},
        {"n": 1, "type": "case-start", "wall_ns": 2, "monotonic_ns": 2, "case": "a", "attempt": 1},
    ]  # fmt: skip
    head = b"".join(canonical(entry) + b"\n" for entry in made)
    opened = [
        {"path": f"cases/a/attempt-1/events-rank{rank:04}-00000.jsonl", "size_bytes": 10**6, "sha256": "0" * 64} for rank in range(ranks)
    ]
    template = canonical({"counters": {}, "monotonic_ns": 7, "n": 8, "open": opened, "type": "heartbeat", "wall_ns": 9})
    before, after = template.split(b'"monotonic_ns":7,"n":8,')
    after = after.replace(b'"wall_ns":9', b'"wall_ns":%d')
    pieces = (before + b'"monotonic_ns":%d,"n":%d,' % (n * 60 * 10**9, n) + after % (n * 60 * 10**9) + b"\n" for n in range(2, count + 2))
    return head + b"".join(pieces)


def peak_bytes(folder: Path) -> tuple[int, runlog.Log]:
    tracemalloc.start()
    found = runlog.read(folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak, found


def test_memory_of_replay_does_not_grow_with_the_log(tmp_path: Path) -> None:
    """Ten times the heartbeats, the same peak: entries are checked and dropped, the tree is its peaks."""
    peaks = []
    for count in (3_000, 30_000):
        folder = tmp_path / str(count)
        folder.mkdir()
        (folder / "entries.jsonl").write_bytes(entries(count, 0))
        (folder / "checkpoints.txt").write_bytes(b"")
        peak, found = peak_bytes(folder)
        assert (found.size, found.findings, len(found.entries)) == (count + 2, [], 2)
        peaks.append(peak)
    assert peaks[1] < peaks[0] + 200_000


def test_a_log_of_72_hours_and_32_ranks(tmp_path: Path) -> None:
    """4,320 heartbeats with 32 open segments each, 22 MB: read in seconds."""
    (tmp_path / "entries.jsonl").write_bytes(entries(HOURS * 60, RANKS))
    (tmp_path / "checkpoints.txt").write_bytes(b"")
    begin = time.perf_counter()
    found = runlog.read(tmp_path)
    assert (found.size, found.findings) == (HOURS * 60 + 2, [])
    assert len(found.prefixes) == RANKS
    assert time.perf_counter() - begin < 15


def test_the_million(tmp_path: Path) -> None:
    (tmp_path / "entries.jsonl").write_bytes(entries(MILLION, 0))
    (tmp_path / "checkpoints.txt").write_bytes(b"")
    begin = time.perf_counter()
    found = runlog.read(tmp_path)
    assert found.size == MILLION + 2
    assert time.perf_counter() - begin < 60


@pytest.mark.parametrize("act", [streaming.rewritten_under_way, streaming.shortened_under_way], ids=lambda act: act.__name__)
def test_heartbeats_hold_the_events(act: Callable[[builder.Bench], None], tmp_path: Path) -> None:
    """Attack 26 with every log, file and claim made to fit afterwards."""
    outcome = replay(builder.build(tmp_path, act), "self")
    assert {finding.rule for finding in outcome.findings} == {"heartbeat.prefix"}
