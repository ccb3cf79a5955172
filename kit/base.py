"""Base images: pulled by digest where a registry answers, else made by mmdebstrap from Debian packages of a locked state."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit import engine
from kit.errors import ENVIRONMENT, FAILED, KitError
from kit.files import cache_folder, sha256_file
from kit.recipe import Recipe
from kit.wheelhouse import exclusive

Say = Callable[[str], None]
MIRROR = "CHIPASSAY_DEBIAN_MIRROR"
ARCHIVES = "CHIPASSAY_ARCHIVES"
PIN = "image.pin.json"
UNCHECKED = "digest copied from public code, pinned by nobody"
STATUS = "var/lib/dpkg/status"


@dataclass(frozen=True, slots=True)
class Base:
    """A base that the engine has: how it came, its name there, what identifies it, and how it differs from its lock."""

    kind: str
    reference: str
    digest: str
    differs: tuple[str, ...] = ()

    def sealed(self) -> dict[str, Any]:
        """What an image's record and a run state about it."""
        return {"kind": self.kind, "digest": self.digest, "differs": list(self.differs)}


def ensure(recipe: Recipe, client: Any, say: Say) -> Base:
    """The recipe's base in the engine; KitError (exit 3) where no way is open."""
    refused = "image.toml names no registry"
    if "registry" in recipe.base:
        try:
            return _pulled(recipe, client, say)
        except engine.FAULTS as error:
            refused = engine.reason(error)
    if "archive" in recipe.base:
        return _loaded(recipe.base["archive"], client, say)
    if "debian" not in recipe.base:
        raise KitError(
            "base image cannot be pulled",
            why=refused,
            next_step="import the image: python -m kit image import CHIP FILE",
            exit_code=ENVIRONMENT,
        )
    say("no registry answers for the base image: making it from Debian packages")
    return _made(recipe, client, say)


def unchecked(recipe: Recipe) -> bool:
    """Whether the registry's digest was copied from public code, and nobody has pulled it and pinned the image yet."""
    registry = recipe.base.get("registry")
    if registry is None or "checked" in registry:
        return False
    path = recipe.folder / PIN
    pinned = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return bool(pinned.get("base") != registry["reference"].split("@")[1])


def _loaded(archive: dict[str, Any], client: Any, say: Say) -> Base:
    """A tar that the vendor hands out for `docker load`, checked before the engine sees it."""
    path = Path(os.environ.get(ARCHIVES, ".")) / archive["file"]
    if not path.is_file():
        raise KitError(
            "archive of the base image is not here",
            where=str(path),
            next_step=f"get it from: {archive['source']}; and set {ARCHIVES} to its folder",
            exit_code=ENVIRONMENT,
        )
    digest = sha256_file(path)
    if digest != archive["sha256"]:
        raise KitError(
            "archive of the base image is not the named one",
            where=str(path),
            why=f"image.toml says {archive['sha256']}, the file of {path.stat().st_size} bytes is {digest}",
            next_step="get it again: it may have been cut short",
            exit_code=FAILED,
        )
    say(f"handing {path.name} to the engine")
    with path.open("rb") as data:
        images = client.images.load(data)
    if len(images) != 1:
        raise KitError("archive holds not one image", where=str(path), why=f"it holds {len(images)}", exit_code=FAILED)
    return Base("archive", images[0].id, f"sha256:{digest}")


def _pulled(recipe: Recipe, client: Any, say: Say) -> Base:
    reference = recipe.base["registry"]["reference"]
    name, digest = reference.split("@")
    known = [image for image in client.images.list() if any(item.endswith(digest) for item in image.attrs.get("RepoDigests") or [])]
    if not known:
        client.api.timeout = engine.PROBE_S
        try:
            client.images.get_registry_data(reference)
        finally:
            client.api.timeout = engine.CALL_S
        say(f"pulling base {name}")
        client.images.pull(reference)
    return Base("registry", reference, digest, (UNCHECKED,) if unchecked(recipe) else ())


