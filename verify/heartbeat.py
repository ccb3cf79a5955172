"""Clocks and heartbeats of a run log: how far two clocks may differ, and what a prefix digest must agree with.

The numbers are data (manifests/runlog.toml); kit writes by them and verify checks by them.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from verify.data import root, violations
from verify.files import Evidence
from verify.findings import Finding, Unchecked, error

FILE = "manifests/runlog.toml"
NS_PER_MS, NS_PER_S = 10**6, 10**9


@dataclass(frozen=True, slots=True)
class Stop:
    """An open segment at a heartbeat: its size, the digest so far, and the heartbeat's monotonic clock."""

    size_bytes: int
    sha256: str
    monotonic_ns: int


Prefixes = dict[str, list[Stop]]


@dataclass(frozen=True, slots=True)
class Settings:
    """manifests/runlog.toml in nanoseconds."""

    heartbeat_s: int
    gap_factor: int
    clock_step_ns: int
    slew_ppm: int
    poll_s: int


@cache
def settings() -> Settings:
    """The settings that come with the code; Unchecked where their file does not fit its schema."""
    document = tomllib.loads((root() / FILE).read_text(encoding="utf-8"))
    for fault in violations(document, "runlog_settings", "runlog.settings", FILE):
        raise Unchecked("run log settings cannot be used", where=FILE, why=str(fault), next_step="check out the file again")
    beat, clock = document["heartbeat"], document["clock"]
    return Settings(
        beat["heartbeat_s"], beat["gap_factor"], clock["clock_step_ms"] * NS_PER_MS, clock["slew_ppm"], document["witness"]["poll_s"]
    )


def step_ns(wall_ns: int, monotonic_ns: int, limits: Settings) -> int:
    """By how much the wall clock was set while these two differences passed; 0 while a slewed clock explains it."""
    step = wall_ns - monotonic_ns
    return step if abs(step) > limits.clock_step_ns + abs(monotonic_ns) * limits.slew_ppm // 10**6 else 0


def stops(stated: Prefixes) -> dict[str, tuple[int, ...]]:
    """Path -> the sizes at which its digest must be taken while it is read."""
    return {path: tuple(sorted({stop.size_bytes for stop in found})) for path, found in stated.items()}


def prefixes(evidence: Evidence, stated: Prefixes, listed: Mapping[str, str]) -> Iterator[Finding]:
    """Every prefix digest of the log is that of the final file, whose size only grew; `listed` are the files of SHA256SUMS.

    What is wrong with a listed file that could not be read is said where the tree is walked.
    """
    for path, found in stated.items():
        sizes = [stop.size_bytes for stop in found]
        if path not in listed:
            yield error("heartbeat.prefix", path, "a file that SHA256SUMS lists", "none")
        elif sizes != sorted(sizes):
            yield error("heartbeat.prefix", path, "sizes that only grow", sizes[:20])
        elif (seen := evidence.seen.get(path)) is not None:
            wrong = next((stop for stop in found if seen.prefixes.get(stop.size_bytes) != stop.sha256), None)
            if wrong is not None:
                expected = f"sha256 {wrong.sha256} of the first {wrong.size_bytes} bytes"
                yield error("heartbeat.prefix", path, expected, seen.prefixes.get(wrong.size_bytes, "a shorter file"))
