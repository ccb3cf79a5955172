"""Damage to bytes: each kind takes a random source and data, and gives other data, or None where it does not apply."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from random import Random
from typing import Any

Kind = Callable[[Random, bytes], bytes | None]
KEY = re.compile(rb'"([A-Za-z_][A-Za-z0-9_]*)":')
NUMBER = re.compile(rb"(?<=[:,\[])-?[0-9]+(?:\.[0-9]+)?(?:e-?[0-9]+)?")
BASE64 = re.compile(rb"[A-Za-z0-9+/]{16,}={0,2}")
HEX = re.compile(rb"[0-9a-f]{64}")
STRING = re.compile(rb'"[^"\\]*"')
ODD = (
    b"\x00",
    b"\x1b[31m",
    b"\xff",
    b"\xc3\x28",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"\r",
    b"\n",
    b"\t",
    b" ",
    b"\\u0000",
    b"\\ud800",
    b"<script>",
)


def flip(rng: Random, data: bytes) -> bytes | None:
    if not data:
        return None
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def put(rng: Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + (rng.choice(ODD) if rng.random() < 0.3 else rng.randbytes(1)) + data[at:]


def cut(rng: Random, data: bytes) -> bytes | None:
    if not data:
        return None
    at, size = rng.randrange(len(data)), 1 if rng.random() < 0.7 else rng.randrange(1, 64)
    return data[:at] + data[at + size :]


def replace(rng: Random, data: bytes) -> bytes | None:
    if not data:
        return None
    at = rng.randrange(len(data))
    return data[:at] + rng.randbytes(1) + data[at + 1 :]


def truncate(rng: Random, data: bytes) -> bytes | None:
    return data[: rng.randrange(len(data))] if data else None


def append(rng: Random, data: bytes) -> bytes:
    return data + rng.choice((b"\n", b" ", b"{}\n", b"\x00", data[-1000:], rng.randbytes(8)))


def splice(rng: Random, data: bytes) -> bytes | None:
    if len(data) < 4:
        return None
    begin, at = sorted(rng.randrange(len(data)) for _ in range(2))
    end = begin + rng.randrange(1, 200)
    return data[:at] + data[begin:end] + data[at:]


def _lines(data: bytes, least: int) -> list[bytes] | None:
    lines = data.splitlines(keepends=True)
    return lines if len(lines) >= least else None


def swap_lines(rng: Random, data: bytes) -> bytes | None:
    if (lines := _lines(data, 2)) is None:
        return None
    one, two = rng.sample(range(len(lines)), 2)
    lines[one], lines[two] = lines[two], lines[one]
    return b"".join(lines)


def drop_line(rng: Random, data: bytes) -> bytes | None:
    if (lines := _lines(data, 1)) is None:
        return None
    del lines[rng.randrange(len(lines))]
    return b"".join(lines)


def repeat_line(rng: Random, data: bytes) -> bytes | None:
    if (lines := _lines(data, 1)) is None:
        return None
    lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))
    return b"".join(lines)


def shuffle_lines(rng: Random, data: bytes) -> bytes | None:
    if (lines := _lines(data, 2)) is None:
        return None
    begin = rng.randrange(len(lines) - 1)
    part = lines[begin : begin + rng.randrange(2, 9)]
    rng.shuffle(part)
    return b"".join([*lines[:begin], *part, *lines[begin + len(part) :]])


def _match(rng: Random, data: bytes, pattern: re.Pattern[bytes]) -> re.Match[bytes] | None:
    found = list(pattern.finditer(data))
    return rng.choice(found) if found else None


def key_twice(rng: Random, data: bytes) -> bytes | None:
    if (key := _match(rng, data, KEY)) is None:
        return None
    name = key[1].swapcase() if rng.random() < 0.5 else key[1]
    return data[: key.start()] + b'"%s":%s,' % (name, rng.choice((b"0", b'""', b"null", b"[]"))) + data[key.start() :]


def key_renamed(rng: Random, data: bytes) -> bytes | None:
    if (key := _match(rng, data, KEY)) is None:
        return None
    name = rng.choice((key[1].upper(), key[1] + b"_", key[1][:-1], b"__proto__", b""))
    return data[: key.start()] + b'"%s":' % name + data[key.end() :]


def number(rng: Random, data: bytes) -> bytes | None:
    if (found := _match(rng, data, NUMBER)) is None:
        return None
    text = found[0]
    other = rng.choice((
        b"1" + text, b"-" + text, text + b"0", text + b".0", text + b"e0", b"0" + text, b"9" * 25, b"1e400", b"1e-400",
        b"NaN", b"Infinity", b"-0", b"null", b'"%s"' % text, b"0x10", b"1,5", b"9223372036854775808",
    ))  # fmt: skip
    return data[: found.start()] + other + data[found.end() :]


def string(rng: Random, data: bytes) -> bytes | None:
    if (found := _match(rng, data, STRING)) is None:
        return None
    other = rng.choice(
        (
            b'""',
            b"null",
            b"0",
            b"[]",
            b"{}",
            b'"../../x"',
            b'"/etc/passwd"',
            b'"a\\u0000b"',
            b'"\\ud800"',
            b'"%s"' % (b"A" * 5000),
            b'"\\u001b[2J"',
        )
    )
    return data[: found.start()] + other + data[found.end() :]


def base64_tweak(rng: Random, data: bytes) -> bytes | None:
    if (found := _match(rng, data, BASE64)) is None:
        return None
    text = found[0]
    other = rng.choice((
        text.replace(b"+", b"-").replace(b"/", b"_"), text.rstrip(b"="), text + b"=", text[:-1], text + b"A", text[:8] + b"\n" + text[8:],
        text.rstrip(b"=")[:-1] + rng.choice(b"ABCDEFGHQRSTwxyz0123").to_bytes(1, "big") + b"=" * text.count(b"="), text[::-1], b"A" * len(text),
    ))  # fmt: skip
    return data[: found.start()] + other + data[found.end() :]


def deep(rng: Random, data: bytes) -> bytes:
    """Brackets without end, where a value may stand."""
    at = rng.choice([found.end() for found in re.finditer(rb"[:=,\[]\s*", data)] or [0])
    size = rng.choice((20, 40, 3000))
    return data[:at] + rng.choice((b"[" * size, b"[" * size + b"]" * size, b'{"a":' * size, b"{a=" * size)) + data[at:]


def digest(rng: Random, data: bytes) -> bytes | None:
    if (found := _match(rng, data, HEX)) is None:
        return None
    text = found[0]
    other = rng.choice((text.upper(), text[1:] + text[:1], b"0" * 64, text[:-1], rng.randbytes(32).hex().encode()))
    return data[: found.start()] + other + data[found.end() :]


def _spots(value: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON value."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in list(pairs):
        found.append((value, key))
        _spots(part, found)
    return found


def json_edit(rng: Random, data: bytes) -> bytes | None:
    """One value of one JSON line exchanged, dropped or doubled, written canonically again."""
    if (lines := _lines(data, 1)) is None:
        return None
    at = rng.randrange(len(lines))
    try:
        document = json.loads(lines[at])
        if not (spots := _spots(document, [])):
            return None
        _edit(rng, *rng.choice(spots), spots)
        lines[at] = json.dumps(document, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    except (ValueError, RecursionError):
        return None
    return b"".join(lines)


def _edit(rng: Random, holder: Any, key: Any, spots: list[tuple[Any, Any]]) -> None:
    choice = rng.randrange(5)
    if choice == 0:
        del holder[key]
    elif choice == 1:
        holder[key] = rng.choice([None, True, -1, 0, 2**53, 1.5, "", "x", [], {}, [[]], {"a": {}}, 10**30])
    elif choice == 2:
        other, place = rng.choice(spots)
        holder[key] = json.loads(json.dumps(other[place])) if place in other or isinstance(other, list) else None
    elif isinstance(holder, dict):
        holder[rng.choice(["extra", "e", "t", str(key) + "2", "_type"])] = holder[key]
    else:
        holder.append(holder[key])


KINDS: dict[str, Kind] = {
    kind.__name__: kind
    for kind in (
        flip, put, cut, replace, truncate, append, splice, swap_lines, drop_line, repeat_line, shuffle_lines, key_twice, key_renamed,
        number, string, base64_tweak, deep, digest, json_edit,
    )
}  # fmt: skip


def any_of(rng: Random, data: bytes) -> tuple[str, bytes]:
    """Damage of a random kind that changes `data`, with the name of the kind."""
    while True:
        name = rng.choice(list(KINDS))
        changed = KINDS[name](rng, data)
        if changed is not None and changed != data:
            return name, changed
