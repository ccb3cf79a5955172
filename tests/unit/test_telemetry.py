"""Telemetry: collectors from data alone, the sampler as a process, energy from counters and from power, and what is said about holes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import tomllib
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit import collectors, telemetry
from kit.schema import check
from tests.adversarial import builder
from tests.conftest import ROOT
from verify import replay
from verify import telemetry as seen
from verify.metrics import Window

DESCRIPTIONS = sorted((ROOT / "images").glob("*/telemetry.toml"))
SAMPLED = [path for path in DESCRIPTIONS if "command" in tomllib.loads(path.read_text(encoding="utf-8"))]
MIB = 2**20
EXPECTED: dict[str, list[dict[str, int]]] = {
    "ascend": [
        {"power_mw": 301500, "temperature_c": 52, "utilisation_percent": 98, "memory_used_bytes": 40112 * MIB},
        {"power_mw": 92000, "temperature_c": 37, "utilisation_percent": 0, "memory_used_bytes": 3310 * MIB},
    ],
    "biren": [{"memory_used_bytes": 27816 * MIB}, {"memory_used_bytes": 0}],
    "cambricon": [
        {"power_mw": 188000, "temperature_c": 51, "memory_used_bytes": 18422 * MIB, "utilisation_percent": 97, "ecc_errors": 0},
        {"power_mw": 106000, "temperature_c": 33, "memory_used_bytes": 0, "utilisation_percent": 0, "ecc_errors": 0},
    ],
    "hygon": [
        {"power_mw": 287500, "temperature_c": 63, "utilisation_percent": 97},
        {"power_mw": 109000, "temperature_c": 61, "utilisation_percent": 0},
    ],
    "iluvatar": [
        {"temperature_c": 61, "power_mw": 148000, "memory_used_bytes": 30211 * MIB, "utilisation_percent": 99},
        {"temperature_c": 38, "power_mw": 41000, "memory_used_bytes": 257 * MIB, "utilisation_percent": 0},
    ],
    "kunlunxin": [
        {"memory_used_bytes": 61520 * MIB, "utilisation_percent": 97},
        {"memory_used_bytes": 0, "utilisation_percent": 0},
    ],
    "metax": [
        {"power_mw": 342000, "temperature_c": 58, "memory_used_bytes": 51208 * MIB, "utilisation_percent": 96},
        {"power_mw": 53000, "temperature_c": 29, "memory_used_bytes": 858 * MIB, "utilisation_percent": 0},
    ],
    "nvidia": [
        {"power_mw": 123560, "clock_mhz": 1980, "memory_clock_mhz": 2619, "temperature_c": 41, "utilisation_percent": 0,
         "memory_used_bytes": 5041 * MIB},
    ],
}  # fmt: skip


def described(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", DESCRIPTIONS, ids=lambda path: path.parent.name)
def test_description_fits_its_schema(path: Path) -> None:
    check(described(path), "telemetry", str(path))
    for field in described(path).get("command", {}).get("field", []):
        assert re.compile(field["pattern"]).groups == 1


@pytest.mark.parametrize("path", SAMPLED, ids=lambda path: path.parent.name)
def test_sample_is_read(path: Path) -> None:
    command = described(path)["command"]
    text = (path.parent / command["sample"]).read_text(encoding="utf-8")
    assert collectors.parse(text, command["field"]) == EXPECTED[path.parent.name]


@given(st.text(max_size=400))
def test_no_text_of_a_tool_makes_a_traceback(text: str) -> None:
    for path in SAMPLED:
        for reading in collectors.parse(text, described(path)["command"]["field"]):
            assert all(isinstance(value, int) and 0 <= value < 2**63 for value in reading.values())


@given(st.lists(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6), max_size=3), st.floats(0.001, 1e6))
def test_any_answer_of_a_library_is_a_natural_number_or_nothing(parts: list[Any], scale: float) -> None:
    number = collectors.scaled(parts, scale)
    assert number is None or (isinstance(number, int) and 0 <= number < 2**63)


LIBRARY = """
class Answer:
    used = 1048576
