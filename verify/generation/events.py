"""Events of text generation. Times stand where the thing happened; nothing is averaged."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from verify.events import Compiled, Event, Memory, Natural, Positive, Sha256


class Load(Event, frozen=True, tag="load"):
    """Engine and tokenizer were made from `begin_ns` to `t`; `discarded` loads come before the warm ones, which count."""

    begin_ns: Natural
    kind: Literal["cold", "discarded", "warm"]


class Engine(Event, frozen=True, tag="engine"):
    """The engine as it was loaded; `kv_tokens` is what its cache holds at once, `needed_tokens` what the case has in flight.

    `kv_bytes_per_token` is the estimate from the model's shape; `queues` whether requests that do not fit wait.
    """

    name: str
    version: str
    kv_tokens: Natural | None
    needed_tokens: Positive
    kv_bytes_per_token: Positive
    queues: bool


class RoundStart(Event, frozen=True, tag="round_start"):
    """A round of requests begins."""

    round: Natural
    phase: Literal["measured", "warmup"]


class Submit(Event, frozen=True, tag="submit"):
    """A request was due: handed to the engine, or let go by the client. The hash is of the ids, 32 bits each, little-endian."""

    request: Natural
    round: Natural
    prompt_tokens: Natural
    prompt_sha256: Sha256


class Send(Event, frozen=True, tag="send"):
    """A client had written the last byte of a request."""

    request: Natural


class Tokens(Event, frozen=True, tag="tokens"):
    """New token ids of a request arrived, in order."""

    request: Natural
    ids: Annotated[list[Natural], msgspec.Meta(min_length=1)]


class Text(Event, frozen=True, tag="text"):
    """A piece of text arrived from a server that tells no token ids."""

    request: Natural
    size_bytes: Positive


class Finish(Event, frozen=True, tag="finish"):
    """A request came to its end; `usage_tokens` is the server's count, where there is a server and it says one."""

    request: Natural
    reason: Literal["length", "error"]
    usage_tokens: Natural | None
    detail: str | None


class Client(Event, frozen=True, tag="client"):
    """How late the client itself was in a round: by how many ns its loop came late, look by look."""

    round: Natural
    processes: Positive
    lag_ns: list[Natural]


class Judged(Event, frozen=True, tag="judged"):
    """What the engine went on with after a frozen prompt, and what a float32 model of the same weights says of each of these tokens:

    its negative log-likelihood `nll` in nats, and `gap`, by how many nats the likeliest token was likelier (0: it was this one).
    """

    prompt: Natural
    prompt_sha256: Sha256
    ids: list[Natural]
    nll: list[float]
    gap: list[float]


class Perplexity(Event, frozen=True, tag="perplexity"):
    """Sum of negative log-likelihoods of the frozen text, by this engine without quantisation or as the case has it (ruling 10)."""

    quantization: str
    text_sha256: Sha256
    tokens: Positive
    nll: float


EVENTS: tuple[type[Event], ...] = (
    Load,
    Engine,
    Compiled,
    RoundStart,
    Submit,
    Send,
    Tokens,
    Text,
    Finish,
    Client,
    Judged,
    Perplexity,
    Memory,
)
