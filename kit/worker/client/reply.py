"""What a streamed completion said: tokens with the time of the read that brought them, its end, and what was wrong with it.

Tokens are counted from ids, from log-probabilities' tokens or from running `usage`, in this order; never from events.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any

from . import sse, wire

DONE = b"[DONE]"
EXCERPT = 160
ID_PREFIX = "token_id:"

Clock = Callable[[int], tuple[int, int]]


class Unreadable(Exception):
    """An event is not what a completion's event is; the message says which and why."""


@dataclass(slots=True)
class Chunk:
    """Tokens that became known together: time in ns of the monotonic clock, how late this process read them in ns.

    `tokens` is None where the server does not say how many, `text_bytes` the size of the text in UTF-8.
    """

    ns: int
    late_ns: int
    tokens: int | None
    ids: list[int]
    text_bytes: int = 0


@dataclass(slots=True)
class Reply:
    """One request's answer; `fault` is None where nothing was wrong with it."""

    request: int
    due_ns: int = 0
    send_ns: int = 0
    sent_ns: int = 0
    end_ns: int = 0
    chunks: list[Chunk] = field(default_factory=list)
    model: str | None = None
    finish: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    counted: str = "nothing"
    status: int = 0
    fault: str | None = None

    @property
    def tokens(self) -> int:
        """Tokens of the whole answer: of its chunks where each is known, else of `usage`."""
        known = [chunk.tokens for chunk in self.chunks if chunk.tokens is not None]
        return sum(known) if len(known) == len(self.chunks) else self.completion_tokens or 0

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        found = {one.name: getattr(self, one.name) for one in fields(self)}
        return found | {"chunks": [[chunk.ns, chunk.late_ns, chunk.tokens, chunk.ids, chunk.text_bytes] for chunk in self.chunks]}


def of_plain(found: dict[str, Any]) -> Reply:
    """The reply that `plain` wrote."""
    return Reply(**{**found, "chunks": [Chunk(*chunk) for chunk in found["chunks"]]})


def read(reply: Reply, message: bytes | bytearray, ends: list[int], clock: Clock, broken: str | None) -> Reply:
    """Fill `reply` from a whole message; read number i ended at byte `ends[i]` and `clock(i)` is its (time, lateness) in ns.

    `broken` says how the exchange ended where it did not end by itself.
    """
    framing = wire.Framing()
    try:
        end = framing.advance(message, closed=broken is None)
    except wire.Malformed as error:
        end, broken = None, f"not HTTP/1.1: {error}"
    head = framing.head
    if head is None:
        reply.fault = broken or "the answer has no whole head"
        return reply
    reply.status = head.status
    payload = b"".join(message[begin:end] for begin, end in framing.spans)
    if head.status != 200 or "text/event-stream" not in head.headers.get("content-type", ""):
        reply.fault = broken or _refusal(head, payload)
        return reply
    try:
        _events(reply, payload, framing.spans, lambda at: clock(bisect_left(ends, at)))
    except Unreadable as error:
        reply.fault = str(error)
    if reply.fault is None:
        reply.fault = broken or (_unfinished(reply) if end == len(message) else "the answer is cut off")
    return reply


def _unfinished(reply: Reply) -> str | None:
    return None if reply.finish else "the stream ended without a finish reason"


def _refusal(head: wire.Head, payload: bytes) -> str:
    """A status, or 200 with something that is no stream."""
    text = payload.decode("utf-8", "replace")
    try:
        said = message_of(json.loads(text)) or text
    except ValueError:
        said = text
    what = (
        f"answered {head.status}" if head.status != 200 else f"answered 200 with {head.headers.get('content-type', 'no content type')[:60]}"
    )
    return f"{what}: {' '.join(said.split())[:EXCERPT] or '(nothing)'}"


def message_of(found: Any) -> str | None:
    """The message of an error object as OpenAI's, FastAPI's and vLLM's servers write them."""
    if not isinstance(found, dict):
        return None
    error = found.get("error", found.get("detail", found.get("message") if found.get("object") == "error" else None))
    if isinstance(error, dict):
        return str(error.get("message", error))
    return None if error is None else str(error)


