"""Recovery of a run log: cut at every byte, filled disks, failing disks, and killed writers. Nothing signed is lost silently."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kit import heartbeat, record
from kit.errors import ENVIRONMENT, KitError
from kit.record import RunLog
from verify import notes, runlog

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KILLS = 25


def filled(run: Path) -> None:
    """A log with three checkpoints and a tail of two entries behind the last, as a case that goes on leaves it."""
    folder = run / "evidence/cases/a/attempt-1"
    folder.mkdir(parents=True)
    log = RunLog(run, KEY)
    log.append(
        "open",
        run=run.name,
        plan_sha256="0" * 64,
        kit_version="0",
        worker_sha256="0" * 64,
        isolation="none",
        heartbeat_s=60,
        challenge_sha256=None,
        run_key="0" * 64,
    )
    log.checkpoint()
    log.append("case-start", case="a", attempt=1)
    heart = heartbeat.Heart(log, folder, counters=dict)
    for number in range(2):
        with (folder / "events-00000.jsonl").open("ab") as file:
            file.write(b"x" * 10 * (number + 1))
        heart.beat()
    log.append("file", path="cases/a/attempt-1/x", size_bytes=0, sha256="0" * 64)
    log.append("file", path="cases/a/attempt-1/y", size_bytes=0, sha256="0" * 64)
    log.close()


def fresh(original: Path, run: Path) -> None:
    for path in (run / "runlog").iterdir():
        path.unlink()
    for path in original.iterdir():
        (run / "runlog" / path.name).write_bytes(path.read_bytes())


def reopened(run: Path) -> RunLog | KitError:
    try:
        return RunLog(run, KEY)
    except KitError as error:
        return error


def check_recovered(run: Path, log: RunLog, cut_file: str, original: bytes, cut: int) -> None:
    """All that was whole is there, byte for byte; the rest is in torn-<n>; verify reads the log without an error."""
    log.append("resume", run_key="0" * 64)
    log.close()
    data = (run / "runlog" / cut_file).read_bytes()
    torn = b"".join(path.read_bytes() for path in sorted((run / "runlog").glob("torn-*")))
    kept = cut - len(torn)
    assert data[:kept] + torn == original[:cut]
    found = runlog.read(run / "runlog")
    key = KEY.public_key()
    assert [*found.findings, *runlog.checkpoints(found, runlog.ORIGIN + run.name, lambda _: key)] == []


def counted(run: Path, name: str) -> tuple[int, int]:
    """Cut the file at every offset: how many were recovered, how many refused. A refusal changes nothing."""
    original = run.parent / "original"
    shutil.copytree(run / "runlog", original)
    data = (original / name).read_bytes()
    recovered = refused = 0
    for cut in range(len(data)):
        fresh(original, run)
        (run / "runlog" / name).write_bytes(data[:cut])
        outcome = reopened(run)
        if isinstance(outcome, RunLog):
            check_recovered(run, outcome, name, data, cut)
            recovered += 1
        else:
            assert (run / "runlog" / name).read_bytes() == data[:cut]
            assert sorted(path.name for path in (run / "runlog").iterdir()) == sorted(path.name for path in original.iterdir())
            refused += 1
    return recovered, refused


def test_entries_cut_at_every_byte(tmp_path: Path) -> None:
    """Below the last checkpoint each cut is refused, above it each is recovered, and the border is exact."""
    run = tmp_path / "run"
    filled(run)
    data = (run / "runlog/entries.jsonl").read_bytes()
    last = list(notes.split((run / "runlog/checkpoints.txt").read_bytes()))[-1].size
    signed = sum(len(line) for line in data.splitlines(keepends=True)[:last])
    assert counted(run, "entries.jsonl") == (len(data) - signed, signed)


def test_checkpoints_cut_at_every_byte(tmp_path: Path) -> None:
    """Each checkpoint of a heartbeat must stand since entries followed it; only what nobody needs may be torn."""
    run = tmp_path / "run"
    filled(run)
    data = (run / "runlog/checkpoints.txt").read_bytes()
    assert counted(run, "checkpoints.txt") == (0, len(data))


def test_a_last_checkpoint_cut_at_every_byte(tmp_path: Path) -> None:
    """Killed between a heartbeat and its checkpoint: every cut of that note is recovered."""
    run = tmp_path / "run"
    filled(run)
    entries = run / "runlog/entries.jsonl"
    lines = entries.read_bytes().splitlines(keepends=True)
    entries.write_bytes(b"".join(lines[:-2]))
    data = (run / "runlog/checkpoints.txt").read_bytes()
    last = data.rstrip(b"\n").rfind(b"\n\nchipassay") + 2
    recovered, refused = counted(run, "checkpoints.txt")
    assert (recovered, refused) == (len(data) - last, last)


def test_bytes_that_are_no_entry_are_kept_as_torn(tmp_path: Path) -> None:
    run = tmp_path / "run"
    filled(run)
    path = run / "runlog/entries.jsonl"
    before = path.read_bytes()
    path.write_bytes(before + b"\0" * 300 + b"\n" + b"{}\n")
    log = RunLog(run, KEY)
    assert (run / "runlog" / log.entries[-1]["torn"]).read_bytes() == b"\0" * 300 + b"\n" + b"{}\n"
    log.close()


def test_a_crash_during_recovery_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    filled(run)
    path = run / "runlog/entries.jsonl"
    path.write_bytes(path.read_bytes()[:-5])

    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kit.record.RunLog.append", crash)
    with pytest.raises(KeyboardInterrupt):
        RunLog(run, KEY)
    monkeypatch.undo()
    log = RunLog(run, KEY)
    assert [entry["torn"] for entry in log.entries if entry["type"] == "recovered"] == ["torn-0"]
    log.close()
    assert runlog.read(run / "runlog").findings == []


REFUSED: dict[str, Callable[[Path], object]] = {
    "no whole entry": lambda run: (run / "runlog/entries.jsonl").write_bytes(b""),
    "another history": lambda run: rewrite(run / "runlog/entries.jsonl", b'"case":"a"', b'"case":"b"'),
    "give the folder its name back": lambda run: (run / "runlog").rename(run.with_name("other")),
}


def rewrite(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))


@pytest.mark.parametrize("said", REFUSED)
def test_a_log_that_may_not_go_on(said: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    filled(run)
    if said.startswith("no whole"):
        (run / "runlog/checkpoints.txt").unlink()
    if said.startswith("give"):
        run.rename(tmp_path / "moved")
        run = tmp_path / "moved"
    else:
        REFUSED[said](run)
    with pytest.raises(KitError, match=said):
        RunLog(run, KEY)


class Disk:
    """os.fsync that fails from a given call on."""

    def __init__(self, fault: int, after: int) -> None:
        self.fault, self.after, self.calls = fault, after, 0
        self.real = os.fsync

    def __call__(self, handle: int) -> None:
        self.calls += 1
        if self.calls > self.after:
            raise OSError(self.fault, os.strerror(self.fault))
        self.real(handle)


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EIO], ids=["ENOSPC", "EIO"])
@pytest.mark.parametrize("after", range(3))
def test_after_a_failed_fsync_nothing_more_is_written(fault: int, after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a beat: of the segment, of the heartbeat, of the checkpoint. A new process recovers each time."""
    run = tmp_path / "run"
    filled(run)
    log = RunLog(run, KEY)
    log.append("resume", run_key="0" * 64)
    (run / "evidence/cases/a/attempt-1/events-00000.jsonl").write_bytes(b"more" * 50)
    heart = heartbeat.Heart(log, run / "evidence/cases/a/attempt-1")
    monkeypatch.setattr(os, "fsync", Disk(fault, after))
    with pytest.raises((KitError, OSError)) as caught:
        heart.beat()
    monkeypatch.undo()
    if isinstance(caught.value, KitError):
        assert caught.value.exit_code == ENVIRONMENT
        with pytest.raises(KitError, match="an earlier write to this disk failed"):
            log.append("resume", run_key="0" * 64)
    log.close()
    again = RunLog(run, KEY)
    again.append("resume", run_key="0" * 64)
    again.close()
    found = runlog.read(run / "runlog")
    assert [*found.findings, *runlog.checkpoints(found, runlog.ORIGIN + run.name, lambda _: KEY.public_key())] == []


