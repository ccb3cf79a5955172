"""A mock server in a process of its own."""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Started:
    """Where it listens, and the process."""

    port: int
    process: subprocess.Popen[str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def truth(self) -> list[dict[str, Any]]:
        """What really happened since it was last asked, request by request in order of arrival."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", "/truth")
        found = json.loads(connection.getresponse().read())
        connection.close()
        return sorted(found, key=lambda one: one["arrival_ns"])


@contextlib.contextmanager
def started(*options: object) -> Iterator[Started]:
    """Running within."""
    command = [sys.executable, "-m", "tests.mockserver", *map(str, options)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            yield Started(int(process.stdout.readline()), process)
        finally:
            process.kill()
