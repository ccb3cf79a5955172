"""The mock server: connections, what is due when, and the questions it answers at once."""

from __future__ import annotations

import gc
import heapq
import json
import select
import socket
import time
from pathlib import Path
from typing import Any

from . import faults
from .settings import Settings
from .stream import MS, Stream


class Server:
    """Listens on the loop-back address; `serve` goes on until the process is ended."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.listener = socket.create_server(("127.0.0.1", settings.port), backlog=4096)
        self.listener.setblocking(False)
        self.port = self.listener.getsockname()[1]
        self.epoll = select.epoll()
        self.epoll.register(self.listener.fileno(), select.EPOLLIN)
        self.streams: dict[int, Stream] = {}
        self.due: list[tuple[int, int, Stream]] = []
        self.truths: list[dict[str, Any]] = []
        self.wholes: dict[str, tuple[bytes, int]] = {}
        known = json.loads(Path(settings.answers).read_text(encoding="utf-8")) if settings.answers else []
        self.answers = {tuple(prompt): ids for prompt, ids in known}
        self.completions = self.turn = 0
        self.start_ns = time.monotonic_ns()
        self.offset_ns = time.time_ns() - time.monotonic_ns()

    def beat(self, due_ns: int) -> int:
        """The beat at or after a time, where all requests step together as in a batch."""
        if not self.settings.together or not self.settings.step_ms:
            return due_ns
        step = round(self.settings.step_ms * MS)
        return due_ns + (self.start_ns - due_ns) % step

    def schedule(self, due_ns: int, stream: Stream) -> None:
        """Have a stream step at a time."""
        self.turn += 1
        heapq.heappush(self.due, (due_ns, self.turn, stream))

    def serve(self) -> None:
        """Answer for ever."""
        gc.freeze()
        gc.disable()
        while True:
            now = time.monotonic_ns()
            while self.due and self.due[0][0] <= now:
                _, _, stream = heapq.heappop(self.due)
                stream.step(now)
            # epoll counts in whole milliseconds and rounds up: the last one is waited out looking
            patience = max(0, (self.due[0][0] - time.monotonic_ns()) // MS - 1) / 1000 if self.due else 1
            for handle, event in self.epoll.poll(patience):
                if handle == self.listener.fileno():
                    self._accept()
                elif (found := self.streams.get(handle)) is not None:
                    if event & select.EPOLLOUT:
                        found.flush()
                    if event & ~select.EPOLLOUT:
                        found.read()

    def _accept(self) -> None:
        while True:
            try:
                made, _ = self.listener.accept()
            except BlockingIOError:
                return
            self.streams[made.fileno()] = Stream(self, made)
            self.epoll.register(made.fileno(), select.EPOLLIN)

    def answer(self, stream: Stream, line: str, body: bytes) -> None:
        """One whole request."""
        method, path, *_ = line.split(" ")
        if method == "POST" and path == "/v1/completions":
            self._complete(stream, json.loads(body))
            return
        known = {
            "/v1/models": lambda: {"object": "list", "data": [{"id": self.settings.model, "object": "model", "root": self.settings.model}]},
            "/health": dict,
            "/version": lambda: {"version": "mock"},
            "/truth": self._truth,
        }
        if path not in known:
            stream.write(faults.whole("404 Not Found", b'{"detail": "Not Found"}'))
            return
        stream.write(faults.whole("200 OK", json.dumps(known[path]()).encode()))

    def _truth(self) -> list[dict[str, Any]]:
        found, self.truths = self.truths, []
        return found

    def _complete(self, stream: Stream, body: dict[str, Any]) -> None:
        settings = self.settings
        refused = [name for name in settings.refuses if name in body or name in (body.get("stream_options") or {})]
        if settings.text_only and not isinstance(body["prompt"], str):
            refused.append("prompt as token ids")
        if body.get("model") != settings.model:
            stream.write(faults.whole("404 Not Found", json.dumps({"detail": f"The model `{body.get('model')}` does not exist."}).encode()))
        elif refused:
            stream.write(faults.whole("400 Bad Request", json.dumps({"error": {"message": f"not permitted: {refused[0]}"}}).encode()))
        elif not body.get("stream"):
            text = {"choices": [{"index": 0, "text": " word", "finish_reason": "length"}], "model": settings.model}
            stream.write(faults.whole("200 OK", json.dumps(text).encode()))
        else:
            stream.begin(self.completions, body)
            self.completions += 1
