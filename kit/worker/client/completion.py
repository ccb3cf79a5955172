"""What an event of a streamed completion says: tokens with their time, the model, the end.

Tokens are counted from ids, from log-probabilities' tokens or from running `usage`, in this order; never from events.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from .reply import UNKNOWN, Reply

EXCERPT = 160
ID_PREFIX = "token_id:"
LIMIT = 2**63  # of what a column holds

Scan = Callable[[str, int], tuple[Any, int]]


class Unreadable(Exception):
    """An event is not what a completion's event is; the message says which and why."""


def parsed(scan: Scan, data: bytes, number: int) -> dict[str, Any]:
    """The object that the data of event `number` are; raises Unreadable."""
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


def take(reply: Reply, found: dict[str, Any], when: int, number: int) -> None:
    """Put down what event `number` says; raises Unreadable."""
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
    if type(prompt) is not int or type(completion) is not int or not (reply.completion_tokens or 0) <= completion < LIMIT:
        raise ValueError("usage")
    reply.prompt_tokens, reply.completion_tokens = prompt, completion
    return completion


def _choice(reply: Reply, choice: dict[str, Any], running: int | None, when: int) -> None:
    if choice.get("index", 0) != 0:
        raise ValueError("a choice that was not asked for")
    reply.finish = choice.get("finish_reason") or reply.finish
    ids, tokens, source = _tokens(choice, running)
    text = choice.get("text") or ""
    if tokens == 0 or (tokens == UNKNOWN and not text):
        return
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    reply.counted = source
    reply.columns.add(when, tokens, ids, size)


def _tokens(choice: dict[str, Any], running: int | None) -> tuple[list[int], int, str]:
    """(ids, number of tokens, where the number is from)."""
    ids = choice.get("token_ids")
    if ids is not None:
        return _checked(ids), len(ids), "ids"
    logprobs = choice.get("logprobs")
    if logprobs and logprobs.get("tokens") is not None:
        names = logprobs["tokens"]
        if names and all(name.startswith(ID_PREFIX) for name in names):
            return _checked([int(name[len(ID_PREFIX) :]) for name in names]), len(names), "ids"
        return [], len(names), "logprobs"
    if running is not None:
        return [], running, "running usage"
    return [], UNKNOWN, "usage"


def _checked(ids: list[int]) -> list[int]:
    for one in ids:
        if type(one) is not int or not 0 <= one < LIMIT:
            raise ValueError("ids")
    return ids


def message_of(found: Any) -> str | None:
    """The message of an error object as OpenAI's, FastAPI's and vLLM's servers write them."""
    if not isinstance(found, dict):
        return None
    error = found.get("error", found.get("detail", found.get("message") if found.get("object") == "error" else None))
    if isinstance(error, dict):
        return str(error.get("message", error))
    return None if error is None else str(error)
