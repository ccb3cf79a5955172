"""What an answer said, as data: its chunks as columns of one table, its end, and what was wrong with it."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

UNKNOWN = -1


class Chunk(NamedTuple):
    """Tokens that became known together, in ns of the monotonic clock.

    `tokens` is None where the server does not say how many, `text_bytes` the size of the text in UTF-8.
    """

    ns: int
    tokens: int | None
    ids: list[int]
    text_bytes: int


def _column() -> array[int]:
    return array("q")


@dataclass(slots=True)
class Columns:
    """Chunks as columns of one table: ns, tokens (UNKNOWN where the server does not say), how many of `ids` are its, bytes of text."""

    times: array[int] = field(default_factory=_column)
    tokens: array[int] = field(default_factory=_column)
    lengths: array[int] = field(default_factory=_column)
    sizes: array[int] = field(default_factory=_column)
    ids: array[int] = field(default_factory=_column)

    def add(self, when: int, tokens: int, ids: list[int], size: int) -> None:
        """One chunk more."""
        self.times.append(when)
        self.tokens.append(tokens)
        self.lengths.append(len(ids))
        self.sizes.append(size)
        self.ids.extend(ids)

    @property
    def groups(self) -> list[list[int]]:
        """Ids of each chunk."""
        if len(self.ids) == len(self.times) == self.lengths.count(1):
            return [[one] for one in self.ids]
        ends = list(accumulate(self.lengths, initial=0))
        ids = self.ids.tolist()
        return [ids[begin:end] for begin, end in pairwise(ends)]


@dataclass(slots=True)
class Reply:
    """One request's answer; `fault` is None where nothing was wrong with it."""

    request: int
    due_ns: int = 0
    send_ns: int = 0
    sent_ns: int = 0
    end_ns: int = 0
    columns: Columns = field(default_factory=Columns)
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
        columns = self.columns
        for when, tokens, ids, size in zip(columns.times, columns.tokens, columns.groups, columns.sizes, strict=True):
            yield Chunk(when, None if tokens == UNKNOWN else tokens, ids, size)

    @property
    def tokens(self) -> int:
        """Tokens of the whole answer: of its chunks where each is known, else of `usage`."""
        known = self.columns.tokens
        return self.completion_tokens or 0 if UNKNOWN in known else sum(known)

    def plain(self) -> dict[str, Any]:
        """As plain values, columns as bytes."""
        columns = [getattr(self.columns, one.name).tobytes() for one in fields(Columns)]
        return {one.name: getattr(self, one.name) for one in fields(self)} | {"columns": columns}


def of_plain(found: dict[str, Any]) -> Reply:
    """The reply that `plain` wrote."""
    return Reply(**{**found, "columns": Columns(*(array("q", column) for column in found["columns"]))})
