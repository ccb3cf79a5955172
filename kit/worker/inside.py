"""What this process is, seen from inside: the archive it came from, variables of loader and interpreter, mounts, mapped code.

Taken at the end of a case, when everything that it uses is loaded. A worker that was exchanged can say what it likes here; it
is told apart by a re-run. This file catches what was slipped in beside an honest one.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from . import libraries

NAME = "inside-rank{:04}.json"
CONTAINED = "/case"  # where every container has its case's folder; a path that no bare process is given
VARIABLES = ("LD_", "PYTHON", "GLIBC_TUNABLES")
CACHES = {"TORCHINDUCTOR_CACHE_DIR": "", "TRITON_CACHE_DIR": ".triton", "TORCH_EXTENSIONS_DIR": ".cache/torch_extensions"}  # below home


def write(folder: Path, rank: int) -> None:
    """Write the file of this rank; OSError where it cannot be written."""
    data = (json.dumps(look(rank, contained=str(folder) == CONTAINED), sort_keys=True, separators=(",", ":")) + "\n").encode()
    with (folder / NAME.format(rank)).open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def look(rank: int, *, contained: bool) -> dict[str, Any]:
    """The document: manifests/schemas/inside.schema.json. Mounts are told of a container only: those of a host name its owner's disks."""
    home = "" if contained else os.environ.get("HOME", "")
    files = mapped(_process("maps"))
    own = libraries.listed(files, hashed=os.environ.get("LOCAL_RANK", "0") == "0")
    return {
        "schemaVersion": 1,
        "rank": rank,
        "worker": {"sha256": _archive_sha256()},
        "variables": variables(_process("environ")),
        "roots": sorted(told(path, home) for path in {sys.prefix, sys.base_prefix, sys.exec_prefix, *_caches()}),
        "temporary": told(tempfile.gettempdir(), home),
        "mounts": mounts(_process("mountinfo")) if contained else [],
        "code": sorted(told(path, home) for path in {*files, *modules()}),
        "libraries": [library | {"path": told(library["path"], home)} for library in own],
    }


def _process(name: str) -> str:
    return Path(f"/proc/self/{name}").read_text(encoding="utf-8", errors="replace")


def told(path: str, home: str) -> str:
    """The path, with `~` for the home of whoever runs this: its name is nobody's business."""
    return f"~{path[len(home) :]}" if len(home) > 1 and path.startswith(f"{home}/") else path


def _archive_sha256() -> str | None:
    """Of the archive whose code this is; None where it is no archive."""
    archive = _archive()
    return hashlib.sha256(Path(archive).read_bytes()).hexdigest() if archive else None


def _archive() -> str | None:
    return getattr(globals()["__spec__"].loader, "archive", None)


def variables(environ: str) -> dict[str, str]:
    """What the loader and the interpreter were told when the process began, whatever became of it since."""
    pairs = (part.partition("=") for part in environ.split("\0") if "=" in part)
    return {name: value for name, _, value in pairs if name.startswith(VARIABLES)}


def _caches() -> Iterable[str]:
    """Where compilers keep what they make, unless it is below the folder of temporary files."""
    home = os.environ.get("HOME", "")
    named = (os.environ.get(name) or (f"{home}/{usual}" if home and usual else "") for name, usual in CACHES.items())
    return (path for path in named if path.startswith("/"))


def mounts(mountinfo: str) -> list[dict[str, str]]:
    """Place and kind of every mount (proc(5)): field 5, and the first after the lone dash."""
    lines = [line.split(" ") for line in mountinfo.splitlines()]
    return [{"path": fields[4], "kind": fields[fields.index("-") + 1]} for fields in lines]


def mapped(maps: str) -> set[str]:
    """Files that are mapped as code, by name; those that are gone end in ` (deleted)`."""
    found = set()
    for line in maps.splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and "x" in fields[1] and fields[5].startswith("/") and _is_file(fields[5]):
            found.add(fields[5])
    return found


def _is_file(path: str) -> bool:
    """Neither a device nor memory without a file (`/memfd:`); what is gone counts."""
    if path.startswith(("/memfd:", "/dev/zero", "/SYSV")):
        return False
    try:
        return stat.S_ISREG(Path(path).stat().st_mode)
    except OSError:
        return True


def modules() -> set[str]:
    """Folders on the search path below which modules were found, each with a final slash; of a module elsewhere, its own folder."""
    own, places = _archive(), sorted((place for place in sys.path if place), key=len, reverse=True)
    found = set()
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and file.startswith("/") and not (own and file.startswith(f"{own}/")):
            place = next((place for place in places if file.startswith(f"{place}/")), str(Path(file).parent))
            found.add(f"{place}/")
    return found
