"""Which verify scored: one digest over its own source files, named in challenges and audits."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path


@cache
def scorer_sha256() -> str:
    """SHA-256 over `<hex>  <path>` lines of every source file of verify, sorted by path."""
    top = Path(__file__).parent
    files = sorted(path.relative_to(top).as_posix() for path in top.rglob("*.py"))
    lines = "".join(f"{hashlib.sha256((top / path).read_bytes()).hexdigest()}  {path}\n" for path in files)
    return hashlib.sha256(lines.encode()).hexdigest()
