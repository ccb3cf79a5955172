"""The quick way of reading events takes and refuses exactly what the strict reader does, and finds the same in it."""

from __future__ import annotations

import json
import random
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.adversarial import builder, specifications
from verify import events, files, metrics, score
from verify.events import exact
from verify.findings import Refused
from verify.lines import Lines, is_plain

SUITES = {"pretrain": builder.pretrain(0, 5), "text_generation": builder.text(), "specifications": specifications.events()}
QUICK = {suite: Lines(metrics.load(suite).EVENTS) for suite in SUITES}
STRICT = {suite: Lines(metrics.load(suite).EVENTS, fast=False) for suite in SUITES}
SAMPLES = {suite: [json.dumps(event, separators=(",", ":")).encode() for event in listed] for suite, listed in SUITES.items()}


def answer(lines: Lines, block: bytes) -> Any:
    """The events of a block, or the refusal."""
    try:
        return lines.events(block, "events", 1)
    except Refused as bad:
        return bad.finding


def agree(suite: str, block: bytes) -> Any:
    """What both readers say of a block; they must say the same."""
    strict = answer(STRICT[suite], block)
    assert answer(QUICK[suite], block) == strict
    return strict


NUMBERS = (
    st.floats(allow_nan=False, allow_infinity=False).map(repr)
    | st.integers(-(10**30), 10**30).map(str)
    | st.from_regex(r"-?(0|[1-9][0-9]{0,24})(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)
    | st.sampled_from(["1e400", "1e-500", "-0", "-0.0", "01", "1.", "NaN", "Infinity", "0." + "1" * 90, "9223372036854775808", "1" * 400])
)
VALUES = NUMBERS | st.sampled_from(
    ['"measured"', '"warmup"', '"m\\u0065asured"', '"done"', "null", "true", "[]", "[1]", '["1"]', "{}", '"1"', '"\\ud800"']
)
KEYS = st.sampled_from(["t", "e", "T", "E", "step", "loss", "Loss", "tokens", "begin_ns", "grad_norm", "bonus", "st\\u0065p", "phase"])
BLANKS = st.sampled_from(["", "", "", " ", "\t", "\r", "\n", "\x0b"])


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    """A line of a `step` event with fields changed, repeated, reordered and blanks put in."""
    fields = [(key, json.dumps(value)) for key, value in SUITES["pretrain"][5].items()]
    for _ in range(draw(st.integers(0, 3))):
        where = draw(st.integers(0, len(fields) - 1))
        change = draw(st.sampled_from(["value", "insert", "twice", "drop", "swap"]))
        if change == "value":
            fields[where] = (fields[where][0], draw(VALUES))
        elif change == "insert":
            fields.insert(where, (draw(KEYS), draw(VALUES)))
        elif change == "twice":
            fields.insert(where, fields[draw(st.integers(0, len(fields) - 1))])
        elif change == "drop" and len(fields) > 1:
            fields.pop(where)
        else:
            fields.append(fields.pop(where))
    blank = draw(BLANKS)
    return (blank + "{" + ("," + blank).join(f'"{key}":{value}' for key, value in fields) + "}" + draw(BLANKS)).encode()


@settings(max_examples=600, deadline=None)
@given(st.lists(lines(), min_size=1, max_size=4))
@example(
    [
        b'{"e":"step","t":1,"t":2,"step":0,"phase":"measured","begin_ns":0,"loss":1,"loss_dp_mean":1,"tokens":1,"real_tokens":1,"grad_norm":1}'
    ]
)
def test_changed_steps(made: list[bytes]) -> None:
    agree("pretrain", b"".join(line + b"\n" for line in made))


@settings(max_examples=400, deadline=None)
@given(NUMBERS)
def test_a_number_is_the_same_double_for_both(text: str) -> None:
    line = json.dumps(SUITES["pretrain"][5]).replace('"loss": 3.875', f'"loss": {text}').encode()
    assert text.encode() in line
    agree("pretrain", line + b"\n")


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(SUITES)), st.integers(0, 2**32))
def test_damaged_lines(suite: str, seed: int) -> None:
    rng = random.Random(seed)
    block = bytearray(b"\n".join(rng.choices(SAMPLES[suite], k=4)) + b"\n")
    for _ in range(rng.randrange(1, 4)):
        where = rng.randrange(len(block) - 1)
        match rng.randrange(4):
            case 0:
                block[where] = rng.randrange(256)
            case 1:
                del block[where : where + rng.randrange(1, 12)]
            case 2:
                block[where:where] = rng.choice([b'"', b"\\", b"\n", b"}{", b",", b" ", b'"t":1,', b"\xff", b"\xc3\xa9"])
            case 3:
                other = rng.randrange(len(block) - 1)
                block[where:where] = block[other : other + rng.randrange(1, 40)]
    agree(suite, bytes(block).rstrip(b"\n") + b"\n")


