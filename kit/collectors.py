"""Reads the state of accelerators as a chip's telemetry.toml describes it: through a library's functions, or out of a tool's text.

No vendor is known here. A collector gives, per card, integers by field name; what a card does not tell is left out.
"""

from __future__ import annotations

import importlib
import re
import subprocess
from collections.abc import Callable
from typing import Any, Protocol

Reading = dict[str, int]
COMMAND_TIMEOUT_S = 10
UNKNOWN = {"N/A", "NA", "[N/A]", ""}


class NoCollector(Exception):
    """The library or the tool is not there, or has no card; the text says which and why."""


class Collector(Protocol):
    """One reading per card, in the order of the cards."""

    cards: int

    def read(self) -> list[Reading]: ...


def open_collector(description: dict[str, Any]) -> Collector:
    """The collector that a telemetry.toml describes, its library first, then its tool; or NoCollector."""
    faults = []
    for kind, make in MAKERS.items():
        if kind in description:
            try:
                return make(description[kind])
            except NoCollector as fault:
                faults.append(str(fault))
    raise NoCollector("; ".join(faults) or "the chip describes neither a library nor a tool")


class LibraryCollector:
    """Calls functions of a Python module: `start`, `count` and `handle` (or `handles`), then one function a field."""

    def __init__(self, description: dict[str, Any]) -> None:
        self.description = description
        try:
            self.module = importlib.import_module(description["module"])
            if "start" in description:
                self._function(description["start"])()
            self.handles = self._handles()
        except Exception as fault:
            raise NoCollector(f"library {description['module']}: {_line(fault)}") from fault
        if not self.handles:
            raise NoCollector(f"library {description['module']} finds no card")
        self.cards = len(self.handles)
        self.fields = [(field, self._call(field)) for field in description["field"]]

    def _function(self, name: str) -> Callable[..., Any]:
        found: Callable[..., Any] = getattr(self.module, name)
        return found

    def _handles(self) -> list[Any]:
        if "handles" in self.description:
            return list(self._function(self.description["handles"])())
        return [self._function(self.description["handle"])(index) for index in range(int(self._function(self.description["count"])()))]

    def _call(self, field: dict[str, Any]) -> Callable[[Any], Any] | None:
        """A function from a handle to the raw value, or None where this version of the library has no such function."""
        try:
            function = self._function(field["call"])
            part = self._function(field["of"]) if "of" in field else None
            arguments = [self._argument(value) for value in field.get("arguments", [])]
        except AttributeError:
            return None
        return lambda handle: function(part(handle) if part else handle, *arguments)

    def _argument(self, value: Any) -> Any:
        """A number as it is; a name as the module's own constant."""
        found: Any = self.module if isinstance(value, str) else value
        for name in value.split(".") if isinstance(value, str) else ():
            found = getattr(found, name)
        return found

    def read(self) -> list[Reading]:
        return [dict(pair for field, call in self.fields if call for pair in self._field(field, call, handle)) for handle in self.handles]

    @staticmethod
    def _field(field: dict[str, Any], call: Callable[[Any], Any], handle: Any) -> list[tuple[str, int]]:
        try:
            value = call(handle)
        except Exception:  # every library has errors of its own: a field that a card refuses is not told
            return []
        parts = [_part(value, name) for name in field["take"]] if "take" in field else [value]
        number = scaled(parts, field.get("scale", 1))
        return [] if number is None else [(field["name"], number)]


def _part(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else getattr(value, name, None)


class CommandCollector:
    """Runs a tool and finds each field's values in its text by a pattern, one match a card, in order."""

    def __init__(self, description: dict[str, Any]) -> None:
        self.description = description
        readings = self.read()
        if not readings:
            raise NoCollector(f"tool {description['argv'][0]} shows no card")
        self.cards = len(readings)

    def read(self) -> list[Reading]:
        argv = self.description["argv"]
        try:
            done = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S)
        except (OSError, subprocess.SubprocessError, UnicodeDecodeError) as fault:
            raise NoCollector(f"tool {argv[0]}: {_line(fault)}") from fault
        return parse(done.stdout, self.description["field"])


def parse(text: str, fields: list[dict[str, Any]]) -> list[Reading]:
    """Readings of all cards out of a tool's text; a field whose matches are not as many as the cards is left out."""
    found = {field["name"]: re.findall(field["pattern"], text, re.MULTILINE) for field in fields}
    cards = max((len(values) for values in found.values()), default=0)
    readings: list[Reading] = [{} for _ in range(cards)]
    for field in fields:
        values = found[field["name"]]
        if len(values) != cards:
            continue
        for reading, value in zip(readings, values, strict=True):
            number = scaled([value], field.get("scale", 1))
            if number is not None:
                reading[field["name"]] = number
    return readings


def scaled(parts: list[Any], scale: float) -> int | None:
    """The product of all parts and the scale, as the nearest integer; None where a part is not a number."""
    product = float(scale)
    for part in parts:
        if part is None or isinstance(part, bool) or (isinstance(part, str) and part.strip() in UNKNOWN):
            return None
        try:
            product *= float(part)
        except (TypeError, ValueError):
            return None
    whole = scale == 1 and len(parts) == 1 and isinstance(parts[0], int)
    return _natural(parts[0] if whole else round(product) if abs(product) < 2**63 else -1)


def _natural(number: int) -> int | None:
    return number if 0 <= number < 2**63 else None


def _line(fault: BaseException) -> str:
    return " ".join(f"{type(fault).__name__}: {fault}".split())[:200]


MAKERS: dict[str, Callable[[dict[str, Any]], Collector]] = {"library": LibraryCollector, "command": CommandCollector}
