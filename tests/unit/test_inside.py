"""What a worker says of itself from inside, and that honest workers of every isolation and chip are believed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from kit import archive, chip, launch, launchers
from kit.worker import inside as worker
from tests.adversarial import builder
from tests.adversarial.slipped import CODE, MOUNTS, PACKAGES, contained
from tests.unit.test_chips import ROOT
from verify import inside, places, replay
from verify.data import violations
from verify.files import Evidence
from verify.findings import Finding

MOUNTINFO = """117 88 0:41 / / ro,relatime master:7 - overlay overlay rw,lowerdir=/x
135 117 0:50 / /tmp rw,nosuid - tmpfs tmpfs rw
136 117 254:0 /a/b /opt/a\\040b ro,relatime shared:3 master:4 - ext4 /dev/vda rw
"""
MAPS = """55d0-55d1 r--p 00000000 08:01 1   /usr/bin/python3.11
55d1-55d2 r-xp 00000000 08:01 1   /usr/bin/env
7f00-7f01 r-xp 00000000 08:01 1   /nowhere/lib x.so (deleted)
7f01-7f02 r-xp 00000000 00:01 1   /memfd:libffi (deleted)
7f02-7f03 rwxp 00000000 00:05 1   /dev/null
7f03-7f04 r-xp 00000000 00:00 0   [vdso]
7f04-7f05 rwxp 00000000 00:00 0
"""


def test_the_kernels_tables_are_read() -> None:
    assert worker.mounts(MOUNTINFO) == [
        {"path": "/", "kind": "overlay"},
        {"path": "/tmp", "kind": "tmpfs"},
        {"path": "/opt/a\\040b", "kind": "ext4"},
    ]
    assert worker.mapped(MAPS) == {"/usr/bin/env", "/nowhere/lib x.so (deleted)"}
    assert worker.variables("A=1\0LD_PRELOAD=/x=y\0PYTHONPATH=\0\0") == {"LD_PRELOAD": "/x=y", "PYTHONPATH": ""}


def test_a_home_is_not_named() -> None:
    assert worker.told("/home/ann/x.so", "/home/ann") == "~/x.so"
    assert [worker.told(path, home) for path, home in (("/home/anna/x", "/home/ann"), ("/x", "/"), ("/x", ""))] == [
        "/home/anna/x",
        "/x",
        "/x",
    ]


def look(tmp_path: Path, **variables: str) -> dict[str, Any]:
    """What a worker out of the archive says in a process of its own, started as the kit starts it but for `variables`."""
    made = tmp_path / "worker.pyz"
    made.write_bytes(archive.to_bytes())
    code = f"import sys; sys.path.insert(0, {str(made)!r}); from pathlib import Path; from worker import inside; inside.write(Path('.'), 3)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=launch._environment() | variables)
    document: dict[str, Any] = json.loads((tmp_path / "inside-rank0003.json").read_bytes())
    assert violations(document, "inside", "schema", "x") == []
    return document


def judged(said: dict[str, Any], kind: str, grants: dict[str, Any] | None = None) -> list[Finding]:
    environment = {"isolation": {"kind": kind}, "grants": grants, "kit": {"worker": {"sha256": archive.planned().sha256}}}
    return list(inside._rank(said, said["rank"], environment, "here"))


def test_a_worker_knows_its_archive(tmp_path: Path) -> None:
    said = look(tmp_path)
    assert (said["worker"], said["rank"], said["mounts"]) == ({"sha256": archive.planned().sha256}, 3, [])
    assert judged(said, "none") == judged(said, "environment") == []
    with zipfile.ZipFile(tmp_path / "worker.pyz", "a") as changed:
        changed.writestr("worker/more.py", b"")
    assert [finding.rule for finding in judged(said | {"worker": {"sha256": "0" * 64}}, "none")] == ["inside.worker"]


def test_a_preloaded_library_is_seen_although_the_process_forgets_it(tmp_path: Path) -> None:
    """The kit itself never hands one on; whoever wraps the interpreter does."""
    said = look(tmp_path, LD_PRELOAD="/nowhere/libslip.so")
    assert [(f.rule, f.severity, f.found) for f in judged(said, "none")] == [("inside.variables", "error", "/nowhere/libslip.so")]


def test_the_kit_hands_on_nothing_that_comes_before_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in inside.settings()["variables"]["judged"]:
        monkeypatch.setenv(name, "/x")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/usr/local/lib")
    assert {name for name, value in launch._environment().items() if value == "/x"} == set()
    assert launch._environment()["LD_LIBRARY_PATH"] == "/usr/local/lib"


def test_the_worker_knows_where_containers_have_its_case() -> None:
    assert worker.CONTAINED == launchers.FOLDER
    assert {launchers.WORKER, launchers.FOLDER, launchers.TEMPORARY} <= set(inside.settings()["worker"]["mounts"])


def test_everything_that_the_kit_mounts_is_expected_and_no_place_of_code() -> None:
    places = [Path(f"/host/{name}") for name in ("worker.pyz", "case", "weights", "data", "checkpoints")]
    task = launchers.Task("x", "image", places[0], places[1], weights=places[2], data=places[3], checkpoints=places[4])
    targets = [target for _, target, _ in task.mounts]
    assert len(targets) == len(places)
    assert list(inside.mounts([{"path": path, "kind": "ext4"} for path in targets], {}, "here")) == []
    code = [f"{path}/x.so" for path in targets if path != launchers.WORKER]
    assert [finding.found for finding in inside.contained({"temporary": "/tmp", "code": code}, "here")] == code


def test_an_honest_container_is_believed(tmp_path: Path) -> None:
    assert replay.replay(builder.build(tmp_path, contained), "self").findings == []


@pytest.mark.parametrize(
    ("grants", "path", "expected"),
    [
        ({"mounts": ["/opt/hyhal"], "way": "nodes"}, "/opt/hyhal", []),
        ({"mounts": ["/opt/hyhal"], "way": "nodes"}, "/opt/hyhal/lib", []),
        ({"mounts": ["/opt/hyhal"], "way": "nodes"}, "/opt/hyhalx", ["error"]),
        ({"way": "request", "injected": ["/usr/lib/*/libcuda*"]}, "/usr/lib/x86_64-linux-gnu/libcuda.so.580.65.06", []),
        ({"way": "request", "injected": ["/usr/lib/*/libcuda*"]}, f"{PACKAGES}/torch/lib/libtorch_cuda.so", ["error"]),
        ({"way": "runtime", "injected": None}, "/usr/lib/libmusa.so", ["warning"]),
        ({"way": "nodes", "injected": None}, "/usr/lib/libmusa.so", ["error"]),
        ({}, "/dev/nvidia0", []),
        ({}, "/proc/driver/nvidia", []),
        ({}, "/etc/ld.so.preload", ["error"]),
    ],
)
def test_mounts_of_chips(grants: dict[str, Any], path: str, expected: list[str]) -> None:
    found = [finding.severity for finding in inside.mounts([*MOUNTS, {"path": path, "kind": "ext4"}], grants, "here")]
    assert found == expected


@pytest.mark.parametrize(
    "name", ["libcuda.so.580.65.06", "libnvidia-ml.so.580.65.06", "libcudadebugger.so.580.65.06", "libnvidia-ptxjitcompiler.so.580.65.06"]
)
def test_what_a_vendors_runtime_injects_is_written_in_its_chip(name: str) -> None:
    """The names that libnvidia-container mounts; nothing of a package is among them."""
    injected = chip.load("nvidia").container["injected"]
    assert places.within(f"/usr/lib/x86_64-linux-gnu/{name}", injected)
    assert not places.within(f"{PACKAGES}/nvidia/cublas/lib/libcublas.so.13", injected)


def test_a_granted_variable_is_no_finding() -> None:
    environment = {"grants": {"environment": {"LD_PRELOAD": "/usr/lib/libjemalloc.so.2"}}}
    assert list(inside.variables({"LD_PRELOAD": "/usr/lib/libjemalloc.so.2"}, environment, "here")) == []
    assert list(inside.variables({}, environment, "here")) == []
    [finding] = inside.variables({"LD_PRELOAD": "/usr/lib/libother.so"}, environment, "here")
    assert (finding.rule, finding.expected) == ("inside.variables", "/usr/lib/libjemalloc.so.2")


def test_an_environment_may_be_silent_on_grants(tmp_path: Path) -> None:
    """Its schema lets it; found by damage, which ended in a traceback."""
    assert replay.replay(builder.build(tmp_path, lambda bench: bench.environment.pop("grants")), "self").findings == []


def test_code_of_an_environment() -> None:
    said = {"roots": ["~/made", "/usr/local"], "temporary": "/var/tmp", "code": []}
    honest = [
        "/usr/lib/libc.so.6",
        "~/made/lib/x.so",
        "~/made/lib/python3.11/site-packages/",
        "/var/tmp/torchinductor_ann/x.so",
        "/opt/rocm/lib/x.so",
    ]
    assert list(inside.installed(said | {"code": honest}, "here")) == []
    found = list(inside.installed(said | {"code": [*honest, "/apps/cuda/lib64/libcublas.so", "~/other/"]}, "here"))
    assert [(finding.rule, finding.severity, finding.found) for finding in found] == [
        ("inside.code", "warning", "/apps/cuda/lib64/libcublas.so"),
        ("inside.code", "warning", "~/other/"),
    ]


def test_code_of_a_container() -> None:
    said = {"temporary": "/tmp", "code": [*CODE, "/tmp/x/launcher.so (deleted)"]}
    assert list(inside.contained(said, "here")) == []
    assert [finding.found for finding in inside.contained(said | {"code": ["/case/x.so", "/usr/lib/y.so (deleted)"]}, "here")] == [
        "/case/x.so",
        "/usr/lib/y.so (deleted)",
    ]


def test_what_is_below_a_folder() -> None:
    assert places.below("/x", "/")
    assert places.below("/a/b", "/a/")
    assert not places.below("/ab", "/a")


def test_each_isolation_has_its_rules() -> None:
    """A granted mount is none of a finding; code from elsewhere is told of an environment alone; mounts of a container alone."""
    said = builder.inside(0) | {"worker": {"sha256": archive.planned().sha256}, "code": ["/srv/x.so"]}
    said["mounts"] = [{"path": "/opt/hyhal", "kind": "ext4"}]
    granted: dict[str, Any] = {"mounts": ["/opt/hyhal"], "way": "nodes"}
    found = {kind: [(f.rule, f.severity, f.where) for f in judged(said, kind, granted)] for kind in ("none", "environment", "container")}
    assert found == {"none": [], "environment": [("inside.code", "warning", "here")], "container": []}
    assert [(f.rule, f.where) for f in judged(said, "container", {})] == [("inside.mounts", "here")]
    [finding] = judged(said | {"variables": {"LD_PRELOAD": "/x"}}, "none")
    assert (finding.rule, finding.where) == ("inside.variables", "here: LD_PRELOAD")


def test_ranks_that_say_nothing_are_told_once(tmp_path: Path) -> None:
    evidence, plan = Evidence(tmp_path), {"cases": [{"id": "x", "processes": 3}]}
    states = {"cases": [{"id": "x", "attempts": [{"attempt": 1, "state": "done"}]}]}
    environment: dict[str, Any] = {"isolation": {"kind": "none"}}
    [finding] = inside.check(evidence, plan, states, environment)
    assert (finding.rule, finding.where) == ("file.missing", "cases/x/attempt-1/inside-rank0000.json")
    folder = tmp_path / "cases/x/attempt-1"
    folder.mkdir(parents=True)
    for rank in range(3):
        (folder / f"inside-rank{rank:04}.json").write_bytes(b"[]")
    assert [finding.rule for finding in inside.check(evidence, plan, states, environment)] == ["inside.schema"] * 3


def test_this_process_can_tell() -> None:
    said = worker.look(0, contained=True)
    assert violations(said, "inside", "schema", "x") == []
    assert any(mount["path"] == "/" for mount in said["mounts"])
    assert any(path.endswith(f"python{sys.version_info.major}.{sys.version_info.minor}/") for path in said["code"])
    assert said["temporary"] == os.environ.get("TMPDIR", "/tmp")
    assert str(ROOT) + "/" in said["code"]
