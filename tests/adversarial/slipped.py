"""Attacks on what runs beside an honest worker: a preloaded library, mounts over a pinned image, another archive (row 32)."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from kit.files import sha256_file
from tests.adversarial.attacks import add
from tests.adversarial.builder import PRETRAIN, Bench
from tests.adversarial.patched import IMAGE
from verify.data import root

PACKAGES = "/opt/venv/lib/python3.11/site-packages"
MOUNTS = [
    {"path": "/", "kind": "overlay"}, {"path": "/proc", "kind": "proc"}, {"path": "/dev/shm", "kind": "tmpfs"}, {"path": "/proc/bus", "kind": "proc"},
    {"path": "/usr/sbin/docker-init", "kind": "ext4"}, {"path": "/etc/hosts", "kind": "ext4"}, {"path": "/tmp", "kind": "tmpfs"},
    {"path": "/worker.pyz", "kind": "ext4"}, {"path": "/case", "kind": "ext4"}, {"path": "/weights/taught", "kind": "ext4"},
]  # fmt: skip
CODE = ["/usr/lib/x86_64-linux-gnu/libc.so.6", f"{PACKAGES}/", f"{PACKAGES}/torch/lib/libtorch.so", "/tmp/torchinductor_worker/"]
INVENTORY: dict[str, Any] = {
    "processor": {"numa": {}, "governor": None, "largest_khz": None}, "pci": [], "network": {"interfaces": {}, "fabric": {}},
    "accelerators": {"addresses": [], "nodes": [], "numbers": [], "tool": None, "cards": [], "raw": None, "topology": None},
    "libraries": {}, "compiler": None, "engine": None, "anonymous": False, "findings": [],
}  # fmt: skip
LIBRARIES: list[dict[str, Any]] = [
    {"path": CODE[0], "size_bytes": 1922136, "sha256": "7" * 64, "package": {"kind": "debian", "name": "libc6", "version": "2.36-9"}, "recorded": None},
    {"path": CODE[2], "size_bytes": 4096, "sha256": "8" * 64, "package": {"kind": "python", "name": "torch", "version": "2.13.0"},
     "recorded": "8" * 64},
    {"path": "/tmp/torchinductor_worker/x.so", "size_bytes": 512, "sha256": "9" * 64, "package": None, "recorded": None},
]  # fmt: skip


def contained(bench: Bench, grants: dict[str, Any] | None = None) -> Bench:
    """A run in a container whose workers found what is usual there."""
    bench.environment |= {"isolation": {"kind": "container", "reason": None}, "image": IMAGE | {"patches": []}, "grants": grants or {}}
    bench.inside = {"mounts": list(MOUNTS), "code": list(CODE), "roots": ["/opt/venv", "/usr"], "temporary": "/tmp"}
    bench.inside["libraries"] = deepcopy(LIBRARIES)
    return bench


def exchanged(bench: Bench, **changes: Any) -> dict[str, Any]:
    """A container whose library of torch is another one."""
    library: dict[str, Any] = contained(bench).inside["libraries"][1]
    library.update(changes)
    return library


def driven(bench: Bench, path: str = "/opt/hyhal/lib/libhsa.so") -> None:
    """A container that found another driver's library than the kit hashed before it mounted that."""
    contained(bench, {"mounts": ["/opt/hyhal"], "way": "nodes"})
    bench.environment["inventory"] = INVENTORY | {"libraries": {path: "a" * 64}}
    bench.inside["libraries"].append({"path": path, "size_bytes": 9, "sha256": "b" * 64, "package": None, "recorded": None})


def locked(bench: Bench) -> None:
    """A version of torch that is not the lock's, in a file that agrees with its own package."""
    file = root() / "images/cpu/requirements.lock"
    exchanged(bench, package={"kind": "python", "name": "torch", "version": "1.0.0"})
    bench.environment["lock"] = {"file": "images/cpu/requirements.lock", "sha256": sha256_file(file), "built": {}}


def differing(bench: Bench) -> None:
    """Two ranks of one image with different files under one path."""
    seen = contained(bench).seen
    bench.seen = lambda rank: seen(rank) | {"libraries": [LIBRARIES[0] | {"size_bytes": 1922136 + rank}]}  # type: ignore[method-assign]


def mounted(bench: Bench, path: str, kind: str = "ext4", grants: dict[str, Any] | None = None) -> None:
    contained(bench, grants).inside["mounts"].append({"path": path, "kind": kind})


def loaded(bench: Bench, path: str) -> None:
    contained(bench).inside["code"].append(path)


def preloaded(bench: Bench, name: str = "LD_PRELOAD") -> None:
    contained(bench).inside["variables"] = {name: "/usr/lib/libfaketime.so.1"}


def unwritten(bench: Bench) -> None:
    """The file of one rank is not there at all."""
    write = bench.write

    def changed() -> Any:
        bench._processes = lambda case: 1  # type: ignore[method-assign]
        return write()

    bench.write = changed  # type: ignore[method-assign]


add("inside.variables", "sealed", "a library loaded before all others", preloaded)
add("inside.variables", "sealed", "another path for modules", lambda bench: preloaded(bench, "PYTHONPATH"))
add("inside.variables", "sealed", "a library preloaded in an environment", lambda bench: bench.inside.update(variables={"LD_PRELOAD": "x"}))
add("inside.mounts", "sealed", "packages mounted over those of the image", lambda bench: mounted(bench, f"{PACKAGES}/torch"))
add("inside.mounts", "sealed", "a folder of the host for temporary files", lambda bench: mounted(bench, "/tmp"))
add(
    "inside.mounts",
    "sealed",
    "a library of the host beside granted ones",
    lambda bench: mounted(bench, "/usr/lib/libc.so.6", grants={"mounts": ["/opt/hyhal"]}),
)
add("inside.code", "sealed", "a library in the folder of the case", lambda bench: loaded(bench, "/case/libtorch.so"))
add("inside.code", "sealed", "modules from shared memory", lambda bench: loaded(bench, "/dev/shm/"))
add("inside.code", "sealed", "a library that is gone from the image", lambda bench: loaded(bench, "/usr/lib/libc.so.6 (deleted)"))
add("inside.libraries", "sealed", "a library that its package did not bring", lambda bench: exchanged(bench, sha256="c" * 64))
add("inside.libraries", "sealed", "a library of no package in the image", lambda bench: exchanged(bench, package=None, recorded=None))
add("inside.libraries", "sealed", "a library of a package that is not the lock's", locked)
add("inside.libraries", "sealed", "another driver than the one that was mounted", driven)
add("inside.libraries", "sealed", "two files under one path in one image", differing)
add(
    "inside.libraries",
    "sealed",
    "a changed library in an environment",
    lambda bench: bench.inside.update(libraries=[LIBRARIES[1] | {"sha256": "c" * 64}]),
)
add("inside.worker", "sealed", "another worker than the sealed one", lambda bench: bench.inside.update(worker={"sha256": "9" * 64}))
add("inside.worker", "sealed", "a worker that came from no archive", lambda bench: bench.inside.update(worker={"sha256": None}))
add("inside.rank", "sealed", "one rank's file for all", lambda bench: bench.inside.update(rank=0))
add("inside.schema", "sealed", "a word too much about itself", lambda bench: bench.inside.update(trust="me"))
add("file.missing", "sealed", "a worker that says nothing of itself", unwritten)
add("json.syntax", "sealed", "what is no JSON about itself", lambda bench: bench.raw.update({f"{PRETRAIN}/inside-rank0000.json": b"{\n"}))
