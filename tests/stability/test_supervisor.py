"""The supervisor over a training that weighs nothing: every fault once, in its class, whatever is killed, over a reboot, nothing lost."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, cast
from unittest import mock

import pytest

pytest.importorskip("torch")

from bench.stability import case, measured
from kit.worker.stability import faults, journal, nodes, supervisor
from tests.conftest import ROOT
from verify import events
from verify.metrics import stability

pytestmark = pytest.mark.torch


def command(folder: Path, attempt: int) -> list[str]:
    out = folder / f"attempt-{attempt}"
    return [
        sys.executable,
        "-m",
        "tests.stability.standin",
        "supervise",
        str(folder / "case.json"),
        str(folder / "kept"),
        str(out),
        str(attempt),
    ]


def ready(folder: Path, made: dict[str, Any]) -> None:
    (folder / "kept").mkdir()
    (folder / "case.json").write_text(json.dumps(made), encoding="utf-8")


def test_every_fault_once_in_its_class(tmp_path: Path) -> None:
    made = case(10, 5)
    made["faults"].append({"kind": "kill_supervisor", "step": 230})
    ready(tmp_path, made)
    codes = [subprocess.run(command(tmp_path, n), check=False, cwd=ROOT, capture_output=True, timeout=300).returncode for n in (1, 2)]
    assert codes == [-9, 0]
    found = measured(made, tmp_path / "attempt-2/events-00000.jsonl")
    assert [finding for finding in stability.rules(made, found) if finding.severity == "error"] == []
    told = Counter(crash.fault for _, crash in found.crashes)
    assert told == {"process_end": 3, "hang": 1, "out_of_memory": 1, "loss": 2, "device_error": 1, "storage": 1, "supervisor": 1}
    assert found.steps_clocks == 1
    assert stability.metrics(made, found)["crashes"].value == 10


def test_a_reboot_is_gone_on_from(tmp_path: Path) -> None:
    """Every process is killed and the kernel's boot id is another: the gap counts, and nothing that was recorded is lost."""
    made = case(0, 12)
    ready(tmp_path, made)
    first = subprocess.Popen(
        command(tmp_path, 1), cwd=ROOT, env=os.environ | {"STANDIN_BOOT": "one"}, start_new_session=True, stderr=subprocess.DEVNULL
    )
    lines = tmp_path / "kept/journal.jsonl"
    deadline = time.monotonic() + 120
    while not (lines.exists() and lines.read_bytes().count(b'"step"') > 20) and time.monotonic() < deadline:
        time.sleep(0.1)
    first.kill()
    first.wait()
    time.sleep(1)  # agent and ranks die with the supervisor
    known = lines.read_bytes().count(b'"e":"step"')
    time.sleep(1)
    assert lines.read_bytes().count(b'"e":"step"') == known
    done = subprocess.run(
        command(tmp_path, 2), check=False, cwd=ROOT, env=os.environ | {"STANDIN_BOOT": "two"}, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = measured(made, tmp_path / "attempt-2/events-00000.jsonl")
    assert [finding for finding in stability.rules(made, found) if finding.severity == "error"] == []
    assert [crash.fault for _, crash in found.crashes] == ["reboot"]
    assert [session.boot_id for session in found.sessions] == ["one", "two"]
    assert len(found.lives[0].steps) == known


def test_a_torn_line_is_cut_off(tmp_path: Path) -> None:
    own = journal.Journal(tmp_path)
    own.write("step", step=1)
    own.path.write_bytes(own.path.read_bytes() + b'{"e":"st')
    assert [line["e"] for line in own.read()] == ["step"]
    own.mend()
    own.write("step", step=2)
    assert [line["step"] for line in own.read()] == [2]


def test_a_line_behind_one_that_did_not_fit_is_read(tmp_path: Path) -> None:
    """A disk that is full takes a part of a line; once there is room, the next line follows it at once."""
    own, written = journal.Journal(tmp_path), 0
    with faults.full_disk(on=True), contextlib.suppress(OSError):
        while True:
            own.write("step", step=written, detail='{"e":"step"}')
            written += 1
    assert not own.path.read_bytes().endswith(b"\n"), "a part of it"
    own.write("crash", fault="storage", at_ns=1)
    own.write("step", step=written)
    assert [line.get("step", line["e"]) for line in own.read()] == [*range(written), "crash", written]


def test_what_the_supervisor_cannot_write_is_told_once_and_in_order(tmp_path: Path) -> None:
    """Else the next attempt could not tell it again."""
    told: list[tuple[str, Any]] = []
    session = supervisor.Session(
        case(0, 1), tmp_path, cast("Any", None), 1, lambda kind, **fields: told.append((kind, fields.get("fault")))
    )
    with faults.full_disk(on=True):
        with contextlib.suppress(OSError):
            while True:
                session.journal.write("saved", step=1)
        session._note("crash", fault="storage", at_ns=1)
        session._drain()
        assert ("crash", "storage") not in told
    session._note("end", at_ns=2)
    session._drain()
    assert [line for line in told if line[0] != "saved"] == [("session", None), ("crash", "storage"), ("end", None)]
    again = [line["e"] for line in journal.Journal(tmp_path).read()]
    assert again == [line[0] for line in told]


def test_what_never_fits_is_told_at_the_end(tmp_path: Path) -> None:
    told: list[str] = []
    session = supervisor.Session(case(0, 1), tmp_path, cast("Any", None), 1, lambda kind, **_: told.append(kind))
    with faults.full_disk(on=True):
        with contextlib.suppress(OSError):
            while True:
                session.journal.write("saved", step=1)
        session._note("crash", fault="storage", at_ns=1)
        session._note("end", at_ns=2)
        session._tell_rest()
    assert told[-2:] == ["crash", "end"]


def test_the_supervisor_is_not_killed_over_a_fault_that_is_not_told_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hang is seen after seconds; who dies meanwhile takes it along."""
    made = case(0, 1) | {"faults": [{"kind": "kill_rank", "step": 4}, {"kind": "kill_supervisor", "step": 5}, {"kind": "hang", "step": 6}]}
    ranks = mock.Mock(restarts=True, **{"seen.return_value": [], "lost.return_value": None, "words.return_value": []})
    ranks.killed_for_memory.return_value = 0
    session = supervisor.Session(made, tmp_path, ranks, 1, lambda *_, **__: None)
    session.began_ns = journal.now()
    killed: list[int] = []
    monkeypatch.setattr(supervisor.os, "kill", lambda _, number: killed.append(number))
    session.journal.write("step", step=5, begin_ns=1, end_ns=2, loss=4.0)
    session.journal.write("injected", number=0, fault="kill_rank", step=4, at_ns=journal.now())
    session.journal.write("injected", number=2, fault="hang", step=6, at_ns=journal.now())
    session._look()
    session._crash("process_end", "the one before, seen late")
    session._look()
    assert killed == []
    session._crash("hang", "seen at last")
    session._look()
    assert len(killed) == 1
    assert supervisor.Session(made, tmp_path, ranks, 2, lambda *_, **__: None).untold_ns == [], "of ranks that are gone"


def test_a_fault_that_nobody_ever_sees_holds_nothing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = case(0, 1) | {"faults": [{"kind": "kill_supervisor", "step": 5}, {"kind": "hang", "step": 6}]}
    ranks = mock.Mock(restarts=True, **{"seen.return_value": [], "lost.return_value": None, "words.return_value": []})
    session = supervisor.Session(made, tmp_path, ranks, 1, lambda *_, **__: None)
    session.began_ns = journal.now()
    killed: list[int] = []
    monkeypatch.setattr(supervisor.os, "kill", lambda _, number: killed.append(number))
    session.journal.write("step", step=5, begin_ns=1, end_ns=2, loss=4.0)
    session.journal.write("injected", number=1, fault="hang", step=6, at_ns=journal.now() - 10**9 * (made["hang_s"] + made["start_s"] + 1))
    session._look()
    assert len(killed) == 1


def test_a_last_word_outlives_the_next_start(tmp_path: Path) -> None:
    slot = journal.Slot(tmp_path, 0)
    slot.begin(0)
    slot.say(0, "loss", "x" * 1000)
    slot.begin(1)
    found = slot.word(0)
    assert found
    assert (found["incarnation"], found["fault"], found["detail"]) == (0, "loss", "x" * 300)
    assert slot.word(0, journal.now()) is None  # of an earlier session
    assert slot.word(1) is None
    slot.begin(journal.WORDS)
    assert slot.word(0) is None
    assert (slot.read().incarnation, slot.read().pid) == (journal.WORDS, os.getpid())


def test_signs_of_an_earlier_boot_are_none_of_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock since boot begins anew: what was left there before the reboot lies in the future."""
    monkeypatch.setattr(journal, "now", lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 10**15)
    slot = journal.Slot(tmp_path, 0)
    slot.begin(3)
    slot.say(3, "loss", "of the boot before")
    monkeypatch.undo()
    node = nodes.Node(tmp_path, range(1), lambda *_: [])
    assert (node.seen(), node.words(3), node.stopped(3)) == ([], [], False)
    journal.Slot(tmp_path, 0).begin(0)
    assert [(seen.rank, seen.incarnation) for seen in node.seen()] == [(0, 0)]


BOOT_S, BEGAN_S = 10**9, 5000  # on the wall, and since the boot before
WALLS = {
    "off for a minute": ([], 100 + 60, 160),
    "the clock was set on by an hour": ([{"e": "clock_step", "at_ns": (BEGAN_S + 50) * 10**9, "step_ns": 3600 * 10**9}], 3600 + 160, 160),
    "the clock was set back by an hour": (
        [{"e": "clock_step", "at_ns": (BEGAN_S + 50) * 10**9, "step_ns": -3600 * 10**9}],
        160 - 3600,
        160,
    ),
    "a clock that begins in the past": ([], -86400, 100),
}


@pytest.mark.parametrize("name", WALLS)
def test_time_over_a_reboot(name: str, tmp_path: Path) -> None:
    """The wall clock tells, less what it was set by meanwhile, and never takes back what was recorded."""
    stepped, wall_s, elapsed_s = WALLS[name]
    own = journal.Journal(tmp_path)
    at = {"at_ns": BEGAN_S * 10**9, "wall_ns": BOOT_S * 10**9, "elapsed_ns": 0}
    own.write("session", session=1, attempt=1, boot_id="one", **at)
    for line in [*stepped, {"e": "step", "step": 0, "begin_ns": (BEGAN_S + 99) * 10**9, "end_ns": (BEGAN_S + 100) * 10**9, "loss": 4.0}]:
        own.write(line["e"], **{name: value for name, value in line.items() if name != "e"})
    host = supervisor.Host(boot=lambda: "two", wall_ns=lambda: (BOOT_S + wall_s) * 10**9)
    made = case(0, 1)
    told: list[dict[str, Any]] = [{"e": "case_start", "case": made["id"], "suite": "stability", "attempt": 2, "rank": 0, "world_size": 1,
                                   "wall_ns": 0, "monotonic_ns": 0}]  # fmt: skip
    session = supervisor.Session(made, tmp_path, cast("Any", None), 2, lambda kind, **fields: told.append({"e": kind} | fields), host)
    session._drain()
    assert session.before_ns == elapsed_s * 10**9
    kind = events.union(stability.EVENTS)
    found = stability.measure(made, [(0, [events.parse(json.dumps(line | {"t": 0}).encode(), kind, "told") for line in told])])
    assert [finding for finding in found.findings if finding.rule in {"stability.sessions", "stability.time"}] == []


def test_a_session_that_was_cut_off_at_its_begin_is_no_second_crash(tmp_path: Path) -> None:
    """Killed between the crash that it found and its own line."""
    made, lines = case(0, 1), []
    for attempt in (1, 2, 3):
        supervisor.Session(made, tmp_path, cast("Any", None), attempt, lambda *_, **__: None)
        lines = [json.loads(line) for line in (tmp_path / journal.JOURNAL).read_bytes().splitlines()]
        if attempt == 2:
            (tmp_path / journal.JOURNAL).write_text("".join(json.dumps(line) + "\n" for line in lines[:-1]), encoding="utf-8")
    assert [(line["e"], line.get("attempt")) for line in lines] == [("session", 1), ("crash", None), ("session", 3)]


ERRORS = {
    "storage": OSError(28, "no space left on device"),
    "loss": FloatingPointError("loss is nan"),
    "out_of_memory": MemoryError(),
    "device_error": faults.InjectedDeviceError(),
    "process_end": RuntimeError("connection closed by peer"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_class_of_an_error(name: str) -> None:
    assert faults.classify(ERRORS[name], lambda _: False, lambda error: isinstance(error, MemoryError)) == name
