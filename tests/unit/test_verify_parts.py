"""Trees, notes, envelopes and numbers against values that were worked out by hand or come from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from tests.adversarial import builder
from verify import data, envelope, findings, notes, tree
from verify.findings import ELSEWHERE, Finding, Refused, capped, error, show, warning
from verify.merkle import Frontier, root_of
from verify.replay import replay
from verify.score import decimal_text


def reference_root(leaves: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\1" + reference_root(leaves[:k]) + reference_root(leaves[k:])).digest()


@given(st.lists(st.binary(max_size=8), max_size=70))
def test_merkle_root_is_that_of_the_rfc(leaves: list[bytes]) -> None:
    assert root_of(leaves) == reference_root(leaves)
    frontier = Frontier()
    for leaf in leaves:
        frontier.add(leaf)
    assert frontier.size == len(leaves)


def test_merkle_root_of_the_certificate_transparency_vectors() -> None:
    vectors = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    found = root_of(bytes.fromhex(text) for text in vectors)
    assert found.hex() == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"


@given(st.binary(max_size=300))
def test_notes_are_read_or_refused(data: bytes) -> None:
    try:
        found = list(notes.split(data))
    except Refused as bad:
        assert bad.finding.rule == "log.checkpoint"
    else:
        assert b"".join(notes.render(note).encode() + b"\n" for note in found) == data


@given(st.binary(max_size=200))
def test_sums_are_read_or_refused(data: bytes) -> None:
    try:
        listed = tree.parse_sums(data)
    except Refused as bad:
        assert bad.finding.rule == "tree.sums"
    else:
        assert tree.render(listed) == data


@given(st.dictionaries(st.from_regex(tree.SEGMENT, fullmatch=True), st.binary(max_size=4), min_size=1, max_size=5))
def test_sums_survive_a_round_trip(files: dict[str, bytes]) -> None:
    listed = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    assert tree.parse_sums(tree.render(listed)) == listed


def test_pae_is_that_of_the_specification() -> None:
    assert envelope.pae("http://example.com/HelloWorld", b"hello world") == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


@given(st.binary(max_size=60))
def test_base64_is_canonical(data: bytes) -> None:
    assert envelope.decode(base64.b64encode(data).decode(), "t") == data
    assert envelope.decode(base64.urlsafe_b64encode(data).decode(), "t") == data


@pytest.mark.parametrize("text", ["AA", "AA=", "A A=", "AB==", "AA==\n", "A-+=", "ä"])
def test_base64_that_two_readers_could_read_differently(text: str) -> None:
    with pytest.raises(Refused, match=r"envelope\.base64"):
        envelope.decode(text, "t")


@pytest.mark.parametrize(
    ("value", "text"),
    [(Fraction(0), "0"), (Fraction(1, 3), "0.333333333"), (Fraction(2, 3), "0.666666667"), (Fraction(10**12), "1000000000000"),
     (Fraction(1000000005, 10), "100000000"), (Fraction(1000000015, 10), "100000002"), (Fraction(-1, 8), "-0.125")],
)  # fmt: skip
def test_nine_digits_half_to_even(value: Fraction, text: str) -> None:
    assert decimal_text(value) == text


def test_what_comes_from_a_run_is_shown_on_one_safe_line() -> None:
    assert show("a\nb\x1b[31m") == "a\\nb\\x1b[31m"
    assert len(show("x" * 1000)) == 200
    assert show("x" * 200) == "x" * 200


def test_metrics_worked_out_by_hand(tmp_path: Path) -> None:
    """Rank 1 takes 2 ms a step, 64 tokens a step over two cards; requests wait 5 ms and give 3 tokens in 7 ms."""
    train, text = replay(builder.build(tmp_path), "self").cases
    assert {name: metric.value for name, metric in train.metrics.items()} == {
        "tgs": Fraction(64 * 3 * 1000, 6 * 2),
        "tgs_real": Fraction(60 * 3 * 1000, 6 * 2),
        "memory_gb": Fraction(1),
        "step_time_mean_s": Fraction(2, 1000),
        "loss_first": Fraction(31, 8),
        "loss_last": Fraction(29, 8),
        "loss_mean": Fraction(30, 8),
        # a token: 6 of each weight (4 * 64^2 + 3 * 64 * 128 + 64 * 256), and 6 * 64 * 16 of attention; 192 tokens in 6 ms on 2 cards
        "model_tflops": Fraction((6 * 57344 + 6144) * 192, 10**12) / Fraction(12, 1000),
        "time_to_first_step_s": Fraction(3, 1000),
    }
    found = {name: metric.value for name, metric in text.metrics.items()}
    assert (
        found
        | {
            "throughput": Fraction(12 * 1000, 14),
            "first_token_latency_mean_ms": 5,
            "first_token_latency_max_ms": 5,
            "load_time_s": Fraction(1, 1000),
            "requests": 4,
            "throughput_legacy": Fraction(2 * 8 * 1000, 8),
        }
        == found
    )


def test_of_many_findings_the_first_stand_and_the_others_are_counted() -> None:
    """Also when they pass through several hands; an error among many warnings is never swallowed; Refused is the last word."""

    def many() -> Iterator[Finding]:
        for number in range(1000):
            yield warning("a.b", f"event {number}", 1, 2)
        yield error("a.b", "event 1000", 1, 2)
        raise Refused("c.d", "file", 1, 2)

    found: list[Finding] = []
    with pytest.raises(Refused):
        found.extend(capped(capped(many())))
    assert len(found) == 22
    assert [one.where for one in found[:20]] == [f"event {number}" for number in range(20)]
    assert (found[20].severity, found[21].where, found[21].found) == ("error", ELSEWHERE, "980 more")


def test_a_thousand_bad_events_make_no_thousand_findings(tmp_path: Path) -> None:
    def broken(bench: builder.Bench) -> None:
        events = bench.events[builder.TEXT]["events-00000.jsonl"]
        [at] = [index for index, event in enumerate(events) if event["e"] == "memory"]
        ended = {"reason": "error", "usage_tokens": None, "detail": "x"}
        events[at:at] = [{"t": events[at]["t"], "e": "tokens", "request": 10**6 + number, "ids": [1]} for number in range(5000)]
        events[at:at] = [{"t": events[at]["t"], "e": "finish", "request": 10**6 + number} | ended for number in range(5000)]

    found = replay(builder.build(tmp_path, broken), "self").findings
    assert {finding.rule for finding in found} >= {"text_generation.output", "text_generation.finish"}
    assert len(found) < 60
    assert [one.found for one in found if one.where == ELSEWHERE] == ["4980 more", "4980 more"]


def test_every_reference_of_every_schema_is_known_from_the_start() -> None:
    folder = data.root() / data.SCHEMAS
    for path in folder.rglob("*.schema.json"):
        name = path.relative_to(folder).as_posix().removesuffix(".schema.json")
        known = set(data._validator(name)._registry)
        references = list(data._references(data._resource(f"{data.SCHEMA_ID}{name}.schema.json").contents))
        assert len(references) == path.read_text(encoding="utf-8").count('"$ref":')
        for reference in references:
            assert data._target(f"{data.SCHEMA_ID}{name}.schema.json", reference) in known
    assert data._target(f"{data.SCHEMA_ID}a/b.schema.json", "../c.schema.json#/x") == f"{data.SCHEMA_ID}c.schema.json"
    assert data._target(f"{data.SCHEMA_ID}a/b.schema.json", "c.schema.json") == f"{data.SCHEMA_ID}a/c.schema.json"
    assert data._target(f"{data.SCHEMA_ID}a/b.schema.json", "#/x") == f"{data.SCHEMA_ID}a/b.schema.json"


def test_an_integer_behind_a_reference_is_written_as_one() -> None:
    """Found by damage: the library went on with its own validator in the schema of a model."""
    [case] = [case for case in builder.source()["case"] if case["suite"] == "text_generation"]
    case |= {"section": "inference"}
    assert data.violations(case, "cases/text_generation", "r", "x") == []
    case["model"]["vocab_size"] = 256.0
    assert [finding.where for finding in data.violations(case, "cases/text_generation", "r", "x")] == ["x $.model.vocab_size"]


def _followed(validator: Any, schema: Any) -> Iterator[Any]:
    """The validators with which references of a schema are followed, as the library makes them."""
    for reference in data._references(schema):
        yield validator.evolve(schema=validator._resolver.lookup(reference).contents)


def test_every_reference_of_every_schema_is_followed_with_our_own_validator() -> None:
    folder, followed = data.root() / data.SCHEMAS, 0
    for path in folder.rglob("*.schema.json"):
        validator = data._validator(path.relative_to(folder).as_posix().removesuffix(".schema.json"))
        for other in _followed(validator, validator.schema):
            assert not other.is_type(1.0, "integer"), path
            followed += 1
    assert followed > 20


@pytest.mark.parametrize("severity", ["error", "warning", "notice"])
def test_a_finding_says_where_what_was_expected_and_what_was_found(severity: str) -> None:
    finding = getattr(findings, severity)("a.b", "here\x1b", 1, None)
    assert finding.to_dict() == {"rule": "a.b", "severity": severity, "where": "here\\x1b", "expected": "1", "found": "None"}
    assert str(finding.refusal()) == str(finding) == "a.b (here\\x1b): expected 1, found None"


@pytest.mark.parametrize("y", [*range(2), *range(2**255 - 19, 2**255), 2**255 - 20])
def test_a_key_is_no_point_of_low_order_and_written_in_one_way(y: int) -> None:
    """0, 1, p - 1, and every y from p on, which stands for y - p."""
    key = Ed25519PublicKey.from_public_bytes(y.to_bytes(32, "little"))
    with pytest.raises(Refused, match=r"key\.order"):
        envelope.load_key(envelope.spki(key), "key")


def test_what_could_not_be_checked_is_one_line() -> None:
    assert str(findings.Unchecked("no run", where="x", why="gone", next_step="look")) == "no run (x): gone; look"
    assert str(findings.Unchecked("no\nrun")) == "no\\nrun"