def _made(recipe: Recipe, client: Any, say: Say) -> Base:
    debian = recipe.base["debian"]
    path = tar(recipe)
    with exclusive(path):
        digest = sha256_file(path)
        reference = f"chipassay/base:{digest[:12]}"
        if not client.images.list(reference):
            say("handing the base to the engine")
            with path.open("rb") as data:
                client.api.import_image_from_data(data, repository="chipassay/base", tag=digest[:12])
    differs = differences(recipe.folder / debian["lock"], packages(path))
    if differs:
        say(
            f"BASE DIFFERS from {debian['lock']} in {len(differs)} packages, e.g. {differs[0]}; the seal says so. "
            f"To get the locked state, set {MIRROR} to a mirror of {debian['snapshot']:%Y-%m-%d}"
        )
    return Base("debian", reference, f"sha256:{digest}", tuple(differs))


def tar(recipe: Recipe) -> Path:
    """The packed file system that mmdebstrap makes of the recipe's Debian packages, made once."""
    debian = recipe.base["debian"]
    wanted = f"{recipe.target.machine} {debian['snapshot']} {debian['packages']} {os.environ.get(MIRROR)}"
    path = cache_folder() / "bases" / f"{debian['suite']}-{hashlib.sha256(wanted.encode()).hexdigest()[:12]}.tar"
    with exclusive(path.with_suffix(".making")):
        if not path.is_file():
            _mmdebstrap(debian, recipe.target.machine, path)
    return path


def _mmdebstrap(debian: dict[str, Any], machine: str, path: Path) -> None:
    program = shutil.which("mmdebstrap")
    if program is None:
        raise KitError(
            "base image can be neither pulled nor made",
            why="no registry answers and mmdebstrap is missing",
            next_step="apt-get install mmdebstrap",
            exit_code=ENVIRONMENT,
        )
    temporary = path.with_suffix(".part")
    temporary.unlink(missing_ok=True)
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}[machine]
    mirror = [os.environ[MIRROR]] if os.environ.get(MIRROR) else []
    command = [
        program,
        "--quiet",
        "--variant=minbase",
        "--format=tar",
        f"--architectures={architecture}",
        f"--include={','.join(debian['packages'])}",
        debian["suite"],
        str(temporary),
        *mirror,
    ]
    epoch = str(int(debian["snapshot"].timestamp()))
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=os.environ | {"SOURCE_DATE_EPOCH": epoch}
    )
    if done.returncode:
        temporary.unlink(missing_ok=True)
        lines = [line for line in done.stderr.splitlines() if line.startswith(("E:", "Err"))] or done.stderr.splitlines() or ["no message"]
        foreign = any(word in lines[-1] for word in ("foreign architecture", "executed natively"))
        other = f"build on a machine of kind {machine}, or let this one run such programs: apt-get install arch-test qemu-user-static"
        raise KitError(
            "mmdebstrap failed",
            why=lines[-1],
            next_step=other if foreign else f"check that a Debian mirror can be reached, or set {MIRROR}",
            exit_code=ENVIRONMENT,
        )
    temporary.replace(path)


def packages(tar: Path) -> dict[str, str]:
    """Name -> version of every Debian package in a base, from its dpkg status file."""
    with tarfile.open(tar) as archive:
        member = next((archive.extractfile(item) for item in archive if item.name.removeprefix("./") == STATUS), None)
        text = member.read().decode() if member else ""
    fields = [dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and line[0] != " ") for block in text.split("\n\n")]
    return {entry["Package"]: entry["Version"] for entry in fields if "Package" in entry}


def read_lock(path: Path) -> dict[str, str]:
    """Name -> version as base.lock lists them, `name=version` a line; empty where the file is not there yet."""
    if not path.is_file():
        return {}
    lines = (line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#"))
    return dict(line.split("=", 1) for line in lines)


def write_lock(recipe: Recipe) -> Path:
    """Write base.lock from what the mirror at hand gives."""
    path = recipe.folder / str(recipe.base["debian"]["lock"])
    lines = [f"{name}={version}\n" for name, version in sorted(packages(tar(recipe)).items())]
    path.write_text("# Every Debian package of the base; made by: python -m kit image lock CHIP\n" + "".join(lines), encoding="utf-8")
    return path


def differences(lock: Path, found: dict[str, str]) -> list[str]:
    """Packages whose version is not the locked one, as `name locked -> found`."""
    locked = read_lock(lock)
    names = sorted(locked.keys() | found.keys())
    return [f"{name} {locked.get(name, 'none')} -> {found.get(name, 'none')}" for name in names if locked.get(name) != found.get(name)]
