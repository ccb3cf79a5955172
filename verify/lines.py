"""Blocks of lines to events, at the speed of msgspec where that is as strict as the strict reader (docs/design/replay.md).

The two differ in one thing only: msgspec takes the last of keys that stand twice. A key needs two quotation marks, and a
line of a kind without free text has a fixed number of them. So a block whose marks number what its events account for
hides no key; any other block, and every line of a kind with free text, goes through the strict reader.
"""

from __future__ import annotations

import io
from collections import Counter

import msgspec
from msgspec import inspect

from verify.events import COMMON, Event, decoder, parse, union
from verify.findings import Refused
from verify.strict import Bad


def marks(kind: type[Event]) -> int | None:
    """Quotation marks in a line of this kind, or None where a field may hold free text, a map, or nothing instead of text."""
    fields = [_marks(inspect.type_info(field.type)) if field.required else None for field in msgspec.structs.fields(kind)]
    return None if None in fields else 4 + sum(2 + (count or 0) for count in fields)  # 4: the tag's key and value


def _marks(kind: inspect.Type) -> int | None:
    match kind:
        case inspect.IntType() | inspect.FloatType() | inspect.BoolType() | inspect.NoneType():
            return 0
        case inspect.LiteralType(values) if all(isinstance(value, str) for value in values):
            return 2
        case inspect.ListType(item_type=item) if _marks(item) == 0:
            return 0
        case inspect.UnionType(types) if all(_marks(one) == 0 for one in types):
            return 0
    return None


class Lines:
    """Turns blocks of whole lines into the events of one suite; without `fast`, line by line by the strict reader."""

    def __init__(self, kinds: tuple[type[Event], ...], *, fast: bool = True) -> None:
        self._kind = union(kinds)
        self._decode = decoder(self._kind).decode
        counted = {kind: marks(kind) for kind in (*COMMON, *kinds)}
        self._marks = {kind: count for kind, count in counted.items() if count is not None}
        self._free = counted.keys() - self._marks.keys()
        self._fast = fast

    def events(self, block: bytes, path: str, first: int) -> list[Event]:
        """Every event of a block that begins with line number `first`; Refused at the first line that is none."""
        found = self._quick(block) if self._fast else None
        if found is not None:
            return found
        return [parse(line, self._kind, f"{path}:{number}") for number, line in enumerate(block.split(b"\n")[:-1], start=first)]

    def _quick(self, block: bytes) -> list[Event] | None:
        """The same events, or None where counting cannot show that the strict reader would take every line."""
        if b"\\" in block:
            return None
        try:
            events: list[Event] = list(map(self._decode, io.BytesIO(block)))
            expected = self._expected(events, block)
        except (msgspec.DecodeError, UnicodeError, RecursionError, Bad, Refused):
            return None  # the strict reader says what is wrong, and where first
        return events if block.count(b'"') == expected else None

    def _expected(self, events: list[Event], block: bytes) -> int:
        """Quotation marks that the block has if no key stands twice."""
        kinds = set(map(type, events))
        if kinds & self._free:
            return self._strict(events, block.split(b"\n"))
        if len(kinds) == 1:
            return len(events) * self._marks[kinds.pop()]
        return sum(count * self._marks[kind] for kind, count in Counter(map(type, events)).items())

    def _strict(self, events: list[Event], lines: list[bytes]) -> int:
        """The same for a block with free text; lines that have any are read again by the strict reader."""
        expected = 0
        for index, (event, line) in enumerate(zip(events, lines, strict=False)):
            if type(event) in self._free:
                events[index] = parse(line, self._kind, "")
                expected += line.count(b'"')
            else:
                expected += self._marks[type(event)]
        return expected