def write_until_killed(run: Path, pipe: int) -> None:
    """Beats and entries without end; tells each size after it was brought to the disk."""
    log = RunLog(run, KEY)
    log.append("resume", run_key="0" * 64)
    heart = heartbeat.Heart(log, run / "evidence/cases/a/attempt-1")
    while True:
        log.append("file", path="x", size_bytes=0, sha256="0" * 64)
        heart.beat()
        os.write(pipe, f"{log.size}\n".encode())


def test_a_killed_writer_loses_nothing_that_it_told(tmp_path: Path) -> None:
    run = tmp_path / "run"
    filled(run)
    dice = random.Random(7)
    for _ in range(KILLS):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                write_until_killed(run, write)
            finally:
                os._exit(1)
        os.close(write)
        told = os.read(read, 16)
        time.sleep(dice.random() / 50)
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        while more := os.read(read, 65536):
            told = more
        os.close(read)
        log = RunLog(run, KEY)
        assert log.size >= int(told.split(b"\n")[-2])
        log.close()
    log = RunLog(run, KEY)
    log.append("resume", run_key="0" * 64)  # as every run that goes on: the last kill may stand between a beat and its checkpoint
    log.close()
    found = runlog.read(run / "runlog")
    assert [*found.findings, *runlog.checkpoints(found, runlog.ORIGIN + run.name, lambda _: KEY.public_key())] == []


