"""The script for a short time on a card, rehearsed whole at a size that any machine has: what runs here, runs there at the first go."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.device import training, training_parts  # noqa: E402
from tests.training.test_suites import settled  # noqa: E402, F401

pytestmark = pytest.mark.torch
TINY = training_parts.SCALES["tiny"]
KEPT = {
    "curve": ["float32", "bfloat16"],
    "internlm-7b": ["micro-batch 2"],
    "lora": ["bfloat16", "int8"],
    "sft": ["micro-batch 1"],
    "packed": ["none", "mask", "varlen"],
}


def read(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    return found


@pytest.mark.parametrize("name", sorted(KEPT))
def test_every_part_writes_its_file(tmp_path: Path, name: str) -> None:
    training_parts.PARTS[name](tmp_path, TINY)
    found = read(tmp_path, name)
    assert [key for key in found if key not in {"torch", "device"}] == KEPT[name]
    rates = {key: value for key, value in found.items() if key in KEPT[name] and name != "curve"}
    assert all(value["tokens_per_s"] > 0 for key, value in rates.items() if key != "varlen")
    if name == "curve":
        assert found["float32"]["largest_difference"] < 1e-4
        assert found["bfloat16"]["largest_difference"] < 0.05
        assert len(found["float32"]["ours"]) == len(found["float32"]["plain"]) == TINY.curve


@pytest.mark.parametrize("kind", ["plain", "ours", "float8"])
def test_a_side_answers_what_it_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    lines = "steps 2\n" + ("" if kind == "plain" else f"overhead 2\nprofile {tmp_path / 'profile.txt'}\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    training_parts.side(tmp_path, TINY, "7b-width", kind)
    said = [
        json.loads(line.removeprefix(training_parts.WORD))
        for line in capsys.readouterr().out.splitlines()
        if line.startswith(training_parts.WORD)
    ]
    assert said[0]["first_step_s"] > 0
    assert len(said[1]["times"]) == 2
    if kind != "plain":
        assert said[2]["event_s"] > 0
        assert (tmp_path / "profile.txt").read_text().strip()


def test_the_parent_lets_both_take_turns_and_sums_up(tmp_path: Path) -> None:
    assert training.main([str(tmp_path), "--scale", "tiny", "--seconds", "100000", "1.3b", "first-step"]) == 0
    found, first = read(tmp_path, "1.3b"), read(tmp_path, "first-step")
    assert found["turns"] == "in turns"
    assert set(found["ratio to the plain loop"]) == {"plain", "ours"}
    assert found["ours"]["steps"] == found["plain"]["steps"] == TINY.turn * TINY.turns
    assert found["recording"]["steps"] == training.OVERHEAD_STEPS
    assert {"matmul_tflops before", "matmul_tflops after", "profile"} <= set(found)
    assert first["cold"]["command_to_second_update_s"] > first["cold"]["first_step_s"] > 0
    assert {name: text.partition(" after ")[0] for name, text in read(tmp_path, "summary").items()} == {
        "1.3b": "done",
        "first-step": "done",
    }


def test_a_part_that_fails_or_has_no_time_leaves_the_others_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("ended with 1")

    def late(*_: Any) -> None:
        raise training.Late("not done after 3 s")

    monkeypatch.setattr(training, "beside", broken)
    monkeypatch.setattr(training, "alone", late)
    assert training.main([str(tmp_path), "--scale", "tiny", "1.3b", "curve"]) == 1
    assert {name: text.partition(" after 0")[0] for name, text in read(tmp_path, "summary").items()} == {
        "1.3b": "failed: RuntimeError('ended with 1')",
        "curve": "ended: not done after 3 s",
    }
    assert training.main([str(tmp_path), "--scale", "tiny", "--seconds", "0", "1.3b"]) == 1
    assert read(tmp_path, "summary") == {"1.3b": "not begun: no time left"}
