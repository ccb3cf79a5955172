"""The worker archive: kit/worker as one zip with the same bytes on every machine, so that its hash can be sealed."""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

from kit.files import cache_folder, write_atomic

MAIN = b"import sys\n\nfrom worker.main import main\n\nsys.exit(main(sys.argv[1:]))\n"
EPOCH = (1980, 1, 1, 0, 0, 0)
SKIPPED = {"__pycache__"}


@dataclass(frozen=True, slots=True)
class Archive:
    """The worker archive on disk and its hex SHA-256."""

    path: Path
    sha256: str


def _members() -> list[tuple[str, bytes]]:
    folder = Path(__file__).parent / "worker"
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not SKIPPED & set(path.parts))
    return [("__main__.py", MAIN)] + [(f"worker/{path.relative_to(folder).as_posix()}", path.read_bytes()) for path in files]


def to_bytes() -> bytes:
    """The archive's bytes: sorted names, fixed dates and modes, stored without compression."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in _members():
            info = zipfile.ZipInfo(name, EPOCH)
            info.external_attr = 0o100644 << 16
            archive.writestr(info, data)
    return buffer.getvalue()


def planned() -> Archive:
    """Where the archive is, or will be, in the cache: under its own hash."""
    digest = hashlib.sha256(to_bytes()).hexdigest()
    return Archive(cache_folder() / "worker" / f"{digest}.pyz", digest)


def build() -> Archive:
    """Write the archive into the cache, once."""
    data, made = to_bytes(), planned()
    path, digest = made.path, made.sha256
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data)
        path.chmod(0o644)
    return made


def kit_tree_sha256() -> str:
    """SHA-256 over `<hex>  <path>` lines of every source file of kit/ and verify/: which kit did this."""
    top = Path(__file__).parent.parent
    files = sorted(
        path for package in ("kit", "verify") for path in (top / package).rglob("*") if path.is_file() and not SKIPPED & set(path.parts)
    )
    lines = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(top).as_posix()}\n" for path in files)
    return hashlib.sha256(lines.encode()).hexdigest()