def _events(reply: Reply, payload: bytes, spans: list[tuple[int, int]], when: Clock) -> None:
    place = _places(spans)
    decode = json.JSONDecoder().raw_decode
    for number, (data, end) in enumerate(sse.events(payload)):
        if data == DONE:
            return
        _event(reply, _object(decode, data, number), lambda end=end: when(place(end)), number)  # type: ignore[misc]


def _places(spans: list[tuple[int, int]]) -> Callable[[int], int]:
    """From an offset behind a byte of the payload to the offset behind the same byte of the message; asked in rising order."""
    walk: Iterator[tuple[int, int]] = iter(spans)
    begin, end = next(walk, (0, 0))
    before = 0

    def place(at: int) -> int:
        nonlocal begin, end, before
        while at - before > end - begin:
            before += end - begin
            begin, end = next(walk)
        return begin + at - before

    return place


def _object(decode: Callable[[str], tuple[Any, int]], data: bytes, number: int) -> dict[str, Any]:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise Unreadable(f"event {number} is not UTF-8: byte 0x{data[error.start]:02x} at {error.start}") from None
    try:
        found, end = decode(text)
    except (ValueError, RecursionError):
        found, end = None, 0
    if not isinstance(found, dict) or text[end:].strip():
        raise Unreadable(f"event {number} is not a JSON object: {text[:60]!r}")
    return found


def _event(reply: Reply, found: dict[str, Any], when: Callable[[], tuple[int, int]], number: int) -> None:
    said = message_of(found)
    if said is not None:
        raise Unreadable(f"event {number} is an error: {' '.join(said.split())[:EXCERPT]}")
    try:
        _model(reply, found)
        before = reply.completion_tokens or 0
        running = _usage(reply, found.get("usage"))
        for choice in found.get("choices") or ():
            _choice(reply, choice, running - before if running is not None else None, when)
    except (AttributeError, TypeError, ValueError, KeyError):
        raise Unreadable(f"event {number} is not a completion's: {json.dumps(found)[:EXCERPT]}") from None


def _model(reply: Reply, found: dict[str, Any]) -> None:
    model = found.get("model")
    if reply.model is None and model is not None:
        reply.model = str(model)
    elif model is not None and model != reply.model:
        raise Unreadable(f"the model changed from '{reply.model}' to '{str(model)[:80]}' within one answer")


def _usage(reply: Reply, usage: dict[str, Any] | None) -> int | None:
    """Tokens so far, where this event says so."""
    if usage is None:
        return None
    prompt, completion = usage["prompt_tokens"], usage.get("completion_tokens") or 0
    if not isinstance(prompt, int) or not isinstance(completion, int) or completion < (reply.completion_tokens or 0):
        raise ValueError("usage")
    reply.prompt_tokens, reply.completion_tokens = prompt, completion
    return completion


def _choice(reply: Reply, choice: dict[str, Any], running: int | None, when: Callable[[], tuple[int, int]]) -> None:
    if choice.get("index", 0) != 0:
        raise ValueError("a choice that was not asked for")
    reply.finish = choice.get("finish_reason") or reply.finish
    ids, tokens, source = _tokens(choice, running)
    text = choice.get("text") or ""
    if tokens == 0 or (tokens is None and not text):
        return
    ns, late_ns = when()
    reply.counted = source
    reply.chunks.append(Chunk(ns, late_ns, tokens, ids, len(text.encode("utf-8", "surrogatepass"))))


def _tokens(choice: dict[str, Any], running: int | None) -> tuple[list[int], int | None, str]:
    """(ids, number of tokens, where the number is from)."""
    ids = choice.get("token_ids")
    if ids is not None:
        if not all(type(one) is int and one >= 0 for one in ids):
            raise ValueError("ids")
        return ids, len(ids), "ids"
    logprobs = choice.get("logprobs")
    if logprobs and logprobs.get("tokens") is not None:
        names = logprobs["tokens"]
        if names and all(name.startswith(ID_PREFIX) for name in names):
            return [int(name[len(ID_PREFIX) :]) for name in names], len(names), "ids"
        return [], len(names), "logprobs"
    if running is not None:
        return [], running, "running usage"
    return [], None, "usage"
