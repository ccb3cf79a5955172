"""One strict JSON reader for everything that is signed or scored, and the canonical writer.

Two readers that disagree about a document let an attacker show each of them what it wants to see. So: UTF-8 without a
byte-order mark, no duplicate keys and none that differ by case only, no NaN or Infinity, bounded integers; size and
depth are bounded before anything is parsed. Integers fit 64 bits, since Unix nanoseconds do not fit 53; a statement is
read with `SAFE_INTEGER`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from functools import lru_cache
from typing import Any

from verify.findings import Refused, show

SAFE_INTEGER = 2**53 - 1
LARGE_INTEGER = 2**63 - 1
MAX_DEPTH = 32
MAX_BYTES = 32 * 2**20
MAX_NUMBER_CHARACTERS = 64
MAX_EXPONENT = 400  # beyond every finite double, and small enough to hold exactly

_TEXTS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_BRACKETS = re.compile(rb"[][{}]")

Real = Callable[[str], Any]


class Bad(Exception):
    """What is wrong with a document, without where it is."""

    def __init__(self, rule: str, expected: str, found: object) -> None:
        super().__init__(rule)
        self.rule, self.expected, self.found = rule, expected, show(found)


def canonical(value: Any) -> bytes:
    """Canonical JSON: sorted keys, no spaces, ASCII escapes, no newline."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


def exact(text: str) -> Fraction:
    """A JSON number with a fraction or an exponent, as the exact rational that its decimal text names."""
    try:
        value = Decimal(text) if len(text) <= MAX_NUMBER_CHARACTERS else Decimal("nan")
    except InvalidOperation:
        value = Decimal("nan")
    if not value.is_finite() or abs(value.adjusted()) > MAX_EXPONENT:
        raise Bad("json.number", "a finite number that a double can hold", text)
    return Fraction(value)


def double(text: str) -> float:
    """A JSON number of any length as the nearest double, which must be finite."""
    value = float(text)
    if value in {float("inf"), float("-inf")}:
        raise Bad("json.number", "a finite number that a double can hold", text)
    return value


def nearest(text: str) -> float:
    """A JSON number with a fraction or an exponent, as the nearest double."""
    exact(text)
    return double(text)


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len({key.casefold() for key in made}) != len(pairs):
        seen: set[str] = set()
        twin = next(key for key, _ in pairs if key.casefold() in seen or seen.add(key.casefold()))  # type: ignore[func-returns-value]
        raise Bad("json.duplicate", "each key once, ignoring case", twin)
    return made


def _constant(text: str) -> Any:
    raise Bad("json.number", "a finite number", text)


@lru_cache(maxsize=8)
def _decoder(real: Real, largest: int, beyond: Real | None) -> json.JSONDecoder:
    def integer(text: str) -> Any:
        if len(text) <= 20 and abs(int(text)) <= largest:
            return int(text)
        if beyond is None:
            raise Bad("json.number", f"an integer of at most {largest}", text)
        return beyond(text)

    return json.JSONDecoder(object_pairs_hook=_pairs, parse_float=real, parse_int=integer, parse_constant=_constant)


def _check_depth(data: bytes) -> None:
    """Before parsing, so that no parser is ever handed a deep document; a text without its end goes to the end of the data."""
    if data.count(b"{") + data.count(b"[") <= MAX_DEPTH:
        return
    depth = 0
    for bracket in _BRACKETS.finditer(_TEXTS.sub(b"", data)):
        depth += 1 if bracket[0] in {b"[", b"{"} else -1
        if depth > MAX_DEPTH:
            raise Bad("json.depth", f"at most {MAX_DEPTH} levels", "more")


def _parse(data: bytes, limit: int, decode: Callable[[str], Any]) -> Any:
    if len(data) > limit:
        raise Bad("json.size", f"at most {limit} bytes", f"{len(data)} bytes")
    text = data.decode("utf-8")
    if text.startswith("\ufeff"):
        raise Bad("json.encoding", "no byte-order mark", "one")
    _check_depth(data)
    value = decode(text)
    if b"\\u" in data:
        _dumped(value).encode("utf-8")
    return value


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def loads(
    data: bytes,
    where: str = "JSON",
    *,
    real: Real = nearest,
    largest: int = LARGE_INTEGER,
    beyond: Real | None = None,
    limit: int = MAX_BYTES,
) -> Any:
    """Parse one document or raise Refused; `real` makes numbers with a fraction, `beyond` integers over `largest`; `limit` is in bytes."""
    try:
        return _parse(data, limit, _decoder(real, largest, beyond).decode)
    except Bad as bad:
        raise Refused(bad.rule, where, bad.expected, bad.found) from None
    except UnicodeError as bad:
        raise Refused("json.encoding", where, "UTF-8 without lone surrogates", str(bad)) from None
    except RecursionError:
        raise Refused("json.depth", where, f"at most {MAX_DEPTH} levels", "more") from None
    except json.JSONDecodeError as bad:
        raise Refused("json.syntax", where, "one JSON document", f"{bad.msg} at character {bad.pos}") from None
