"""The one error that people see: what went wrong, where, why, and the next step, on one line."""

from __future__ import annotations

MISUSE = 2
ENVIRONMENT = 3
FAILED = 1


class KitError(Exception):
    """A failure with its exit code (design: 1 failed check, 2 misuse, 3 environment)."""

    def __init__(self, what: str, where: str = "", why: str = "", next_step: str = "", exit_code: int = MISUSE) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.why = why
        self.next_step = next_step
        self.exit_code = exit_code

    def __str__(self) -> str:
        line = self.what
        if self.where:
            line += f" ({self.where})"
        if self.why:
            line += f": {self.why}"
        if self.next_step:
            line += f"; {self.next_step}"
        return " ".join(line.split())
