"""Blocks of lines to events, at the speed of msgspec where that is as strict as the strict reader (docs/design/replay.md).

The two differ in one thing only: msgspec takes the last of keys that stand twice. Every key needs a colon, and a line of a
plain kind, one without free text or maps, has no others. So a block with as many colons as its events have fields hides no
key; any other block, and every line of a kind that is not plain, goes through the strict reader.
"""

from __future__ import annotations

import io
from collections import Counter

import msgspec
from msgspec import inspect

from verify.events import COMMON, Event, decoder, parse, union
from verify.findings import Refused
from verify.strict import Bad


def is_plain(kind: type[Event]) -> bool:
    """Whether a line of this kind has one colon for each key, and none besides."""
    return all(field.required and _is_plain(inspect.type_info(field.type)) for field in msgspec.structs.fields(kind))


def _is_plain(kind: inspect.Type) -> bool:
    match kind:
        case inspect.IntType() | inspect.FloatType() | inspect.BoolType() | inspect.NoneType():
            return True
        case inspect.LiteralType(values):
            return not any(":" in str(value) for value in values)
        case inspect.ListType(item_type=item):
            return _is_plain(item)
        case inspect.UnionType(types):
            return all(map(_is_plain, types))
    return False


class Lines:
    """Turns blocks of whole lines into the events of one suite; without `fast`, line by line by the strict reader."""

    def __init__(self, kinds: tuple[type[Event], ...], *, fast: bool = True) -> None:
        self._kind = union(kinds)
        self._decode = decoder(self._kind).decode
        self._keys = {kind: len(msgspec.structs.fields(kind)) + 1 for kind in (*COMMON, *kinds) if is_plain(kind)}  # 1: the tag
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
            expected = self._colons(events, block)
        except (msgspec.DecodeError, UnicodeError, RecursionError, Bad, Refused):
            return None  # the strict reader says what is wrong, and where first
        return events if block.count(b":") == expected else None

    def _colons(self, events: list[Event], block: bytes) -> int:
        """Colons that the block has if no key stands twice."""
        kinds = set(map(type, events))
        if not kinds <= self._keys.keys():
            return self._strict(events, block.split(b"\n"))
        if len(kinds) == 1:
            return len(events) * self._keys[kinds.pop()]
        return sum(count * self._keys[kind] for kind, count in Counter(map(type, events)).items())

    def _strict(self, events: list[Event], lines: list[bytes]) -> int:
        """The same for a block with other than plain kinds, whose lines are read again by the strict reader."""
        expected = 0
        for index, (event, line) in enumerate(zip(events, lines, strict=False)):
            keys = self._keys.get(type(event))
            if keys is None:
                events[index] = parse(line, self._kind, "")
            expected += line.count(b":") if keys is None else keys
        return expected
