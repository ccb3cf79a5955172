"""Start-up of a case in a container, in three parts: the container, Python in it, torch in that."""

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
    commands = {
        "container alone": [*flags, "--entrypoint", "/bin/true", reference],
        "with python": [*flags, reference, "-c", "pass"],
        "with `import torch`": [*flags, reference, "-c", "import torch"],
    }
    for what, command in commands.items():
        print(f"{what}: {statistics.median(_seconds(command) for _ in range(REPEATS)):.2f} s start to exit (median of {REPEATS})")
