"""The supervisor over a training that weighs nothing: every fault once, in its class, whatever is killed, over a reboot, nothing lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from bench.stability import case, measured
from kit.worker.stability import faults, journal, nodes
from tests.conftest import ROOT
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
