"""Ways to misbehave. A fault gets the stream under way, before chunk number `fault_after`, and says what is sent instead."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from typing import Any

HALF = "中".encode()[:2]
RESET = struct.pack("ii", 1, 0)


def whole(status: str, body: bytes, kind: str = "application/json") -> bytes:
    """An answer that is no stream."""
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def chunked(body: bytes) -> bytes:
    """One chunk of a body in chunks."""
    return b"%x\r\n%b\r\n" % (len(body), body)


def event(body: bytes) -> bytes:
    """One server-sent event in a chunk of its own."""
    return chunked(b"data: " + body + b"\n\n")


def _reset(stream: Any) -> None:
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    stream.close()


def _kill(stream: Any) -> None:
    os._exit(9)


def _close(stream: Any) -> None:
    stream.close()


def _stall(stream: Any) -> None:
    stream.stop()


def _fewer(stream: Any) -> None:
    stream.finish("stop")


def _more(stream: Any) -> None:
    stream.wanted += 3


def _trickle(stream: Any) -> None:
    stream.trickle = True


def _says(*parts: bytes, then: Callable[[Any], None] | None = None) -> Callable[[Any], None]:
    """Sends these bytes instead of the next chunk, then ends (by a proper end, unless told otherwise)."""

    def act(stream: Any) -> None:
        stream.write(b"".join(parts))
        (then or _end)(stream)

    return act


def _end(stream: Any) -> None:
    stream.write(event(b"[DONE]") + b"0\r\n\r\n")
    stream.stop()


def _instead(answer: bytes) -> Callable[[Any], None]:
    """Answers with this where a stream should begin."""

    def act(stream: Any) -> None:
        stream.write(answer)
        stream.stop()

    act.first = True  # type: ignore[attr-defined]
    return act


def _change(**fields: Any) -> Callable[[Any], None]:
    """Goes on with something in the events changed."""

    def act(stream: Any) -> None:
        stream.changed |= fields

    return act


ERROR = b'{"error": {"message": "CUDA error: an illegal memory access", "type": "server_error", "code": 500}}'

FAULTS: dict[str, Callable[[Any], None]] = {
    "stall": _stall,
    "close": _close,
    "reset": _reset,
    "kill": _kill,
    "half-utf8": _says(event(b'{"choices": [{"index": 0, "text": "' + HALF + b'"}]}')),
    "half-utf8-close": _says(b"40\r\ndata: " + HALF, then=_close),
    "no-json": _says(event(b"{'choices': []}")),
    "not-an-object": _says(event(b"[1, 2]")),
    "deep-json": _says(event(b"[" * 30000)),
    "odd-ids": _says(event(b'{"choices": [{"index": 0, "text": "x", "token_ids": [1, "2", null]}]}')),
    "second-choice": _says(event(b'{"choices": [{"index": 1, "text": "x", "token_ids": [1]}]}')),
    "error-event": _says(event(ERROR)),
    "error-as-200": _instead(whole("200 OK", ERROR)),
    "html-as-200": _instead(whole("200 OK", b"<html>gateway</html>", "text/html")),
    "empty-200": _instead(whole("200 OK", b"")),
    "status-500": _instead(whole("500 Internal Server Error", ERROR)),
    "status-503": _instead(whole("503 Service Unavailable", b"overloaded", "text/plain")),
    "status-429": _instead(whole("429 Too Many Requests", b'{"detail": "slow down"}')),
    "no-http": _instead(b"220 mail.example ESMTP\r\n\r\n"),
    "endless-head": _instead(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70000),
    "bad-length": _instead(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: -5\r\n\r\n"),
    "wrong-model": _change(model="another"),
    "fewer": _fewer,
    "more": _more,
    "prompt-cut": _change(prompt_off=-1),
    "usage-lies": _change(usage_off=1),
    "no-done": _says(b"0\r\n\r\n", then=_stall),
    "bad-chunk-size": _says(b"zz\r\n", then=_close),
    "huge-chunk-size": _says(b"ffffffffffffffff\r\nx", then=_close),
    "short-chunk": _says(b"3\r\ndata: {}\n\n\r\n", then=_close),
    "bytes-behind": _says(event(b"[DONE]") + b"0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", then=_stall),
    "trickle": _trickle,
}
