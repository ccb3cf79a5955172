"""A full or unwritable place: one line, exit code 3, and what was written before stays whole."""

from __future__ import annotations

import errno
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kit import environment, run
from kit.errors import ENVIRONMENT, KitError
from kit.record import RunLog
from kit.worker.record import Recorder

KEY = Ed25519PrivateKey.generate()


@pytest.fixture
def no_file_beyond() -> Iterator[object]:
    """A function that bounds the size of every file that this process writes: the nearest thing to a full disk."""
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size_bytes: resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_too_little_space_is_said_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "free_bytes", lambda _: 1000)
    with pytest.raises(KitError, match="output folder is full") as caught:
        run._check_out(tmp_path / "out")
    assert caught.value.exit_code == ENVIRONMENT


def test_a_log_entry_that_does_not_fit_is_taken_back(tmp_path: Path, no_file_beyond: object) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    log = RunLog(folder, KEY)
    log.append("open", run="run")
    path = folder / "runlog/entries.jsonl"
    before = path.read_bytes()
    no_file_beyond(len(before) + 10)  # type: ignore[operator]
    with pytest.raises(KitError, match="run log cannot be written") as caught:
        log.append("case-start", case="a", attempt=1)
    assert caught.value.exit_code == ENVIRONMENT
    assert path.read_bytes() == before
    no_file_beyond(resource.RLIM_INFINITY)  # type: ignore[operator]
    log.append("case-start", case="a", attempt=1)
    assert path.read_bytes().startswith(before)
    assert log.size == 2


def test_an_event_that_does_not_fit_stops_the_worker(tmp_path: Path, no_file_beyond: object) -> None:
    recorder = Recorder(tmp_path, rank=0, case={"id": "c", "suite": "s"}, attempt=1, world_size=1)
    no_file_beyond((tmp_path / "events-00000.jsonl").stat().st_size + 5)  # type: ignore[operator]
    with pytest.raises(OSError, match=r"space|large") as caught:
        recorder.event("step", step=1)
    assert caught.value.errno in {errno.ENOSPC, errno.EFBIG}
    no_file_beyond(resource.RLIM_INFINITY)  # type: ignore[operator]
    recorder.close()
