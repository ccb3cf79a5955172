"""What a command says in a Python that lacks its packages."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

OWN = ("kit", "verify")
ENVIRONMENT = 3


@contextlib.contextmanager
def told(program: str) -> Iterator[None]:
    """Importing the program: one line and exit code 3 where a package of its lock is not here."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in OWN:
            raise
        lock = "python3 -m pip install --require-hashes -r requirements/kit.lock"
        print(f"{program}: package '{error.name}' is not installed; {lock}, in a venv, or let nox do it: nox -l", file=sys.stderr)
        sys.exit(ENVIRONMENT)
