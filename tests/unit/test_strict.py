"""The strict reader: what it takes, it takes as the standard reader does; what is ambiguous, it refuses."""

from __future__ import annotations

import json
import time
from fractions import Fraction
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verify import strict
from verify.findings import Refused
from verify.strict import MAX_DEPTH, canonical, exact, loads

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(max_size=20).filter(lambda s: not any(0xD800 <= ord(c) < 0xE000 for c in s))
)
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abcdefgh", min_size=1, max_size=4), inner, max_size=4),
    max_leaves=20,
)


@given(DOCUMENTS)
def test_what_canonical_writes_is_read_back(document: object) -> None:
    data = canonical(document)
    assert loads(data) == document
    assert canonical(loads(data)) == data


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        value = loads(data)
    except Refused as bad:
        assert bad.finding.rule.startswith("json.")
    else:
        assert json.loads(data) == value


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_measured_float_is_exactly_its_text(value: float) -> None:
    text = repr(value)
    assert exact(text) == Fraction(text)
    assert float(exact(text)) == value


BAD = {
    "json.duplicate": b'{"a":1,"A":2}',
    "json.number": b"[1e999999]",
    "json.depth": b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
    "json.encoding": b'"\\ud800"',
    "json.syntax": b"{} {}",
}


@pytest.mark.parametrize("rule", BAD)
def test_refusals(rule: str) -> None:
    with pytest.raises(Refused) as caught:
        loads(BAD[rule])
    assert caught.value.finding.rule == rule


def test_size_is_bounded() -> None:
    with pytest.raises(Refused, match=r"json\.size"):
        loads(b"[1,2,3]", limit=6)
    assert loads(b"[1,2,3]", limit=7) == [1, 2, 3]


def nested(levels: int, core: bytes) -> bytes:
    return b"[" * levels + core + b"]" * levels


@pytest.mark.parametrize("core", [b"1", b'"' + b"[{" * 40 + b'\\"[["', b'"a",{}'])
def test_depth_counts_brackets_outside_of_texts(core: bytes) -> None:
    free = MAX_DEPTH - (b"{}" in core)
    assert loads(nested(free, core)) == json.loads(nested(free, core))
    with pytest.raises(Refused, match=r"json\.depth"):
        loads(nested(free + 1, core))


@pytest.mark.parametrize(
    "data", [b"[" * 10**6, b'{"a":' * 10**6, b'["\\"' + b"[" * 10**6, b'"' * 10**6, b'\\"' * 10**6, b"[" * 40 + b'"', b'["\\']
)
def test_deep_and_unended_documents_are_refused_at_once(data: bytes) -> None:
    """Depth is known before the parser sees the document, and no document makes the look at it slow."""
    begin = time.process_time()
    with pytest.raises(Refused, match=r"json\.(depth|syntax)"):
        loads(data)
    assert time.process_time() - begin < 2


def test_no_parser_is_handed_a_deep_document(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strict, "_decoder", lambda *_: SimpleNamespace(decode=lambda text: pytest.fail("parsed")))
    with pytest.raises(Refused, match=r"json\.depth"):
        loads(nested(MAX_DEPTH + 1, b""))
