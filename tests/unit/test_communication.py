"""Collectives: the report's ten printed rows, bus bandwidth, what elements must be, and one run that is whole."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from kit import plan
from kit.errors import KitError
from tests.adversarial import communication as built
from verify import events, fabric, metrics, mixed, replay
from verify.data import root
from verify.metrics import communication
from verify.strict import loads

# Report 0.2.1, table of section 3.2.2(2): operation, cards, elements, ms, Gb/s; last the bus bandwidth that facts.md 3.3 works out.
PRINTED = [
    ("all_reduce", 8, 4259924984, "126.905", "2148.338", "1879.8"),
    ("all_reduce", 32, 4259924984, "373.565", "729.815", "707.0"),
    ("all_gather", 8, 134217728, "16.915", "2031.292", "1777.4"),
    ("all_gather", 32, 33554432, "47.117", "729.249", "706.5"),
    ("all_to_all", 8, 1073741824, "17.54", "1958.977", "1714.1"),
    ("all_to_all", 32, 1073741824, "314.13", "109.38", "106.0"),
    ("broadcast", 8, 4259924984, "72.62", "1877.133", "1877.1"),
    ("broadcast", 32, 4259924984, "196.439", "693.939", "693.9"),
    ("pt2pt", 8, 4259924984, "66.02", "2064.778", "2064.8"),
    ("pt2pt", 32, 4259924984, "762.939", "178.673", "178.7"),
]
KIND = events.union(communication.EVENTS)


def measured(case: dict[str, Any], duration_ns: int) -> communication.Measured:
    """Every rank took the same time for each of 50 trials."""
    series = communication.Trials(t=10**12, phase="measured", begin_ns=0, clock="device", duration_ns=[duration_ns] * 50)
    return communication.Measured({rank: [series] for rank in range(case["processes"])})


def of(operation: str, cards: int, elements: int) -> dict[str, Any]:
    return {
        "id": "x",
        "operation": operation,
        "cards": cards,
        "processes": cards,
        "nodes": 1,
        "elements": elements,
        "trials": 50,
        "peer": 1,
    }


@pytest.mark.parametrize(("operation", "cards", "elements", "ms", "gbps", "bus"), PRINTED)
def test_the_printed_rows_come_out_to_21_ppm(operation: str, cards: int, elements: int, ms: str, gbps: str, bus: str) -> None:
    case = of(operation, cards, elements)
    found = communication.metrics(case, measured(case, int(Fraction(ms) * 10**6)))
    assert abs(found["throughput_gbps"].value / Fraction(gbps) - 1) < Fraction(21, 10**6)
    assert found["throughput_rank0_gbps"].value == found["throughput_gbps"].value
    assert found["duration_ms"].value == Fraction(ms)
    assert abs(found["bus_gbps"].value - Fraction(bus)) < Fraction(1, 10)


def test_the_printed_rows_are_those_of_the_profile_and_of_the_baseline() -> None:
    cells = loads((root() / "baselines/a100-report-0.2.1/baseline.json").read_bytes())["cells"]
    base = {(cell["row"], cell["metric"]): cell["value"] for cell in cells if cell.get("table") == "communication"}
    for operation, cards, _, ms, gbps, _ in PRINTED:
        assert (base[f"{operation}-{cards}", "duration_ms"], base[f"{operation}-{cards}", "throughput_gbps"]) == (ms, gbps)


def test_the_slowest_rank_counts_and_rank_0_stands_beside_it() -> None:
    case = of("broadcast", 2, 10**6)
    found = measured(case, 1000)
    found.ranks[1] = [communication.Trials(t=10**12, phase="measured", begin_ns=0, clock="device", duration_ns=[1000, 3000] * 25)]
    values = communication.metrics(case, found)
    assert values["duration_ms"].value == Fraction(2, 1000)
    assert (values["duration_ms"].least, values["duration_ms"].most) == (Fraction(1, 1000), Fraction(3, 1000))
    assert values["throughput_gbps"].value == 10**6 * 32 / Fraction(2000)
    assert values["throughput_rank0_gbps"].value == 10**6 * 32 / Fraction(1000)


def test_a_run_with_both_cases_is_verified(tmp_path: Path) -> None:
    outcome = replay.replay(built.build(tmp_path), "self")
    assert (outcome.verdict, outcome.findings) == ("verified", [])
    reduce, across = outcome.cases[-2:]
    assert float(reduce.metrics["throughput_gbps"].value) == pytest.approx(2 * 65536 * 4 * 8 / 1_000_006.75)
    assert "internode_gbps" not in reduce.metrics
    assert float(across.metrics["internode_gbps"].value) == pytest.approx(4096 * 8 / 1e6)
    assert across.facts == {"library": "gloo", "nodes": "2", "hosts": "2"}


def test_schema_of_events_takes_them() -> None:
    lines = built.events(built.ACROSS, 0)
    assert [events.parse(json.dumps(line).encode(), KIND, "test").t for line in lines] == [line["t"] for line in lines]


def test_two_nodes_on_one_host_are_told_and_refuse_nothing() -> None:
    places = {rank: fabric.Place(t=1, node=rank, local_rank=0, host="0" * 16, memory_bytes=1) for rank in range(2)}
    found = list(fabric.placed({"id": "x", "processes": 2, "nodes": 2}, places, "r"))
    assert [(finding.severity, finding.found) for finding in found] == [("warning", "1 hosts")]


def test_words_do_not_repeat_from_one_stretch_to_the_next() -> None:
    first = [mixed.word(7, 0, index, 24) for index in range(1000)]
    second = [mixed.word(7, 0, mixed.STRETCH + index, 24) for index in range(1000)]
    other = [mixed.word(7, 1, index, 24) for index in range(1000)]
    assert all(len(set(words)) > 990 for words in (first, second, other))
    assert max(len(set(a) & set(b)) for a, b in ((first, second), (first, other))) < 10
    assert mixed.word(7, 3, 5, 21) == mixed.word(7, 3, 5, 24) >> 3


def test_what_an_element_must_be() -> None:
    case = {"seed": 7, "processes": 4, "elements": 4096}
    own = [[mixed.word(7, rank, index, 24) for index in range(4096)] for rank in range(4)]
    assert communication.value(case | {"operation": "all_reduce"}, 2, 9) == sum(words[9] >> 2 for words in own)
    assert communication.value(case | {"operation": "all_gather"}, 0, 2 * 4096 + 9) == own[2][9]
    assert communication.value(case | {"operation": "all_to_all"}, 3, 1024 + 9) == own[1][3 * 1024 + 9]
    assert communication.value(case | {"operation": "broadcast"}, 3, 9) == own[0][9]


def source(**fields: Any) -> dict[str, Any]:
    case = {key: value for key, value in built.REDUCE.items() if key not in {"section", "nodes"}} | fields
    head = {"schemaVersion": 1, "name": "x", "title": {"en": "x", "zh": "x"}, "source": "x", "isolation": "preferred", "official": False}
    return head | {"case": [case]}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"operation": "all_to_all", "elements": 65537}, "do not divide among 2 ranks"),
        ({"operation": "pt2pt"}, "'peer' is missing"),
        ({"operation": "broadcast", "peer": 1}, "False"),
        ({"operation": "pt2pt", "peer": 2}, "peer 2 does not fit"),
        ({"operation": "pt2pt", "peer": 1, "cards": 4, "processes": 4, "nodes": 2}, "peer 1 does not fit 4 processes on nodes = 2"),
        ({"operation": "pt2pt", "peer": 1, "cards": 1, "processes": 1}, "pt2pt needs two ranks"),
        ({"operation": "reduce"}, "not allowed"),
        ({"dtype": "float16"}, "float32"),
        ({"elements": 0}, "out of range"),
    ],
)
def test_bad_cases_are_one_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(KitError) as caught:
        plan.resolve(source(**fields), "tests")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_suite_is_known_to_the_profile() -> None:
    assert "communication" in metrics.suites()