def test_only_the_last_segment_of_a_rank_is_open(tmp_path: Path) -> None:
    run = tmp_path / "run"
    folder = run / "evidence/cases/a/attempt-1"
    folder.mkdir(parents=True)
    log = RunLog(run, KEY)
    heart = heartbeat.Heart(log, folder, counters=dict)
    for name in ("events-00000.jsonl", "events-rank0001-00000.jsonl"):
        (folder / name).write_bytes(b"a")
    heart.beat()
    (folder / "events-00000.jsonl").write_bytes(b"ab")
    (folder / "events-00001.jsonl").write_bytes(b"c")
    heart.beat()
    heart.beat()
    lines = [record.recovery.loads(line) for line in (run / "runlog/entries.jsonl").read_bytes().splitlines()]
    log.close()
    assert [line["type"] for line in lines] == ["heartbeat", "file", "heartbeat", "heartbeat"]
    assert (lines[1]["path"], lines[1]["size_bytes"]) == ("cases/a/attempt-1/events-00000.jsonl", 2)
    assert [Path(part["path"]).name for part in lines[2]["open"]] == ["events-00001.jsonl", "events-rank0001-00000.jsonl"]


def test_a_step_of_the_wall_clock_is_an_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [(10**18, 10**9)]
    monkeypatch.setattr(record, "clocks", lambda: now[0])
    (tmp_path / "run").mkdir()
    log = RunLog(tmp_path / "run", KEY)
    log.append("open")
    now[0] = (10**18 + 60 * 10**9 + 2 * 10**7, 61 * 10**9)
    log.append("case-start", case="a", attempt=1)
    now[0] = (now[0][0] - 3 * 10**9, 62 * 10**9)
    log.append("case-end", case="a", attempt=1)
    assert [entry["type"] for entry in log.entries] == ["open", "case-start", "clock-step", "case-end"]
    assert log.entries[2]["step_ns"] == -4 * 10**9
    log.close()


def test_memory_of_the_writer_does_not_grow_with_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times the heartbeats, the same memory: 72 h have 4,320 of them."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    run = tmp_path / "run"
    folder = run / "evidence/cases/a/attempt-1"
    folder.mkdir(parents=True)
    (folder / "events-00000.jsonl").write_bytes(b"x")
    log = RunLog(run, KEY)
    heart = heartbeat.Heart(log, folder)
    held = []
    tracemalloc.start()
    for beats in (60, 540):
        for _ in range(beats):
            heart.beat()
        held.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    log.close()
    assert held[1] < held[0] + 20_000