@given(st.binary(max_size=80))
def test_noise(data: bytes) -> None:
    agree("pretrain", data.replace(b"\n", b"") + b"\n")


BAD = [
    b'{"e":"case_end","t":1,"t":1,"state":"done","reason":null}',
    b'{"e":"case_end","t":1,"state":"done","reason":"\\ud800"}',
    b'{"e":"environment","t":1,"python":"3","torch":"2","device":"cpu","device_name":"x","packages":{"a":"1","A":"1"}}',
    b'{"e":"environment","t":1,"python":"3","torch":"2","device":"cpu","device_name":"x","packages":{"a":"1","a":"2"}}',
    b'{"e":"case_end","t":9223372036854775808,"state":"done","reason":null}',
    b'{"e":"case_end","t":1,"state":"done","reason":null}{"e":"case_end","t":1,"state":"done","reason":null}',
    b'\xef\xbb\xbf{"e":"case_end","t":1,"state":"done","reason":null}',
    b'{"e":"case_end","t":1,\n"state":"done","reason":null}',
    b'{"e":"case_end","t":1,"state":"done","reason":"\xff"}',
    b"[" * 10_000,
    b'{"e":"environment","t":1,"packages":' + b'{"a":' * 10_000,
    b"",
]


@pytest.mark.parametrize("line", BAD, ids=range(len(BAD)))
def test_what_neither_takes(line: bytes) -> None:
    for block in (line + b"\n", SAMPLES["pretrain"][6] + b"\n" + line + b"\n" + SAMPLES["pretrain"][7] + b"\n"):
        assert not isinstance(agree("pretrain", block), list)


def test_honest_events_take_the_quick_way() -> None:
    """Or the comparison above would compare the strict reader with itself."""
    for suite, sample in SAMPLES.items():
        quick = QUICK[suite]._quick(b"".join(line + b"\n" for line in sample))
        assert quick == STRICT[suite].events(b"".join(line + b"\n" for line in sample), "events", 1), suite


def test_plain_kinds_are_those_without_free_text() -> None:
    plain = {kind.__name__ for suite in SUITES for kind in (*events.COMMON, *metrics.load(suite).EVENTS) if is_plain(kind)}
    assert plain == {"Step", "Load", "RoundStart", "Send", "Tokens", "Text", "Client", "Memory", "Estimate", "Evaluation"}


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_an_exact_value_is_that_of_the_text_that_repr_writes(value: float) -> None:
    assert exact(value) == Fraction(repr(value))
    assert float(exact(value)) == value


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=20))
def test_totals_are_exact(values: list[float]) -> None:
    assert metrics.total(values) == sum(map(exact, values))


@pytest.mark.parametrize("size", [300, 1000, 4096, files.BLOCK_BYTES])
def test_results_depend_neither_on_blocks_nor_on_the_way_of_reading(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = builder.build(tmp_path, specifications.with_case, steps=20)
    expected = score.evaluate(run / "evidence", fast=False)
    monkeypatch.setattr(files, "BLOCK_BYTES", size)
    assert score.evaluate(run / "evidence") == expected
    assert score.claims(score.evaluate(run / "evidence", fast=False)) == score.claims(expected)
    assert all(result.metrics and not result.findings for result in expected)


def test_segments_and_processes_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same events cut into many segments and read by several processes give the same numbers."""
    from verify import reading

    def cut(bench: builder.Bench) -> None:
        for case, listed in bench.events.items():
            bench.events[case] = {
                name.replace("00000", f"{index:05}"): part
                for name, every in listed.items()
                for index, part in enumerate(every[at : at + 7] for at in range(0, len(every), 7))
            }

    whole = score.evaluate(builder.build(tmp_path / "whole", steps=20) / "evidence")
    run = builder.build(tmp_path / "cut", cut, steps=20)
    assert score.evaluate(run / "evidence") == whole
    monkeypatch.setattr(reading, "SERIAL_BYTES", 0)
    monkeypatch.setattr(reading, "_workers", lambda top, tasks: 3)
    assert score.evaluate(run / "evidence") == whole
