"""One connection of the mock server, and the completion that is under way on it."""

from __future__ import annotations

import json
import random
import select
import socket
import struct
import time
from typing import Any

from . import faults
from .settings import Settings

SO_TIMESTAMPNS = 35
MS = 1_000_000
VOCABULARY = 2000
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"


class Stream:
    """Bytes in, chunks out when they are due; `truth` has what really happened, in ns of the monotonic clock."""

    def __init__(self, server: Any, made: socket.socket) -> None:
        made.setblocking(False)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.server, self.socket, self.settings = server, made, server.settings
        self.got, self.pending = bytearray(), bytearray()
        self.truth: dict[str, Any] | None = None
        self.changed: dict[str, Any] = {}
        self.trickle = False
        self.arrival_ns = 0

    # --- bytes

    def read(self) -> None:
        """Take what came; hand on every whole request."""
        try:
            data, notes, _, _ = self.socket.recvmsg(262144, 64)
        except BlockingIOError:
            return
        except OSError:
            data, notes = b"", []
        if not data:
            self.close()
            return
        self.arrival_ns = _stamp(notes) - self.server.offset_ns if notes else time.monotonic_ns()
        self.got += data
        while self.socket.fileno() >= 0 and (end := self.got.find(b"\r\n\r\n")) >= 0:
            head = bytes(self.got[:end]).decode("latin-1")
            length = next((int(line.split(":")[1]) for line in head.split("\r\n") if line.lower().startswith("content-length:")), 0)
            if len(self.got) < end + 4 + length:
                return
            body = bytes(self.got[end + 4 : end + 4 + length])
            del self.got[: end + 4 + length]
            self.server.answer(self, head.split("\r\n")[0], body)

    def write(self, data: bytes) -> None:
        """Send, or keep what the socket does not take."""
        if self.trickle:
            for at in range(len(data)):
                self.socket.setblocking(True)
                self.socket.sendall(data[at : at + 1])
            return
        if not self.pending:
            try:
                data = data[self.socket.send(data) :]
            except BlockingIOError:
                pass
            except OSError:
                self.close()
                return
        if data:
            self.pending += data
            self.server.epoll.modify(self.socket.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def flush(self) -> None:
        """Send more of what was kept."""
        try:
            while self.pending:
                del self.pending[: self.socket.send(memoryview(self.pending)[:1048576].tobytes())]
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        self.server.epoll.modify(self.socket.fileno(), select.EPOLLIN)

    def close(self) -> None:
        """Drop the connection."""
        self.stop()
        if self.socket.fileno() >= 0:
            self.server.streams.pop(self.socket.fileno(), None)
            self.socket.close()

    def stop(self) -> None:
        """Nothing more comes for this completion."""
        self.truth = None

    # --- a completion

    def begin(self, number: int, body: dict[str, Any]) -> None:
        """Take a completion on; its first token is due after its first delay."""
        settings: Settings = self.settings
        prompt = body["prompt"]
        self.asked, self.number, self.wanted, self.given = body, number, int(body.get("max_tokens") or 16), 0
        self.changed, self.trickle, self.chunks = {}, False, 0
        self.says = self.server.answers.get(tuple(prompt)) if isinstance(prompt, list) else None
        self.random = random.Random(settings.seed * 1000003 + number)
        delay_ms = settings.first_ms + self.random.random() * settings.spread_ms
        self.due_ns = self.server.beat(self.arrival_ns + round(delay_ms * MS))
        self.truth = {
            "request": number,
            "arrival_ns": self.arrival_ns,
            "due_ns": self.due_ns,
            "prompt_tokens": len(prompt) if isinstance(prompt, list) else len(prompt.split()),
        }
        self.fault = faults.FAULTS[settings.fault] if settings.fault and number >= settings.fault_from else None
        self.server.schedule(self.due_ns, self)

    def step(self, now: int) -> None:
        """Send what is due."""
        truth = self.truth
        if truth is None:
            return
        if self.fault is not None and (self.chunks >= self.settings.fault_after or hasattr(self.fault, "first")):
            fault, self.fault = self.fault, None
            fault(self)
            if self.truth is None:
                return
        if self.settings.flat:
            self._all(truth)
            return
        data = (HEAD if not self.chunks else b"") + self._chunk()
        truth.setdefault("first_ns", time.monotonic_ns())
        self.write(data)
        if self.given >= self.wanted and self.truth is not None:
            self.finish("length")
        elif self.truth is not None:
            step = round(self.settings.step_ms * MS)
            self.due_ns += step * max(1, -(-(now - self.due_ns) // step) if step else 1)  # a late step is left out, never made up for
            self.server.schedule(self.due_ns, self)

    def _all(self, truth: dict[str, Any]) -> None:
        """Everything at once; made once for all requests that ask the same, so that making it costs no time when it is due."""
        key = json.dumps({**self.asked, "prompt": truth["prompt_tokens"]}, sort_keys=True)
        if key not in self.server.wholes:
            parts = [HEAD]
            while self.given < self.wanted:
                parts.append(self._chunk())
            self.server.wholes[key] = b"".join(parts) + self._end("length"), self.chunks
        data, self.chunks = self.server.wholes[key]
        self.given = self.wanted
        truth["first_ns"] = time.monotonic_ns()
        self.write(data)
        self._log()

    def _chunk(self) -> bytes:
        """The next tokens as one event."""
        size = min(self.settings.tokens_per_chunk, self.wanted - self.given)
        places = range(self.given, self.given + size)
        ids = [self.says[place] if self.says else 1 + (self.number * 7919 + place) % VOCABULARY for place in places]
        self.given += size
        self.chunks += 1
        choice: dict[str, Any] = {"index": 0, "text": " word" * size, "logprobs": None, "finish_reason": None}
        found = self._object([choice])
        counts = self.settings.counts
        if counts == "ids" and self.asked.get("return_token_ids"):
            choice["token_ids"] = ids
        if counts == "names" and self.asked.get("logprobs") is not None:
            choice["logprobs"] = {"tokens": [f"token_id:{one}" for one in ids]}
        if counts == "running" and (self.asked.get("stream_options") or {}).get("continuous_usage_stats"):
            found["usage"] = self._usage()
        return faults.event(json.dumps(found, separators=(",", ":")).encode())

    def _object(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        model = self.changed.get("model", self.settings.model)
        return {"id": f"cmpl-{self.number}", "object": "text_completion", "created": 1764000000, "model": model, "choices": choices}

    def _usage(self) -> dict[str, int]:
        prompt = (self.truth or {"prompt_tokens": 0})["prompt_tokens"] + self.changed.get("prompt_off", 0)
        made = self.given + self.changed.get("usage_off", 0)
        return {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}

    def finish(self, reason: str) -> None:
        """Say how it ended, write the truth down."""
        self.write(self._end(reason))
        self._log()

    def _end(self, reason: str) -> bytes:
        last = self._object([{"index": 0, "text": "", "logprobs": None, "finish_reason": reason}])
        data = faults.event(json.dumps(last, separators=(",", ":")).encode())
        if self.settings.counts != "nothing" and (self.asked.get("stream_options") or {}).get("include_usage"):
            data += faults.event(json.dumps(self._object([]) | {"usage": self._usage()}, separators=(",", ":")).encode())
        return data + faults.event(b"[DONE]") + b"0\r\n\r\n"

    def _log(self) -> None:
        if self.truth is not None:
            self.truth |= {"last_ns": time.monotonic_ns(), "tokens": self.given, "chunks": self.chunks}
            self.server.truths.append(self.truth)
            self.truth = None


def _stamp(notes: list[tuple[int, int, bytes]]) -> int:
    seconds, nanoseconds = struct.unpack("@qq", notes[0][2])
    return seconds * 10**9 + nanoseconds
