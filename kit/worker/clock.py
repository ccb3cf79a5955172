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