opened = []
CLOCK = 3
def start(): opened.append(1)
def count(): return 2
def handle(index): return index
def power(handle): return 100000 + handle
def energy(handle): return {"counts": 1000 * (handle + 1), "resolution": 15.5}
def memory(handle): return Answer
def clock(handle, which): return 1000 + which if handle == 0 else 1 / 0
"""
FAKE = {
    "module": "fake_management_library", "start": "start", "count": "count", "handle": "handle",
    "field": [
        {"name": "power_mw", "call": "power"},
        {"name": "energy_mj", "call": "energy", "take": ["counts", "resolution"], "scale": 0.001},
        {"name": "memory_used_bytes", "call": "memory", "take": ["used"]},
        {"name": "clock_mhz", "call": "clock", "arguments": ["CLOCK"]},
        {"name": "temperature_c", "call": "not_in_this_version"},
    ],
}  # fmt: skip


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "fake_management_library.py").write_text(LIBRARY, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    sys.modules.pop("fake_management_library", None)
    return tmp_path


def test_library_is_called_as_the_data_says(library: Path) -> None:
    made = collectors.open_collector({"library": FAKE})
    assert made.read() == [
        {"power_mw": 100000, "energy_mj": 16, "memory_used_bytes": 1048576, "clock_mhz": 1003},
        {"power_mw": 100001, "energy_mj": 31, "memory_used_bytes": 1048576},
    ]


def test_no_library_and_no_tool_is_one_line_that_says_so() -> None:
    description = {"library": FAKE | {"module": "no_such_library"}, "command": {"argv": ["no-such-tool"], "field": []}}
    with pytest.raises(collectors.NoCollector, match="no_such_library: ModuleNotFoundError.*; tool no-such-tool: FileNotFoundError"):
        collectors.open_collector(description)


def chip_folder(folder: Path, module: str) -> Path:
    fields = "\n".join(f'[[library.field]]\nname = "{f["name"]}"\ncall = "{f["call"]}"' for f in FAKE["field"][:1])  # type: ignore[index]
    text = f"""schemaVersion = 1
