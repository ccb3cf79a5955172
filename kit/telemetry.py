"""Samples accelerators and the host while an attempt runs, in a process of its own, on the clock of the events.

`sampling` starts the process and ends it; what it sees goes into telemetry-00000.jsonl, ... beside the events. `t` is the host's
monotonic clock itself, which a rank's case_start ties to its events. Whatever goes wrong with telemetry is recorded there and
stops nothing. Run alone: python -m kit.telemetry CHIP_FOLDER FOLDER, until its standard input ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kit.chip import read_toml
from kit.collectors import Collector, NoCollector, open_collector
from kit.errors import KitError

DESCRIPTION = "telemetry.toml"
INTERVAL_MS = 100
SEGMENT_BYTES = 64 * 2**20
HOST_EVERY_S = 1.0
END_S = 15.0


@contextlib.contextmanager
def sampling(chip_folder: Path, folder: Path) -> Iterator[None]:
    """Sample into `folder` while the block runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "kit.telemetry", str(chip_folder), str(folder)],
        cwd=Path(__file__).parent.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.stdin:
        process.stdin.close()
    try:
        process.wait(timeout=END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Writer:
    """One JSON object a line, one write a line; a new segment every 64 MiB."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0
        self._size = 0
        self._file = self._open()

    def _open(self) -> int:
        path = self._folder / f"telemetry-{self._number:05}.jsonl"
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)

    def event(self, kind: str, t: int, **fields: Any) -> None:
        """Record one fact at monotonic time `t`."""
        line = (json.dumps({"t": t, "e": kind, **fields}, separators=(",", ":"), allow_nan=False) + "\n").encode()
        if self._size + len(line) > SEGMENT_BYTES:
            os.close(self._file)
            self._number, self._size = self._number + 1, 0
            self._file = self._open()
        written = os.write(self._file, line)
        if written != len(line):
            os.ftruncate(self._file, self._size)
            raise OSError(28, "no space left on device")
        self._size += written


def describe(chip_folder: Path) -> dict[str, Any] | None:
    """The chip's telemetry.toml, or None where it has none."""
    path = chip_folder / DESCRIPTION
    return read_toml(path, "telemetry") if path.is_file() else None


def _collector(description: dict[str, Any] | None) -> tuple[Collector | None, str | None]:
    """The collector, or the reason why there is none."""
    if description is None:
        return None, "the chip describes no telemetry"
    try:
        return open_collector(description), None
    except NoCollector as fault:
        return None, str(fault)


def main(argv: list[str]) -> int:
    """Sample until standard input ends; 0 even where there is nothing to sample."""
    chip_folder, folder = Path(argv[0]), Path(argv[1])
    writer = Writer(folder)
    try:
        description = describe(chip_folder)
        collector, missing = _collector(description)
    except KitError as fault:
        description, collector, missing = None, None, str(fault)
    interval_ms = (description or {}).get("interval_ms", INTERVAL_MS)
    writer.event("opened", time.monotonic_ns(), interval_ms=interval_ms, cards=collector.cards if collector else 0, missing=missing)
    count = _sample(writer, collector, interval_ms / 1000)
    writer.event("closed", time.monotonic_ns(), samples=count)
    return 0


def _sample(writer: Writer, collector: Collector | None, interval_s: float) -> int:
    """Sample at the interval, and once at the end; the host every second. Returns how often the cards were read."""
    count, next_host, ended = 0, 0.0, False
    while not ended:
        due = time.monotonic() + interval_s
        if collector:
            collector = collector if _cards(writer, collector) else None
            count += collector is not None
        if time.monotonic() >= next_host:
            writer.event("host", time.monotonic_ns(), **host())
            next_host = time.monotonic() + HOST_EVERY_S
        ended = _ended(max(0.0, due - time.monotonic()))
    return count + (collector is not None and _cards(writer, collector))


def _ended(wait_s: float) -> bool:
    """Whether standard input has ended; waits for it at most so long."""
    return bool(select.select([sys.stdin], [], [], wait_s)[0])


def _cards(writer: Writer, collector: Collector) -> bool:
    """One reading of every card; False once the collector itself has failed, which is recorded."""
    begin = time.monotonic_ns()
    try:
        readings = collector.read()
    except NoCollector as fault:
        writer.event("fault", time.monotonic_ns(), reason=str(fault))
        return False
    end = time.monotonic_ns()
    for card, reading in enumerate(readings):
        writer.event("card", (begin + end) // 2, card=card, read_ns=end - begin, **reading)
    return True


def host() -> dict[str, int]:
    """Busy and total processor ticks since the start of the system, memory that is there and that is free, in bytes."""
    with open("/proc/stat", encoding="ascii") as file:
        ticks = [int(value) for value in file.readline().split()[1:9]]
    memory = {}
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            name, _, value = line.partition(":")
            memory[name] = int(value.split()[0]) * 1024
    idle = ticks[3] + ticks[4]
    return {
        "cpu_busy_ticks": sum(ticks) - idle,
        "cpu_total_ticks": sum(ticks),
        "memory_bytes": memory["MemTotal"],
        "memory_available_bytes": memory["MemAvailable"],
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
