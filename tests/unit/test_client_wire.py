"""Framing, events and replies of the client: any split of the same bytes says the same."""

from __future__ import annotations

import json
import marshal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.worker.client import form, reply, sse, stream, wire

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def _chunks(body: bytes, sizes: list[int]) -> bytes:
    """The body in chunks of these sizes, over and over."""
    found, at, turn = [], 0, 0
    while at < len(body):
        size = sizes[turn % len(sizes)]
        piece = body[at : at + size]
        found.append(b"%x\r\n%b\r\n" % (len(piece), piece))
        at, turn = at + size, turn + 1
    return b"".join(found) + b"0\r\n\r\n"


def _cuts(message: bytes, sizes: list[int]) -> list[int]:
    """Where reads of these sizes end."""
    ends, at, turn = [], 0, 0
    while at < len(message):
        at = min(len(message), at + sizes[turn % len(sizes)])
        ends.append(at)
        turn += 1
    return ends


def _events(groups: list[list[int]], text: str = "w") -> list[bytes]:
    """One event a group of ids, then the end as servers write it."""
    made = [{"model": "m", "choices": [{"index": 0, "text": text, "token_ids": ids, "finish_reason": None}]} for ids in groups]
    made.append({"model": "m", "choices": [{"index": 0, "text": "", "token_ids": [], "finish_reason": "length"}]})
    usage = {"prompt_tokens": 3, "completion_tokens": sum(map(len, groups))}
    made.append({"model": "m", "choices": [], "usage": usage})
    return [b"data: " + json.dumps(one, ensure_ascii=False).encode() + b"\n\n" for one in made] + [b"data: [DONE]\n\n"]


def _read(message: bytes, ends: list[int], broken: str | None = None) -> reply.Reply:
    return stream.read(reply.Reply(0), message, ends, range(1000, 1000 + len(ends)), broken)


GROUPS = st.lists(st.lists(st.integers(0, 99999), min_size=1, max_size=8), min_size=1, max_size=12)
SIZES = st.lists(st.integers(1, 300), min_size=1, max_size=6)


@settings(max_examples=150, deadline=None)
@given(GROUPS, SIZES, SIZES, st.text(max_size=4))
def test_any_split_gives_the_same_tokens_and_the_time_of_the_read_that_ended_the_event(
    groups: list[list[int]], in_chunks: list[int], in_reads: list[int], text: str
) -> None:
    events = _events(groups, text)
    message = HEAD + _chunks(b"".join(events), in_chunks)
    ends = _cuts(message, in_reads)
    found = _read(message, ends)
    assert found.fault is None
    assert [chunk.ids for chunk in found.chunks] == groups
    assert (found.prompt_tokens, found.completion_tokens, found.finish, found.counted) == (3, found.tokens, "length", "ids")
    assert found.tokens == sum(map(len, groups))
    times = [chunk.ns for chunk in found.chunks]
    assert times == sorted(times)
    for number, chunk in enumerate(found.chunks):
        seen = message[: ends[chunk.ns - 1000]]
        before = message[: ends[chunk.ns - 1001]] if chunk.ns > 1000 else b""
        assert _whole_events(seen) > number, "the event had ended by this read"
        assert _whole_events(before) <= number, "and not by the one before"


