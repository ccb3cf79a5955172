"""Attacks on what runs beside an honest worker: a preloaded library, mounts over a pinned image, another archive (row 32)."""

from __future__ import annotations

from typing import Any

from tests.adversarial.attacks import add
from tests.adversarial.builder import PRETRAIN, Bench
from tests.adversarial.patched import IMAGE

PACKAGES = "/opt/venv/lib/python3.11/site-packages"
MOUNTS = [
    {"path": "/", "kind": "overlay"}, {"path": "/proc", "kind": "proc"}, {"path": "/dev/shm", "kind": "tmpfs"}, {"path": "/proc/bus", "kind": "proc"},
    {"path": "/usr/sbin/docker-init", "kind": "ext4"}, {"path": "/etc/hosts", "kind": "ext4"}, {"path": "/tmp", "kind": "tmpfs"},
    {"path": "/worker.pyz", "kind": "ext4"}, {"path": "/case", "kind": "ext4"}, {"path": "/weights/taught", "kind": "ext4"},
]  # fmt: skip
CODE = ["/usr/lib/x86_64-linux-gnu/libc.so.6", f"{PACKAGES}/", f"{PACKAGES}/torch/lib/libtorch.so", "/tmp/torchinductor_worker/"]


def contained(bench: Bench, grants: dict[str, Any] | None = None) -> Bench:
    """A run in a container whose workers found what is usual there."""
    bench.environment |= {"isolation": {"kind": "container", "reason": None}, "image": IMAGE | {"patches": []}, "grants": grants or {}}
    bench.inside = {"mounts": list(MOUNTS), "code": list(CODE), "roots": ["/opt/venv", "/usr"], "temporary": "/tmp"}
    return bench


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
add("inside.worker", "sealed", "another worker than the sealed one", lambda bench: bench.inside.update(worker={"sha256": "9" * 64}))
add("inside.worker", "sealed", "a worker that came from no archive", lambda bench: bench.inside.update(worker={"sha256": None}))
add("inside.rank", "sealed", "one rank's file for all", lambda bench: bench.inside.update(rank=0))
add("inside.schema", "sealed", "a word too much about itself", lambda bench: bench.inside.update(trust="me"))
add("file.missing", "sealed", "a worker that says nothing of itself", unwritten)
add("json.syntax", "sealed", "what is no JSON about itself", lambda bench: bench.raw.update({f"{PRETRAIN}/inside-rank0000.json": b"{\n"}))
