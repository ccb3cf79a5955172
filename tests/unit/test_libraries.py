"""What a worker says of the libraries that it mapped, and that honest ones of every isolation are believed."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

import pytest

from kit.files import sha256_file
from kit.worker import libraries as worker
from tests.adversarial.slipped import INVENTORY, LIBRARIES
from tests.unit.test_inside import look
from verify import libraries
from verify.data import root

LOCK = "images/cpu/requirements.lock"
DATA = b"\x7fELF a library"


def installed(folder: Path, digest: bytes | None = None) -> Path:
    """A library of a distribution in `folder`, whose RECORD promises `digest`, or what the file has."""
    library = folder / "one_thing/lib/libone.so.2"
    library.parent.mkdir(parents=True)
    library.write_bytes(DATA)
    promised = base64.urlsafe_b64encode(digest or hashlib.sha256(DATA).digest()).decode().rstrip("=")
    (folder / "one_thing-1.0+x.dist-info").mkdir()
    lines = f'one_thing/lib/libone.so.2,sha256={promised},{len(DATA)}\none_thing/a.py,,\n"one_thing/b,c.so",sha256=x,1\n'
    (folder / "one_thing-1.0+x.dist-info/RECORD").write_text(lines, encoding="utf-8")
    return library


def dpkg(folder: Path, *paths: str) -> Path:
    (folder / "info").mkdir(parents=True)
    (folder / "info/libother1:amd64.list").write_text("/.\n" + "".join(f"{path}\n" for path in paths), encoding="utf-8")
    (folder / "status").write_text("Package: libother1\nVersion: 4.2-1\nDescription: x\n more: y\n\nPackage: z\n", encoding="utf-8")
    return folder


def test_a_wheels_record_names_owner_and_promise(tmp_path: Path) -> None:
    path = str(installed(tmp_path))
    [entry] = worker.listed([path], hashed=True, places=[str(tmp_path)], dpkg=tmp_path / "none")
    digest = hashlib.sha256(DATA).hexdigest()
    package = {"kind": "python", "name": "one_thing", "version": "1.0+x"}
    assert entry == {"path": path, "size_bytes": len(DATA), "sha256": digest, "package": package, "recorded": digest}
    [entry] = worker.listed([path], hashed=False, places=[str(tmp_path)], dpkg=tmp_path / "none")
    assert (entry["sha256"], entry["recorded"], entry["size_bytes"]) == (None, digest, len(DATA))


def test_dpkg_names_an_owner_under_either_name_of_a_folder(tmp_path: Path) -> None:
    """Its lists say /lib where /lib is a link to /usr/lib and the kernel says /usr/lib."""
    known = dpkg(tmp_path / "dpkg", "/lib/libold.so", "/usr/lib/libnew.so")
    found = worker.listed(["/usr/lib/libold.so", "/usr/lib/libnew.so", "/lib/libother.so"], hashed=False, places=[], dpkg=known)
    owner = {"kind": "debian", "name": "libother1", "version": "4.2-1"}
    assert {entry["path"]: entry["package"] for entry in found} == {
        "/lib/libother.so": None,
        "/usr/lib/libnew.so": owner,
        "/usr/lib/libold.so": owner,
    }


@pytest.mark.parametrize("text", ["", "md5=abc", "sha256=", "sha256=!!!!", "sha256=YWJj"])
def test_a_record_that_promises_nothing_of_use(text: str) -> None:
    assert worker._promised(text) is None


def test_what_is_gone_is_told_without_size_or_hash(tmp_path: Path) -> None:
    paths = [f"{tmp_path}/x.so (deleted)", f"{tmp_path}/y.so"]
    found = worker.listed(paths, hashed=True, places=[], dpkg=tmp_path)
    assert [(entry["size_bytes"], entry["sha256"]) for entry in found] == [(None, None), (None, None)]


def test_hashing_ends_with_its_budget_the_smallest_files_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("a.so", 30), ("b.so", 10), ("c.so", 20)):
        (tmp_path / name).write_bytes(b"x" * size)
    monkeypatch.setattr(worker, "HASHED_BYTES", 35)
    found = worker.listed([str(path) for path in tmp_path.iterdir()], hashed=True, places=[], dpkg=tmp_path)
    assert [Path(entry["path"]).name for entry in found if entry["sha256"]] == ["b.so", "c.so"]


def test_a_process_tells_its_own_libraries_and_one_of_a_host_hashes(tmp_path: Path) -> None:
    for rank in ("0", "1"):
        said = look(tmp_path, LOCAL_RANK=rank)
        libc = next(entry for entry in said["libraries"] if Path(entry["path"]).name.startswith(("libc.so", "libc-", "ld-")))
        assert libc["size_bytes"] == Path(libc["path"]).stat().st_size
        assert libc["sha256"] == (None if rank == "1" else sha256_file(Path(libc["path"])))
        assert {entry["path"] for entry in said["libraries"]} <= set(said["code"])


def environment(kind: str, base: str = "debian", **more: Any) -> dict[str, Any]:
    image = {"base": {"kind": base}} if kind == "container" else None
    return {"isolation": {"kind": kind}, "image": image, "lock": None, "grants": {}} | more


def found(made: dict[str, Any], *entries: dict[str, Any], **said: Any) -> list[tuple[str, str]]:
    """Severity and what was found, for one rank with these libraries."""
    told = {"temporary": "/tmp", "roots": ["/opt/venv"], "libraries": list(entries)} | said
    return [(finding.severity, finding.found) for finding in libraries.check([("here", told)], made)]


ODD = {"path": "/opt/odd/libodd.so", "size_bytes": 5, "sha256": "d" * 64, "package": None, "recorded": None}
SAID = f"5 bytes, sha256 {'d' * 64}, of no package"


def test_honest_libraries_are_believed() -> None:
    for made in (environment("container"), environment("environment"), environment("none")):
        assert found(made, *LIBRARIES) == []
    assert list(libraries.check([("here", {"temporary": "/tmp"})], environment("container"))) == []


@pytest.mark.parametrize(
    ("made", "severities"),
    [
        (environment("container"), ["error"]),
        (environment("container", base="archive"), []),
        (environment("container", base="registry"), []),
        (environment("container", grants={"mounts": ["/opt/odd"]}), []),
        (environment("container", grants={"mounts": ["/opt/oddly"]}), ["error"]),
        (environment("container", grants={"way": "request", "injected": ["/opt/*/libodd.so"]}), []),
        (environment("container", grants={"way": "runtime", "injected": None}), ["warning"]),
        (environment("container", grants=None), ["error"]),
        (environment("environment"), []),
        (environment("none"), []),
    ],
)
def test_a_library_of_no_package(made: dict[str, Any], severities: list[str]) -> None:
    """An image on Debian explains each of its files; of a vendor's base only its digest is known."""
    assert found(made, ODD) == [(severity, SAID) for severity in severities]


