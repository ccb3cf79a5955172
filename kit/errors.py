"""The one error that people see: what went wrong, where, why, and the next step, on one line."""

from __future__ import annotations

import errno

MISUSE = 2
ENVIRONMENT = 3
FAILED = 1
PLACES = frozenset(
    {errno.ENOENT, errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP, errno.ENAMETOOLONG}
)  # what the path of a command line can be blamed for


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


def unusable(what: str, fault: OSError, where: str, next_step: str = "") -> KitError:
    """A file or folder that cannot be used: 2 where another path would do, 3 where the machine has no space or fails."""
    blamed = fault.errno in PLACES
    step = next_step if blamed and next_step else "name another place" if blamed else "free space, or name a place on another disk"
    why = fault.strerror or str(fault)
    return KitError(what, where=where, why=why, next_step=step, exit_code=MISUSE if blamed else ENVIRONMENT)
