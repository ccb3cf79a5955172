"""The worker archive: the same bytes every time, and only the worker in it."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

from kit import archive


def test_same_bytes_every_time(home: Path) -> None:
    assert archive.to_bytes() == archive.to_bytes()
    built = archive.build()
    assert hashlib.sha256(built.path.read_bytes()).hexdigest() == built.sha256 == archive.build().sha256


def test_damaged_cache_is_mended(home: Path) -> None:
    built = archive.build()
    built.path.write_bytes(b"damaged")
    assert hashlib.sha256(archive.build().path.read_bytes()).hexdigest() == built.sha256


def test_holds_the_worker_and_nothing_else() -> None:
    names = zipfile.ZipFile(io.BytesIO(archive.to_bytes())).namelist()
    assert names[0] == "__main__.py"
    assert "worker/main.py" in names
    assert all(name.startswith("worker/") for name in names[1:])
    assert not [name for name in names if "__pycache__" in name]