def _strictly(message: bytes, ends: list[int]) -> reply.Reply:
    """As the strict reader alone reads it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(form, "learn", lambda *_: None)
        return _read(message, ends)


def _vllm(ids: list[int], text: str, created: int, separators: tuple[str, str], ascii_only: bool) -> bytes:
    """An event with all that servers write around text and ids."""
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": None, "stop_reason": None, "token_ids": ids}
    whole = {"id": "cmpl-é" if created % 7 == 0 else f"cmpl-{created}", "object": "text_completion", "created": created, "model": "m"}
    return b"data: " + json.dumps(whole | {"choices": [choice]}, separators=separators, ensure_ascii=ascii_only).encode() + b"\n\n"


TEXTS = st.sampled_from([" word", "", "字", '"', "\\", "\n", "\x7f", "\u2028", '"token_ids":[7]', '"text":"x"', "]}", "é"])
PARTS = st.tuples(st.lists(st.sampled_from([0, 5, 42, 31999, 2**31, 10**18, 2**63 - 1]), max_size=3), TEXTS, st.integers(1, 20))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(PARTS, min_size=1, max_size=30),
    st.sampled_from([(",", ":"), (", ", ": ")]),
    st.booleans(),
    st.sampled_from([[100000], [40], [150, 1], [600]]),
    st.data(),
)
def test_events_taken_by_their_form_say_what_the_strict_reader_says(
    parts: list[tuple[list[int], str, int]], separators: tuple[str, str], ascii_only: bool, sizes: list[int], data: st.DataObject
) -> None:
    """One event a chunk, as servers write, or any other chunks; and then with bytes changed, lost or put in anywhere."""
    made = [_vllm(ids, text, created, separators, ascii_only) for ids, text, created in parts] + _events([[1]])
    body = b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in made) + b"0\r\n\r\n"
    message = bytearray(HEAD + (body if sizes == [100000] else _chunks(b"".join(made), sizes)))
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(len(HEAD), len(message) - 1))
        message[at : at + data.draw(st.integers(0, 1))] = data.draw(
            st.sampled_from([b"", b"0", b"7", b'"', b"\xe4", b"\n", b"\r", b"\\", b"-", b" "])
        )
    ends = _cuts(bytes(message), data.draw(SIZES))
    assert _read(bytes(message), ends) == _strictly(bytes(message), ends)


def _taken(made: list[bytes]) -> int:
    """Events that were taken by their form."""
    message = HEAD + b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in made) + b"0\r\n\r\n"
    walk = stream.Stream(reply.Reply(0), message, ([len(message)], [1]))
    assert walk.chunked(len(HEAD)) == len(message)
    return walk.taken


@pytest.mark.parametrize(
    ("made", "taken"),
    [
        ([_vllm([number], " word", 5, (",", ":"), True) for number in range(100)], 99),
        ([_vllm([number, 7], "字", number // 10 * 7 + 1, (", ", ": "), False) for number in range(100)], 99),
        ([_vllm([number], "字" if number % 2 else "w", 5, (",", ":"), True) for number in range(100)], 49),
        ([_vllm([number], " word", 7 * number, (",", ":"), False) for number in range(100)], 0),
    ],
    ids=["alike", "times of making differ", "escapes between", "ids of no ASCII"],
)
def test_events_of_a_server_are_taken_by_their_form(made: list[bytes], taken: int) -> None:
    assert _taken(made) == taken


def _whole_events(message: bytes) -> int:
    """Events that had ended in these first bytes, taken apart byte by byte."""
    body, rest = b"", message.partition(b"\r\n\r\n")[2]
    while True:
        line, found, rest = rest.partition(b"\r\n")
        if not found or line == b"0":
            return body.count(b"\n\n")
        size = int(line, 16)
        body += rest[:size]
        rest = rest[size + 2 :]


@settings(max_examples=150, deadline=None)
@given(GROUPS, SIZES, st.data())
def test_framing_goes_on_where_it_stopped(groups: list[list[int]], in_chunks: list[int], data: st.DataObject) -> None:
    message = HEAD + _chunks(b"".join(_events(groups)), in_chunks)
    whole = wire.Framing()
    assert whole.advance(message) == len(message)
    framing = wire.Framing()
    cuts = sorted({*data.draw(st.lists(st.integers(0, len(message) - 1), max_size=20))})
    assert all(framing.advance(message[:cut]) is None for cut in cuts)
    assert framing.advance(message) == len(message)
    assert framing.spans == whole.spans


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([b"data: x\n", b"data:y\n", b"data\n", b"\n", b": ping\n", b"id: 7\n", b"data: \n", b"odd\n"]), max_size=20)
)
def test_both_ways_to_read_events_agree(lines: list[bytes]) -> None:
    body = b"".join(lines)
    plain = [data for data, _ in sse.events(body)]
    crlf = [data for data, _ in sse.events(body.replace(b"\n", b"\r\n"))]
    assert crlf == [data for data, _ in sse._lines(body)]
    assert plain == crlf


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), SIZES)
def test_garbage_is_a_fault_and_no_exception(body: bytes, in_reads: list[int]) -> None:
    for message in (body, HEAD + body, HEAD + _chunks(b"data: " + body + b"\n\n", [50])):
        assert _read(message, _cuts(message, in_reads)).fault is not None


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["choices", "usage", "model", "error", "token_ids", "text", "logprobs", "tokens"]), inner, max_size=4
            )
        ),
        max_leaves=12,
    )
)
def test_any_json_is_read_or_is_a_fault(found: object) -> None:
    message = HEAD + _chunks(b"data: " + json.dumps(found).encode() + b"\n\ndata: [DONE]\n\n", [1000])
    answer = _read(message, [len(message)])
    assert answer.fault is not None or answer.finish is not None


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (b"", "no whole head"),
        (b"HTTP/1.1 200 OK\r\n", "no whole head"),
        (b"SSH-2.0-x\r\n\r\n", "not HTTP/1.1"),
        (b"HTTP/1.1 abc\r\n\r\n", "status line"),
        (b"HTTP/1.1 200 OK\r\nnocolon\r\n\r\n", "header line without a name"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n", "content-length"),
        (HEAD + b"zz\r\n", "chunk size"),
        (HEAD + b"-5\r\n", "chunk size"),
        (HEAD + b"fffffffff\r\n", "chunk size"),
        (HEAD + b"3\r\nabcd\r\n", "does not end there"),
        (HEAD + b"5\r\ndata", "cut off"),
        (HEAD + b"0\r\n\r\nmore", "cut off"),
        (HEAD + b"0\r\n\r\n", "without a finish reason"),
        (b"HTTP/1.1 500 X\r\nContent-Length: 2\r\n\r\nno", "answered 500: no"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 18\r\n\r\n" + b'{"error":"CUDA no"}'[:18],
            "answered 200 with application/json",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "(nothing)"),
    ],
)
def test_what_is_wrong_is_said(message: bytes, said: str) -> None:
    assert said in str(_read(message, [max(1, len(message))]).fault)


def test_a_body_of_known_length_and_one_that_ends_with_the_connection() -> None:
    body = b"".join(_events([[1], [2, 3]]))
    for head, closed in ((b"Content-Length: %d\r\n" % len(body), False), (b"Connection: close\r\n", True)):
        message = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" + head + b"\r\n" + body
        framing = wire.Framing()
        assert framing.advance(message, closed=closed) == len(message)
        assert [chunk.ids for chunk in _read(message, [len(message)]).chunks] == [[1], [2, 3]]


def test_trailers_and_chunk_extensions_are_passed_over() -> None:
    message = HEAD + b"5;a=b\r\nhello\r\n0\r\nX-Trailer: 1\r\n\r\n"
    framing = wire.Framing()
    assert framing.advance(message) == len(message)
    assert [message[begin:end] for begin, end in framing.spans] == [b"hello"]


@pytest.mark.parametrize(
    ("choice", "usage", "counted", "tokens"),
    [
        ({"text": "a", "token_ids": [5, 6]}, None, "ids", 2),
        ({"text": "", "token_ids": [5]}, None, "ids", 1),
        ({"text": "ab", "logprobs": {"tokens": ["token_id:7", "token_id:8"]}}, None, "ids", 2),
        ({"text": "ab", "logprobs": {"tokens": ["a", "b", "c"]}}, None, "logprobs", 3),
        ({"text": "ab"}, {"prompt_tokens": 3, "completion_tokens": 4}, "running usage", 4),
        ({"text": "ab"}, None, "usage", 0),
    ],
)
def test_tokens_are_counted_from_what_the_server_says_never_from_events(
    choice: dict, usage: dict | None, counted: str, tokens: int
) -> None:
    body = json.dumps({"choices": [choice | {"index": 0, "finish_reason": "length"}], "usage": usage}).encode()
    message = HEAD + _chunks(b"data: " + body + b"\n\ndata: [DONE]\n\n", [4000])
    found = _read(message, [len(message)])
    assert (found.fault, found.counted, found.tokens, len(list(found.chunks))) == (None, counted, tokens, 1)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'{"choices": [{"index": 0, "text": "\xe4\xb8"}]}', "event 0 is not UTF-8: byte 0xe4"),
        (b"{'a': 1}", "event 0 is not a JSON object"),
        (b"[" * 30000, "event 0 is not a JSON object"),
        (b'{"error": {"message": "out of memory"}}', "event 0 is an error: out of memory"),
        (b'{"choices": [{"index": 1, "text": "x", "token_ids": [1]}]}', "event 0 is not a completion's"),
        (b'{"choices": [{"index": 0, "token_ids": [true]}]}', "event 0 is not a completion's"),
        (b'{"usage": {"prompt_tokens": "3", "completion_tokens": 1}}', "event 0 is not a completion's"),
    ],
)
def test_events_that_are_none_are_named(data: bytes, said: str) -> None:
    message = HEAD + _chunks(b"data: " + data + b"\n\n", [65000])
    assert said in str(_read(message, [len(message)]).fault)


def test_a_model_that_changes_within_an_answer_is_a_fault() -> None:
    body = b'data: {"model": "a", "choices": []}\n\ndata: {"model": "b", "choices": []}\n\n'
    message = HEAD + _chunks(body, [1000])
    assert "changed from 'a' to 'b'" in str(_read(message, [len(message)]).fault)


def test_a_reply_survives_the_way_between_processes() -> None:
    message = HEAD + _chunks(b"".join(_events([[1, 2], [3]])), [64])
    found = _read(message, [len(message)])
    assert reply.of_plain(marshal.loads(marshal.dumps(found.plain()))) == found
