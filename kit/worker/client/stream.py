"""From the bytes of an answer, and the times at which they came, to what it said."""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from . import form, sse, wire
from .completion import EXCERPT, Scan, Unreadable, message_of, parsed, take
from .reply import Reply

DONE = b"[DONE]"
EVENT_END = b"\n\n"
FIRST_FORMS, EVENTS_PER_FORM = 4, 16  # forms learned of an answer: some, and one more for so many events that a form took

Clock = tuple[Sequence[int], Sequence[int]]  # where each read ended, and its time


def read(reply: Reply, message: bytes | bytearray, ends: Sequence[int], times: Sequence[int], broken: str | None) -> Reply:
    """Fill `reply` from a whole message; read number i ended at byte `ends[i]`, at `times[i]` in ns.

    `broken` says how the exchange ended where it did not end by itself.
    """
    message, end = bytes(message), None
    try:
        head = wire.head(message)
        if head is None:
            broken = broken or "the answer has no whole head"
        else:
            reply.status = head.status
            end = _answer(reply, head, message, (ends, times), closed=broken is None)
    except wire.Malformed as error:
        broken = f"not HTTP/1.1: {error}"
    except Unreadable as error:
        broken = str(error)
    reply.fault = broken or reply.fault or ("the answer is cut off" if end != len(message) else _unfinished(reply))
    return reply


def _answer(reply: Reply, head: wire.Head, message: bytes, clock: Clock, *, closed: bool) -> int | None:
    """The message's end where it has come; raises Malformed or Unreadable."""
    events = head.status == 200 and "text/event-stream" in head.headers.get("content-type", "")
    stream = Stream(reply, message, clock)
    if events and head.chunked:
        return stream.chunked(head.size)
    framing = wire.Framing()
    end = framing.advance(message, closed=closed)
    if events:
        stream.strict(framing.spans)
    else:
        reply.fault = _refusal(head, b"".join(message[begin:end] for begin, end in framing.spans))
    return end


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


class Stream:
    """The events of an answer, in order: those of the form last learned are taken as they lie in the message, others are read strictly."""

    def __init__(self, reply: Reply, message: bytes, clock: Clock) -> None:
        self.reply, self.message, (self.ends, self.times) = reply, message, clock
        self.read = self.count = self.learned = self.taken = 0
        self.over = False
        self.form: re.Pattern[bytes] | None = None
        decoder: Any = json.JSONDecoder()
        self.scan: Scan = decoder.scan_once  # the inner call: half the cost of json.loads for a short text

    def chunked(self, at: int) -> int | None:
        """Read a body in chunks that begins at byte `at`: the message's end where it has come; raises Malformed or Unreadable."""
        held: list[tuple[int, int]] = []
        try:
            while (found := wire.chunk(self.message, at)) is not None and found[0] < found[1]:
                held.append(found)
                at = found[1] + len(wire.END_OF_LINE)
                if self.hopeful and self.message.endswith(EVENT_END, *found):
                    spans, held = held, []
                    self.strict(spans)
                    at = self._alike(at)
        except wire.Malformed:
            self.strict(held)
            raise
        self.strict(held)
        return wire.after_trailers(self.message, found[0]) if found else None

    @property
    def hopeful(self) -> bool:
        """Whether to look for a form in the next event: not where too few so far were of one."""
        return self.count - self.taken <= FIRST_FORMS + self.taken

    def strict(self, spans: list[tuple[int, int]]) -> None:
        """Read the events whose bytes lie there; raises Unreadable."""
        if self.over:
            return
        place = _places(spans)
        for data, end in sse.events(b"".join(self.message[begin:end] for begin, end in spans)):
            if data == DONE:
                self.over = True
                return
            found = parsed(self.scan, data, self.count)
            take(self.reply, found, self._when(place(end)), self.count)
            self.count += 1
            self._learn(data, found)

    def _learn(self, data: bytes, found: dict[str, Any]) -> None:
        """Learn the form of an event that is of no known one, as long as forms are worth their cost."""
        if self.learned < FIRST_FORMS + self.taken // EVENTS_PER_FORM:
            self.learned += 1
            self.form = form.learn(data, found) or self.form

    def _when(self, behind: int) -> int:
        """Time of the read that brought the byte before this one; asked in rising order."""
        while self.ends[self.read] < behind:
            self.read += 1
        return self.times[self.read]

    def _alike(self, at: int) -> int:
        """Take the events of the form from byte `at` on, one a chunk; where the first chunk begins that is none."""
        if self.form is None or self.over:
            return at
        match, message, ends, times, read, columns = self.form.match, self.message, self.ends, self.times, self.read, self.reply.columns
        add_time, add_size, add_id, lengths = columns.times.append, columns.sizes.append, columns.ids.append, array("q")
        while (event := match(message, at)) is not None:
            size, text, numbers = event.groups()
            behind = event.end() - len(wire.END_OF_LINE)
            if int(size, 16) != behind - at - len(size) - len(wire.END_OF_LINE) or not (text.isascii() or form.decodes(text)):
                break
            while ends[read] < behind:
                read += 1
            add_time(times[read])
            add_size(len(text))
            if numbers.isdigit():
                add_id(int(numbers))
                lengths.append(1)
            else:
                several = [int(one) for one in numbers.split(b",")]
                columns.ids.extend(several)
                lengths.append(len(several))
            at = event.end()
        columns.lengths.extend(lengths)
        columns.tokens.extend(lengths)
        taken = len(lengths)
        self.read, self.taken, self.count = read, self.taken + taken, self.count + taken
        return at


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
