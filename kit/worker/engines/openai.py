"""Any server that speaks OpenAI's completions over HTTP/1.1, measured by the client of `worker.client`.

Prompts are token ids, outputs have exact lengths. What a server can tell of its tokens is asked with a short completion at load, from
the most telling to the least: ids of each chunk, a running count, a count at the end. The server is not ours to load: `load` checks that it
serves the case's model and opens the connections.
"""

from __future__ import annotations

import contextlib
import json
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

from ..client import loop, wire
from ..client.clients import Broken, Clients
from ..client.reply import Reply
from . import Chunk, Client, Done, Facts, Failed, Item, Request, Sent, Text

Case = dict[str, Any]
PATH = "/v1/completions"
PROBE_PROMPT = list(range(3, 19))
PROBE_TOKENS = 4
COUNTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("ids", {"return_token_ids": True, "stream_options": {"include_usage": True}}),
    ("running usage", {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}),
    ("usage", {"stream_options": {"include_usage": True}}),
)
LENGTHS: tuple[tuple[str, ...], ...] = (("ignore_eos", "min_tokens"), ("ignore_eos",), ("min_tokens",), ())
TURNED_DOWN = (400, 422)


class ServerFault(Exception):
    """The server cannot be measured; one line says where, why, and what to do."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """What this server takes: `counted` says how its tokens are known, `lengths` what makes them exact beside max_tokens."""

    counted: str
    extra: dict[str, Any]
    lengths: tuple[str, ...]

    def body(self, model: str, prompt: list[int], tokens: int) -> bytes:
        """A streamed greedy completion of exactly `tokens`."""
        exact = {"ignore_eos": True, "min_tokens": tokens}
        asked = {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True}
        return json.dumps(asked | self.extra | {name: exact[name] for name in self.lengths}, separators=(",", ":")).encode()


class OpenAIEngine:
    """A server that is up, its connections open."""

    arrivals = True

    def __init__(self, case: Case, address: tuple[str, int], clients: Clients) -> None:
        self.case, self.clients = case, clients
        self.url, self.model = case["server"]["url"], case["server"]["model"]
        self.host = f"{address[0]}:{address[1]}"
        self.path = urllib.parse.urlsplit(self.url).path.rstrip("/").removesuffix("/v1")
        try:
            self._reach()
            self._served()
            self.dialect = self._probe()
            self.facts = Facts(self._version(), _parameters(case["model"]), queues=True)
        except BaseException:
            clients.close()
            raise

    def _fault(self, why: str) -> ServerFault:
        return ServerFault(f"{self.url}: {why}")

    def _reach(self) -> None:
        try:
            self.clients.ready()
        except Broken as error:
            raise self._fault(f"{error}; start the server, or correct the case's server.url") from error

    def _get(self, path: str) -> tuple[int, Any]:
        """(status, JSON or None) of a question asked over a connection of its own."""
        try:
            line = loop.connect(*_address(self.url))
        except OSError as error:
            raise self._fault(f"cannot connect: {error.strerror or error}") from error
        message = wire.request("GET", self.path + path, self.host)
        raw = loop.Exchange([line], [loop.Job(0, message)], self.case["server"]["stall_s"]).run()[0]
        line.socket.close()
        head = wire.head(raw.message) if not raw.broken else None
        if head is None:
            return 0, None
        framing = wire.Framing()
        framing.advance(raw.message, closed=True)
        try:
            return head.status, json.loads(b"".join(raw.message[begin:end] for begin, end in framing.spans))
        except (ValueError, RecursionError):
            return head.status, None

    def _served(self) -> None:
        status, found = self._get("/v1/models")
        entries = found.get("data") if isinstance(found, dict) else None
        if status != 200 or not isinstance(entries, list):
            raise self._fault(f"/v1/models answered {status or 'nothing readable'}; it must list the models that are served")
        names = [str(one.get("id")) for one in entries if isinstance(one, dict)]
        if self.model not in names:
            raise self._fault(
                f"serves {', '.join(names)[:120] or 'no model'}, the case wants '{self.model}'; correct server.model, or serve it"
            )

    def _version(self) -> str:
        _, found = self._get("/version")
        told = found.get("version") if isinstance(found, dict) else None
        exact = "+".join(self.dialect.lengths) or "max_tokens"
        return f"server {str(told)[:60] if told else 'of unknown version'}; tokens by {self.dialect.counted}; exact by {exact}"

    def _probe(self) -> Dialect:
        """The most telling dialect that the server takes."""
        why = "tells neither token ids nor their number"
        for counted, extra in COUNTS:
            for lengths in LENGTHS:
                dialect = Dialect(counted, extra, lengths)
                reply = self._ask([Request(0, PROBE_PROMPT)], PROBE_TOKENS, dialect)[0][0]
                wrong = _wrong(reply, PROBE_PROMPT, PROBE_TOKENS, self.model)
                if wrong is None and reply.counted == counted:
                    return dialect
                if reply.status not in TURNED_DOWN:
                    why = wrong or why
                    break
                why = str(wrong)
            if wrong is not None and reply.status not in TURNED_DOWN and reply.counted == counted:
                break
        raise self._fault(f"a probe of {len(PROBE_PROMPT)} token ids for {PROBE_TOKENS} tokens: {why}")

    def _ask(self, requests: Sequence[Request], tokens: int, dialect: Dialect) -> tuple[list[Reply], list[int]]:
        """(replies, how late the client's looks were in ns)."""
        jobs = [
            loop.Job(
                one.number, wire.request("POST", self.path + PATH, self.host, dialect.body(self.model, one.prompt, tokens)), one.due_ns
            )
            for one in requests
        ]
        try:
            self.clients.ready()
            found = self.clients.round(jobs)
        except Broken as error:
            raise self._fault(f"{error}; see the server's own log") from error
        return found.replies, found.lag_ns

    def generate(self, requests: Sequence[Request], output_tokens: int) -> Iterator[Item]:
        """Everything is handed over when the last request has ended, with the times of its reads."""
        prompts = {request.number: request.prompt for request in requests}
        replies, lag_ns = self._ask(requests, output_tokens, self.dialect)
        for reply in replies:
            yield from _items(reply, _wrong(reply, prompts[reply.request], output_tokens, self.model))
        yield Client(max(reply.end_ns for reply in replies), self.clients.processes, lag_ns)

    def unload(self) -> None:
        """Close the connections; the server goes on."""
        self.clients.close()


def _items(reply: Reply, wrong: str | None) -> Iterator[Item]:
    first_ns = reply.columns.times[0] if reply.columns.times else reply.sent_ns
    yield Sent(reply.request, reply.send_ns, min(reply.sent_ns, first_ns))  # its stamp is taken after the call, an answer's on arrival
    columns = reply.columns
    if 0 not in columns.lengths:
        yield from map(Chunk, repeat(reply.request), columns.groups, columns.times)
    else:
        for ns, ids, size_bytes in zip(columns.times, columns.groups, columns.sizes, strict=True):
            if ids:
                yield Chunk(reply.request, ids, ns)
            elif size_bytes:
                yield Text(reply.request, size_bytes, ns)
    if wrong is not None:
        yield Failed(reply.request, reply.end_ns, wrong)
    else:
        yield Done(reply.request, reply.end_ns, reply.completion_tokens)


def _wrong(reply: Reply, prompt: list[int], tokens: int, model: str) -> str | None:
    """The first thing that is not as asked."""
    if reply.fault is not None:
        return f"{reply.fault}, after {reply.tokens} of {tokens} tokens" if reply.tokens else reply.fault
    if reply.model not in (None, model):
        return f"answered as model '{str(reply.model)[:80]}', asked was '{model}'"
    if reply.prompt_tokens not in (None, len(prompt)):
        return f"the server counts {reply.prompt_tokens} prompt tokens, {len(prompt)} were sent"
    if reply.counted == "usage" and reply.completion_tokens is None:
        return "tells neither token ids nor their number"
    if reply.tokens != tokens:
        return f"gave {reply.tokens} of {tokens} tokens (finish reason '{reply.finish}')"
    if reply.completion_tokens not in (None, tokens):
        return f"says {reply.completion_tokens} tokens in its usage and sent {tokens}"
    return None


def _address(url: str) -> tuple[str, int]:
    """Host and port of a plain HTTP address; raises ServerFault."""
    found = urllib.parse.urlsplit(url)
    with contextlib.suppress(ValueError):
        if found.scheme == "http" and found.hostname:
            return found.hostname, found.port or 80
    raise ServerFault(f"'{url}' is not http://HOST:PORT; put the client beside the server, so that no encryption is measured")


def _parameters(model: dict[str, Any]) -> int:
    """Parameters of a LLaMA of this shape, as the plan declares it: a server does not say."""
    width, keys = model["hidden_size"], model["hidden_size"] // model["num_heads"] * model["num_kv_heads"]
    layer = 2 * width * width + 2 * width * keys + 3 * width * model["ffn_size"] + 2 * width
    return int(2 * model["vocab_size"] * width + model["num_layers"] * layer + width)


def load(case: Case, device: object) -> OpenAIEngine:
    """Reach the server named by the case, check its model, find out what it can tell."""
    del device
    address = _address(case["server"]["url"])
    path = urllib.parse.urlsplit(case["server"]["url"]).path.rstrip("/").removesuffix("/v1")
    warm = wire.request("GET", f"{path}/v1/models", f"{address[0]}:{address[1]}")
    lines = case["arrival"]["requests"] if "arrival" in case else case["concurrency"]
    server = case["server"]
    return OpenAIEngine(case, address, Clients(*address, lines, warm=warm, stall_s=server["stall_s"], processes=server["processes"]))
