"""How long the device took: its own events where it has them, else the host's clock around a synchronisation."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from . import device

NS_PER_MS = 10**6


def kind(here: torch.device) -> str:
    """`device` where the device has events that measure time, else `host`."""
    return "host" if here.type == "cpu" or not hasattr(torch.get_device_module(here), "Event") else "device"


def timed(here: torch.device, calls: int, act: Callable[[], Any]) -> int:
    """Nanoseconds of `calls` calls of `act` one after the other, as the device saw them."""
    if kind(here) == "host":
        return _by_host(here, calls, act)
    module = torch.get_device_module(here)
    begin, end = module.Event(enable_timing=True), module.Event(enable_timing=True)
    begin.record()
    for _ in range(calls):
        act()
    end.record()
    device.synchronize(here)
    return round(begin.elapsed_time(end) * NS_PER_MS)


def _by_host(here: torch.device, calls: int, act: Callable[[], Any]) -> int:
    device.synchronize(here)
    begin = time.monotonic_ns()
    for _ in range(calls):
        act()
    device.synchronize(here)
    return time.monotonic_ns() - begin


def each(here: torch.device, calls: int, act: Callable[[], Any], before: Callable[[int], bool] | None = None) -> list[int]:
    """Nanoseconds of each of `calls` calls, as the device saw them, without waiting for it in between.

    `before` is told the number of the call that comes and may do something untimed; it returns whether it did.
    """
    return (_each_by_host if kind(here) == "host" else _each_by_device)(here, calls, act, before or _nothing)


def _nothing(_: int) -> bool:
    return False


def _each_by_host(here: torch.device, calls: int, act: Callable[[], Any], before: Callable[[int], bool]) -> list[int]:
    durations = []
    for number in range(calls):
        before(number)
        device.synchronize(here)
        begin = time.monotonic_ns()
        act()
        device.synchronize(here)
        durations.append(max(1, time.monotonic_ns() - begin))
    return durations


def _each_by_device(here: torch.device, calls: int, act: Callable[[], Any], before: Callable[[int], bool]) -> list[int]:
    """One mark between two calls, so that the loop is a bare one but for the marks."""
    event = torch.get_device_module(here).Event
    spans = []
    mark = event(enable_timing=True)
    mark.record()
    for number in range(calls):
        if before(number):
            mark = event(enable_timing=True)
            mark.record()
        act()
        end = event(enable_timing=True)
        end.record()
        spans.append((mark, end))
        mark = end
    device.synchronize(here)
    return [max(1, round(begin.elapsed_time(end) * NS_PER_MS)) for begin, end in spans]
