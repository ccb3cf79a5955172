"""Measured numbers at the ends of what a double holds, sealed with the true key: an answer, and never a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.adversarial import builder, pictures, specifications
from tests.fuzz import runs
from verify import metrics

LARGEST = sys.float_info.max
SUITES: dict[str, Callable[[builder.Bench], Any]] = {
    "pretrain": lambda _: None,
    "text_generation": lambda _: None,
    "text_to_image": pictures.with_case,
    "specifications": specifications.with_case,
}
CASE = {
    "pretrain": builder.PRETRAIN,
    "text_generation": builder.TEXT,
    "text_to_image": pictures.PICTURES,
    "specifications": specifications.SPECS,
}
EVENTS = {
    "pretrain": builder.pretrain(0, 3),
    "text_generation": builder.text(),
    "text_to_image": pictures.events(),
    "specifications": specifications.events(),
}


def fields(suite: str) -> Iterator[tuple[str, str]]:
    """Kinds and fields of a built run's events that hold doubles."""
    written = {event["e"] for event in EVENTS[suite]}
    for kind in metrics.load(suite).EVENTS:
        doubles = [name for name, held in kind.__annotations__.items() if "float" in str(held)]
        yield from ((str(kind.__struct_config__.tag), name) for name in doubles if kind.__struct_config__.tag in written)


def changed(value: Any, number: float) -> Any:
    return [number] * len(value) if isinstance(value, list) else number


@pytest.mark.parametrize(("suite", "kind", "name"), [(suite, *found) for suite in SUITES for found in fields(suite)])
def test_a_measured_number_at_its_end_is_answered(suite: str, kind: str, name: str, tmp_path: Path) -> None:
    """The first rank at one end, every other at the other; then all at the largest, and at the least above nothing."""
    for place, ends in enumerate(((LARGEST, -LARGEST), (LARGEST, LARGEST), (5e-324, 5e-324), (709.0, 800.0))):

        def extreme(bench: builder.Bench, ends: tuple[float, float] = ends) -> None:
            SUITES[suite](bench)
            for number, (_, listed) in enumerate(sorted(bench.events[CASE[suite]].items())):
                for event in (event for event in listed if event["e"] == kind):
                    event[name] = changed(event[name], ends[min(number, 1)])

        (tmp_path / str(place)).mkdir()
        outcome, text = runs.ask(builder.build(tmp_path / str(place), extreme))
        assert outcome in {"accepted", "refused"}, text