@pytest.mark.parametrize("path", ["/tmp/x/kernel.so", "/usr/lib/libgone.so (deleted)"])
def test_what_the_process_compiled_or_lost_is_judged_elsewhere(path: str) -> None:
    assert found(environment("container"), ODD | {"path": path}) == []


@pytest.mark.parametrize(("kind", "severity"), [("container", "error"), ("environment", "error"), ("none", "warning")])
def test_a_file_that_is_not_the_packages_own(kind: str, severity: str) -> None:
    assert found(environment(kind), LIBRARIES[1] | {"sha256": "e" * 64}) == [(severity, "e" * 64)]


@pytest.mark.parametrize(("kind", "severity"), [("container", "error"), ("environment", "warning"), ("none", "warning")])
def test_two_ranks_with_two_files_under_one_path(kind: str, severity: str) -> None:
    other = LIBRARIES[1] | {"size_bytes": 4097, "sha256": None}
    assert found(environment(kind), LIBRARIES[1], other) == [(severity, "4097")]
    assert found(environment(kind), LIBRARIES[1], LIBRARIES[1] | {"sha256": None}) == []


def test_a_mounted_driver_is_the_hashed_one() -> None:
    grants = {"mounts": ["/opt/odd"]}
    for digest, expected in (("d" * 64, []), ("f" * 64, [("error", "d" * 64)])):
        inventory = INVENTORY | {"libraries": {ODD["path"]: digest}}
        assert found(environment("container", grants=grants, inventory=inventory), ODD) == expected
        assert found(environment("container", grants=grants, inventory=inventory), ODD | {"sha256": None}) == []


def test_packages_are_the_locks() -> None:
    lock = {"file": LOCK, "sha256": sha256_file(root() / LOCK), "built": {}}
    pins = libraries.locked(lock)
    assert pins is not None
    right = LIBRARIES[1] | {"package": {"kind": "python", "name": "Torch", "version": pins["torch"]}}
    wrong = LIBRARIES[1] | {"package": {"kind": "python", "name": "torch", "version": "1.0"}}
    unknown = LIBRARIES[1] | {"package": {"kind": "python", "name": "no_such_thing", "version": "1.0"}}
    for made in (environment("container", lock=lock), environment("environment", lock=lock)):
        assert found(made, right) == []
        assert found(made, wrong, unknown | {"path": "/opt/venv/x.so"}) == [("error", "1.0"), ("error", "1.0")]
    assert found(environment("environment", lock=lock), wrong, roots=["/elsewhere"]) == []
    assert found(environment("container", base="registry", lock=lock), wrong) == []
    assert found(environment("none", lock=lock), wrong) == []


@pytest.mark.parametrize("file", ["images/cpu/none.lock", "../images/cpu/requirements.lock", "/etc/passwd", "images/cpu/image.toml"])
def test_a_lock_that_is_not_here_says_nothing(file: str) -> None:
    assert libraries.locked({"file": file, "sha256": sha256_file(root() / LOCK), "built": {}}) is None
    assert libraries.locked({"file": LOCK, "sha256": "0" * 64, "built": {}}) is None
    assert libraries.locked(None) is None
