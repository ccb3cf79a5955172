"""Start-up of a case in a container: the worker's `--version`, against the same command as a bare container."""

from __future__ import annotations

import statistics
import subprocess
import time

from kit import chip, image

REPEATS = 5


def _seconds(command: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - begin


def main() -> None:
    reference = image.ensure(chip.load("cpu"), print).reference
    flags = ["docker", "run", "--rm", "--network", "none", "--read-only", "--cap-drop", "ALL"]
    start = statistics.median(_seconds([*flags, reference, "python3", "-c", "pass"]) for _ in range(REPEATS))
    torch = statistics.median(_seconds([*flags, reference, "python3", "-c", "import torch"]) for _ in range(REPEATS))
    print(f"container start to exit {start:.2f} s; with `import torch` {torch:.2f} s (median of {REPEATS})")
