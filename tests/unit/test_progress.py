"""Progress: plain lines off a terminal, durations as people write them."""

from __future__ import annotations

import io

import pytest

from kit import progress


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (9.6, "0:10"), (61, "1:01"), (3600, "1:00:00"), (262800, "73:00:00")])
def test_duration(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text


def test_plain_lines() -> None:
    out = io.StringIO()
    show = progress.Plain(out)
    show.case_start("case-a", 1, 2, 65)
    show.tick(10)
    show.case_end("failed", "no space left")
    lines = out.getvalue().splitlines()
    assert lines[0] == "[1/2] case-a: start, about 1:05"
    assert lines[1].startswith("[1/2] case-a: failed (no space left) after 0:0")
    assert len(lines) == 2


def test_unknown_estimate_is_not_invented() -> None:
    out = io.StringIO()
    progress.Plain(out).case_start("case-a", 1, 1, None)
    assert out.getvalue() == "[1/1] case-a: start\n"
