"""What a streamed completion said: tokens with the time of the read that brought them, its end, and what was wrong with it.

Tokens are counted from ids, from log-probabilities' tokens or from running `usage`, in this order; never from events.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from . import sse, wire

DONE = b"[DONE]"
EXCERPT = 160
ID_PREFIX = "token_id:"

Clock = Callable[[int], int]


class Unreadable(Exception):
    """An event is not what a completion's event is; the message says which and why."""


class Chunk(NamedTuple):
    """Tokens that became known together, in ns of the monotonic clock.

    `tokens` is None where the server does not say how many, `text_bytes` the size of the text in UTF-8.
    """

    ns: int
    tokens: int | None
    ids: list[int]
    text_bytes: int


@dataclass(slots=True)
class Reply:
    """One request's answer; `fault` is None where nothing was wrong with it. Chunks are kept as the columns of one table."""

    request: int
    due_ns: int = 0
    send_ns: int = 0
    sent_ns: int = 0
    end_ns: int = 0
    columns: tuple[list[int], list[int | None], list[list[int]], list[int]] = field(default_factory=lambda: ([], [], [], []))
    model: str | None = None
    finish: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    counted: str = "nothing"
    status: int = 0
    fault: str | None = None

    @property
    def chunks(self) -> Iterator[Chunk]:
        """In order."""
        return map(Chunk._make, zip(*self.columns, strict=True))

    @property
    def tokens(self) -> int:
        """Tokens of the whole answer: of its chunks where each is known, else of `usage`."""
        known = self.columns[1]
        return self.completion_tokens or 0 if None in known else sum(one or 0 for one in known)

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return {one.name: getattr(self, one.name) for one in fields(self)}


def of_plain(found: dict[str, Any]) -> Reply:
    """The reply that `plain` wrote."""
    return Reply(**{**found, "columns": tuple(found["columns"])})


def read(reply: Reply, message: bytes | bytearray, ends: list[int], clock: Clock, broken: str | None) -> Reply:
    """Fill `reply` from a whole message; read number i ended at byte `ends[i]` and `clock(i)` is its time in ns.

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
        _events(reply, payload, framing.spans, ends, clock)
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


def _events(reply: Reply, payload: bytes, spans: list[tuple[int, int]], ends: list[int], clock: Clock) -> None:
    decoder: Any = json.JSONDecoder()  # its inner call: half the cost of json.loads for a short text
    place, scan, number = _places(spans), decoder.scan_once, 0
    for count, (data, end) in enumerate(sse.events(payload)):
        if data == DONE:
            return
        found = _object(scan, data, count)
        behind = place(end)
        while ends[number] < behind:
            number += 1
        _event(reply, found, clock(number), count)


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


def _object(scan: Callable[[str, int], tuple[Any, int]], data: bytes, number: int) -> dict[str, Any]:
    try:
        text = data.decode().strip()
    except UnicodeDecodeError as error:
        raise Unreadable(f"event {number} is not UTF-8: byte 0x{data[error.start]:02x} at {error.start}") from None
    try:
        found, end = scan(text, 0)
    except (ValueError, RecursionError, StopIteration):
        found, end = None, 0
    if not isinstance(found, dict) or end != len(text):
        raise Unreadable(f"event {number} is not a JSON object: {text[:60]!r}")
    return found


def _event(reply: Reply, found: dict[str, Any], when: int, number: int) -> None:
    if "error" in found or "detail" in found or found.get("object") == "error":
        raise Unreadable(f"event {number} is an error: {' '.join(str(message_of(found)).split())[:EXCERPT]}")
    try:
        if found.get("model") != reply.model:
            _model(reply, found.get("model"))
        before, usage = reply.completion_tokens or 0, found.get("usage")
        running = _usage(reply, usage) - before if usage is not None else None
        for choice in found.get("choices") or ():
            _choice(reply, choice, running, when)
    except (AttributeError, TypeError, ValueError, KeyError):
        raise Unreadable(f"event {number} is not a completion's: {json.dumps(found)[:EXCERPT]}") from None


def _model(reply: Reply, model: Any) -> None:
    if reply.model is None:
        reply.model = str(model)
    elif model is not None:
        raise Unreadable(f"the model changed from '{reply.model}' to '{str(model)[:80]}' within one answer")


def _usage(reply: Reply, usage: dict[str, Any]) -> int:
    """Tokens so far; they never go back."""
    prompt, completion = usage["prompt_tokens"], usage.get("completion_tokens") or 0
    if type(prompt) is not int or type(completion) is not int or completion < (reply.completion_tokens or 0):
        raise ValueError("usage")
    reply.prompt_tokens, reply.completion_tokens = prompt, completion
    return completion


def _choice(reply: Reply, choice: dict[str, Any], running: int | None, when: int) -> None:
    if choice.get("index", 0) != 0:
        raise ValueError("a choice that was not asked for")
    reply.finish = choice.get("finish_reason") or reply.finish
    ids, tokens, source = _tokens(choice, running)
    text = choice.get("text") or ""
    if tokens == 0 or (tokens is None and not text):
        return
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    reply.counted = source
    times, counts, all_ids, sizes = reply.columns
    times.append(when)
    counts.append(tokens)
    all_ids.append(ids)
    sizes.append(size)


def _tokens(choice: dict[str, Any], running: int | None) -> tuple[list[int], int | None, str]:
    """(ids, number of tokens, where the number is from)."""
    ids = choice.get("token_ids")
    if ids is not None:
        for one in ids:
            if type(one) is not int or one < 0:
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