status = "seen"
source = "tests"
interval_ms = 10
[library]
module = "{module}"
start = "start"
count = "count"
handle = "handle"
{fields}
"""
    (folder / "chip").mkdir()
    (folder / "chip/telemetry.toml").write_text(text, encoding="utf-8")
    return folder / "chip"


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "telemetry-00000.jsonl").read_bytes().splitlines()]


def test_sampler_runs_as_a_process_on_the_clock_of_the_events(library: Path) -> None:
    out = library / "out"
    out.mkdir()
    begin = time.monotonic_ns()
    with telemetry.sampling(chip_folder(library, "fake_management_library"), out):
        time.sleep(1.0)
    found = lines(out)
    assert (found[0]["e"], found[0]["cards"], found[0]["missing"], found[-1]["e"]) == ("opened", 2, None, "closed")
    assert begin < found[0]["t"] < found[-1]["t"] < time.monotonic_ns()
    cards = [line for line in found if line["e"] == "card"]
    assert len(cards) >= 10
    assert {line["power_mw"] for line in cards} == {100000, 100001}
    assert [line for line in found if line["e"] == "host"]


def test_sampler_without_a_library_says_so_and_goes_on(library: Path) -> None:
    out = library / "out"
    out.mkdir()
    with telemetry.sampling(chip_folder(library, "no_such_library"), out):
        time.sleep(0.3)
    found = lines(out)
    assert "no_such_library" in found[0]["missing"]
    assert {line["e"] for line in found} == {"opened", "host", "closed"}


def test_sampler_ends_with_the_kit(library: Path) -> None:
    out = library / "out"
    out.mkdir()
    code = f"from kit import telemetry; from pathlib import Path; import time\nwith telemetry.sampling(Path({str(library)!r}), Path({str(out)!r})): time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    deadline = time.monotonic() + 20
    while not (out / "telemetry-00000.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait()
    while lines(out)[-1]["e"] != "closed" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert lines(out)[-1]["e"] == "closed"


# --- energy ---------------------------------------------------------------------------------------------------------

S = 10**9


def readings(*rows: tuple[int, int | None, int | None]) -> list[seen.Card]:
    """Cards at whole seconds with power in watts and a counter in joules."""
    return [
        seen.Card(t=t * S, card=0, read_ns=1, power_mw=None if w is None else w * 1000, energy_mj=None if j is None else j * 1000)
        for t, w, j in rows
    ]


def test_energy_by_power_is_exact() -> None:
    samples = readings((0, 100, None), (2, 300, None), (4, 300, None))
    assert seen.energy(samples, 0, 4 * S) == seen.Energy(Fraction(1000), from_counter=False)
    assert seen.energy(samples, 1 * S, 3 * S) == seen.Energy(Fraction(500), from_counter=False)


def test_energy_by_counter_goes_before_power() -> None:
    samples = readings((0, 100, 50), (2, 100, 250), (4, 100, 450))
    assert seen.energy(samples, 1 * S, 3 * S) == seen.Energy(Fraction(200), from_counter=True)


def test_counter_that_was_reset_is_bridged_by_power() -> None:
    samples = readings((0, 100, 900), (2, 100, 1100), (4, 100, 30), (6, 100, 230))
    assert seen.energy(samples, 0, 6 * S) == seen.Energy(Fraction(600), from_counter=True, resets=1)
    assert seen.energy(readings((0, None, 900), (2, None, 10)), 0, 2 * S) is None


def test_no_power_is_no_energy() -> None:
    assert seen.energy(readings((0, None, None), (2, None, None)), 0, 2 * S) is None


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 1000)), min_size=2, max_size=20))
def test_energy_of_parts_adds_up(steps: list[tuple[int, int]]) -> None:
    rows, now, count = [], 0, 0
    for step, joules in steps:
        rows.append((now, 10, count))
        now, count = now + step, count + joules
    rows.append((now, 10, count))
    samples = readings(*rows)
    half = now * S // 2
    parts = [seen.energy(samples, a, b) for a, b in ((0, half), (half, now * S))]
    assert sum(part.joules for part in parts if part) == count


# --- a whole run ----------------------------------------------------------------------------------------------------

ORIGIN = builder.MONOTONIC_NS  # of the builder's case_start; it moves both


def told(bench: builder.Bench, rows: list[tuple[int, int | None, int | None]], *, missing: str | None = None, closed: bool = True) -> None:
    """Telemetry of two cards beside the training case, every row in ms, W and J."""
    made: list[dict[str, Any]] = [{"t": ORIGIN, "e": "opened", "interval_ms": 10, "cards": 0 if missing else 2, "missing": missing}]
    for ms, watts, joules in rows:
        for card in range(2):
            line = {"t": ORIGIN + ms * 10**6, "e": "card", "card": card, "read_ns": 5}
            line |= {} if watts is None else {"power_mw": watts * 1000}
            made.append(line | ({} if joules is None else {"energy_mj": joules * 1000}))
    if closed:
        made.append({"t": made[-1]["t"], "e": "closed", "samples": len(rows)})
    bench.events[builder.PRETRAIN]["telemetry-00000.jsonl"] = made


def outcome(folder: Path, rows: list[tuple[int, int | None, int | None]], **more: Any) -> tuple[dict[str, float], list[tuple[str, str]]]:
    found = replay.replay(builder.build(folder, lambda bench: told(bench, rows, **more)), "self")
    assert found.verdict == "verified", found.findings
    return {name: float(metric.value) for name, metric in found.cases[0].metrics.items()}, [(f.rule, f.severity) for f in found.findings]


def test_energy_of_a_training_case(tmp_path: Path) -> None:
    # measured steps run from 4 ms to 11 ms on rank 0; two cards at 200 W; 3 steps of 64 tokens
    found, said = outcome(tmp_path, [(ms, 200, None) for ms in range(0, 50, 5)])
    assert said == []
    assert found["energy_j"] == pytest.approx(2 * 200 * 0.007)
    assert found["power_w"] == pytest.approx(400)
    assert found["energy_per_token_j"] == pytest.approx(2 * 200 * 0.007 / 192)


def test_a_hole_leaves_energy_unknown_and_says_so(tmp_path: Path) -> None:
    found, said = outcome(tmp_path, [(0, 200, None), (8, 200, None)])
    assert "energy_j" not in found
    assert said == [("telemetry.coverage", "warning")]


def test_a_reset_is_said(tmp_path: Path) -> None:
    _, said = outcome(tmp_path, [(0, 200, 10), (5, 200, 14), (8, 200, 1), (20, 200, 5)])
    assert said == [("telemetry.reset", "warning")]


def test_a_sampler_that_broke_off_is_said(tmp_path: Path) -> None:
    _, said = outcome(tmp_path, [(ms, 200, None) for ms in range(0, 50, 5)], closed=False)
    assert said == [("telemetry.closed", "warning")]


def test_a_missing_library_is_said_and_costs_no_score(tmp_path: Path) -> None:
    found, said = outcome(tmp_path, [], missing="library x: ModuleNotFoundError")
    assert "tgs" in found
    assert said == [("telemetry.missing", "notice")]


def test_counter_and_power_that_tell_two_stories() -> None:
    rows = [(t, 100, 300 * t) for t in range(12)]
    view = seen.Seen(interval_ns=S, cards={0: readings(*rows)}, closed=True)
    found, said = seen.metrics({"id": "x", "cards": 1}, view, [Window("", 0, 10 * S, {"image": 4})], 0)
    assert float(found["energy_per_image_j"].value) == 750
    assert [finding.rule for finding in said] == ["telemetry.energy"]


def test_series_for_charts_join_the_cards_of_each_reading() -> None:
    cards = {
        card: [
            seen.Card(t=reading, card=card, read_ns=1, power_mw=1000 * (card + 1) + reading, temperature_c=50 + card)
            for reading in range(3)
        ]
        for card in range(2)
    }
    found = seen.series(seen.Seen(cards=cards))
    assert {name: [float(value) for value in series.values] for name, series in found.items()} == {
        "power_w": [3.0, 3.002, 3.004],
        "temperature_c": [51.0, 51.0, 51.0],
    }
    assert seen.series(None) == {}
