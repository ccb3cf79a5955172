"""Images of chips: locked, built without network, checked, pinned, carried from machine to machine.

An image is known by what the engine reports (config digest, and manifest digest where it came from a registry), never by
its tag. What was built is recorded in the cache; what everybody should get can be pinned beside the recipe.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docker.errors import ImageNotFound

from kit import base, builder, chip, engine, imports, patches, patching, recipe, sbom, wheelhouse
from kit.errors import ENVIRONMENT, FAILED, KitError
from kit.files import cache_folder, sha256_file, writable, write_atomic

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ImageIdentity:
    """An image that the engine has, as the engine reports it, with the record of how it was made."""

    reference: str
    config: str
    manifest: str | None
    platform: str
    record: dict[str, Any]

    def sealed(self) -> dict[str, Any]:
        """What a run states about it."""
        return {
            "reference": self.reference,
            "config": self.config,
            "manifest": self.manifest,
            "platform": self.platform,
            "base": self.record["base"],
            "sbom": self.record.get("sbom"),
            "patches": self.record["patches"],
        }


def reference(product: chip.Chip) -> str:
    """The name under which the engine keeps the image of today's recipe."""
    return f"chipassay/{product.id}:{recipe.load(product).sha256()[:12]}"


def planned_reference(product: chip.Chip) -> str:
    """The same for a dry run, which may go ahead of the recipe."""
    return reference(product) if recipe.exists(product) else f"chipassay/{product.id}:not-written-yet"


def is_built(product: chip.Chip) -> bool:
    """Whether this machine has built or imported the image of today's recipe."""
    return recipe.exists(product) and _record_path(product).is_file()


def _record_path(product: chip.Chip) -> Path:
    return cache_folder() / "images" / f"{product.id}-{recipe.load(product).sha256()[:12]}.json"


def ensure(product: chip.Chip, say: Say) -> ImageIdentity:
    """The chip's image, built if this machine lacks it; KitError (exit 1) where the engine's is not the recorded or pinned one."""
    with wheelhouse.exclusive(_record_path(product)):
        return _known(product, engine.connect()) or build(product, say)


def _known(product: chip.Chip, client: Any) -> ImageIdentity | None:
    """The recorded image, found by its config digest and never by its name; None where record or image is missing."""
    record = _read_record(product)
    if record is None:
        return None
    _check_name(product, client, record["config"])
    attributes = _attributes(client, record["config"])
    if attributes is None:
        return None
    _check_pin(product, attributes["Id"])
    return _identity(product, attributes, record)


def _read_record(product: chip.Chip) -> dict[str, Any] | None:
    """What the build or import wrote; None where there is none or a crash left half of one."""
    try:
        record = json.loads(_record_path(product).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and {"recipe", "config", "base", "lock", "patches"} <= record.keys() else None


def _check_name(product: chip.Chip, client: Any, recorded: str) -> None:
    """The name may have moved to another build of the same recipe (made under another cache), never to something else."""
    named = _attributes(client, reference(product))
    if named is not None and (named["Config"].get("Labels") or {}).get("chipassay.recipe") != recipe.load(product).sha256():
        _same(reference(product), recorded, named["Id"], "the record of its build")


def _attributes(client: Any, name: str) -> dict[str, Any] | None:
    try:
        return dict(client.images.get(name).attrs)
    except ImageNotFound:
        return None
    except engine.FAULTS as error:
        raise engine.failed("engine does not tell about an image", error) from error


def _same(name: str, expected: str, found: str, by: str) -> None:
    if expected != found:
        raise KitError(
            "image is not the locked one",
            where=name,
            why=f"{by} says {expected}, the engine has {found}",
            next_step=f"remove it and build again: python -m kit image build {name.split('/')[1].split(':')[0]}",
            exit_code=FAILED,
        )


def _check_pin(product: chip.Chip, found: str) -> None:
    path = product.folder / base.PIN
    if path.is_file():
        pinned = json.loads(path.read_text(encoding="utf-8"))
        if pinned["recipe"] == recipe.load(product).sha256():
            _same(reference(product), pinned["config"], found, f"images/{product.id}/{base.PIN}")


def _identity(product: chip.Chip, attributes: dict[str, Any], record: dict[str, Any]) -> ImageIdentity:
    digests = attributes.get("RepoDigests") or []
    manifest = digests[0].split("@")[1] if digests else None
    platform = f"{attributes['Os']}/{attributes['Architecture']}"
    return ImageIdentity(reference(product), attributes["Id"], manifest, platform, record)


def build(product: chip.Chip, say: Say) -> ImageIdentity:
    """Build the image of today's recipe from a wheelhouse, without network, and record it."""
    made, client = recipe.load(product), engine.connect()
    house = wheelhouse.prepare(made.locks, made.source_only, made.target, say)
    under = base.ensure(made, client, say)
    say(f"building {reference(product)} (no network)")
    labels = {"chipassay.recipe": made.sha256(), "chipassay.lock": house.lock_sha256, "chipassay.base": under.digest}
    with tempfile.TemporaryDirectory(prefix="chipassay-", dir=house.folder) as context:
        _context(Path(context), house, made)
        _run_build(client, context, under, made, reference(product), labels)
    attributes = _attributes(client, reference(product))
    if attributes is None or attributes["Config"]["Labels"].get("chipassay.recipe") != made.sha256():
        raise KitError("engine built something else", where=reference(product), exit_code=ENVIRONMENT)
    record = {"recipe": made.sha256(), "config": attributes["Id"], "base": under.sealed(), "lock": house.sealed()}
    record["patches"] = patches.sealed(made.patches)
    record["sbom"] = _list_contents(product, client, attributes["Id"])
    _write_record(product, record)
    return _identity(product, attributes, record)


def _context(folder: Path, house: wheelhouse.Wheelhouse, made: recipe.Recipe) -> None:
    """The build context: the Dockerfile, the install lock, the wheels (hard links), the patches and what applies them."""
    (folder / recipe.DOCKERFILE).write_text(made.dockerfile, encoding="utf-8")
    shutil.copy(house.folder / "install.lock", folder / "install.lock")
    shutil.copytree(house.folder / "wheels", folder / "wheels", copy_function=os.link)
    shutil.copy(patching.__file__, folder / "patching.py")
    (folder / patches.FOLDER).mkdir()
    for patch in made.patches:
        (folder / patches.FOLDER / patch.name).write_bytes(patch.data)


def _run_build(client: Any, context: str, under: base.Base, made: recipe.Recipe, tag: str, labels: dict[str, str]) -> None:
    if builder.chosen() == "engine":
        builder.by_engine(client, context, under.reference, tag, made.platform, labels)
    elif under.kind == "debian":
        builder.by_buildah(base.tar(made), context, tag, labels)
    else:
        raise KitError("buildah builds on Debian bases only", where=under.reference, next_step=f"leave out {builder.CHOICE}")


def _list_contents(product: chip.Chip, client: Any, config: str) -> str:
    """Write the SBOM beside the record; its SHA-256."""
    listed = sbom.of_image(client, config)
    path = _record_path(product).with_suffix(".cdx.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, listed)
    return hashlib.sha256(listed).hexdigest()


def _write_record(product: chip.Chip, record: dict[str, Any]) -> None:
    path = _record_path(product)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(record, sort_keys=True).encode() + b"\n")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _do_lock(product: chip.Chip, _: Path | None) -> str:
    """Resolve requirements.in and the base anew, with hashes and without addresses; overrides.in, where there is one, has the
    last word on versions that a package's own metadata forbids though they work.

    The first lock may take files from the folder that PIP_FIND_LINKS names, the others only what an index gives everybody.
    """
    made = recipe.load(product)
    found = os.environ.get("PIP_FIND_LINKS")
    for index, path in enumerate(made.locks):
        _compile(made, path, ["--find-links", found] if found and index == 0 else [])
    written = [*made.locks, *([base.write_lock(made)] if "debian" in made.base else [])]
    return "\n".join(f"wrote {chip.shown(path)}" for path in written)


def _compile(made: recipe.Recipe, path: Path, extra: list[str]) -> None:
    uv = shutil.which("uv")
    if uv is None:
        raise KitError("uv is missing", next_step="python3 -m pip install uv", exit_code=ENVIRONMENT)
    platform = f"{made.target.machine}-manylinux_{made.target.glibc.replace('.', '_')}"
    command = [
        uv,
        "pip",
        "compile",
        "--quiet",
        "--generate-hashes",
        "--no-header",
        "--no-annotate",
        "--python-version",
        made.target.python,
        "--python-platform",
        platform,
        *extra,
        *(["--override", str(overrides)] if (overrides := made.folder / "overrides.in").is_file() else []),
        str(made.folder / "requirements.in"),
        "--output-file",
        str(path),
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise KitError("lock cannot be made", where=path.name, why=done.stderr.strip().splitlines()[-1], exit_code=ENVIRONMENT)


def _do_wheelhouse(product: chip.Chip, _: Path | None) -> str:
    made = recipe.load(product)
    return str(wheelhouse.prepare(made.locks, made.source_only, made.target, _say).folder)


def _do_build(product: chip.Chip, _: Path | None) -> str:
    return _shown(build(product, _say))


def _do_verify(product: chip.Chip, _: Path | None) -> str:
    """The image is the recorded one, and what image.toml says it imports can be imported in it."""
    found = _known(product, engine.connect())
    if found is None:
        raise KitError(
            "image is not here", where=reference(product), next_step=f"python -m kit image build {product.id}", exit_code=ENVIRONMENT
        )
    versions = imports.check(engine.connect(), found.config, recipe.load(product).imports)
    return "\n".join([_shown(found), *(f"imports {name} {version}".rstrip() for name, version in versions.items())])


def _do_pin(product: chip.Chip, _: Path | None) -> str:
    """Pin what this machine has: whoever runs this recipe must have the same image."""
    (product.folder / base.PIN).unlink(missing_ok=True)
    found = _known(product, engine.connect()) or build(product, _say)
    pinned = {"recipe": found.record["recipe"], "config": found.config, "manifest": found.manifest, "platform": found.platform}
    pinned["base"] = found.record["base"]["digest"]
    write_atomic(product.folder / base.PIN, json.dumps(pinned, indent=1, sort_keys=True).encode() + b"\n")
    return f"pinned {found.config} in images/{product.id}/{base.PIN}"


def _do_export(product: chip.Chip, path: Path | None) -> str:
    target = writable(_named(path), "image", "name a tar file: python -m kit image export CHIP FILE")
    found = _known(product, engine.connect()) or build(product, _say)
    try:
        image = engine.connect().images.get(found.config)
        image.tag(found.reference)
        with target.open("wb") as file:
            for chunk in image.save(named=found.reference):
                file.write(chunk)
    except engine.FAULTS as error:
        raise engine.failed("image cannot be exported", error) from error
    sidecar = target.with_name(f"{target.name}.json")
    write_atomic(sidecar, json.dumps(found.record | {"sha256": sha256_file(target)}, sort_keys=True).encode() + b"\n")
    return f"{sha256_file(target)}  {target}"


def _do_import(product: chip.Chip, path: Path | None) -> str:
    """Take an exported image: its tar must be the one its record names, and hold the recorded image of today's recipe."""
    source = _named(path)
    sidecar = source.with_name(f"{source.name}.json")
    try:
        record = json.loads(sidecar.read_text(encoding="utf-8"))
        digest = record.pop("sha256")
        found = sha256_file(source)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise KitError(
            "export cannot be read", where=str(source), why=str(error), next_step=f"it needs {sidecar.name} beside it"
        ) from error
    if digest != found:
        raise KitError("export was changed", where=str(source), why=f"record says {digest}, file is {found}", exit_code=FAILED)
    made = recipe.load(product)
    if record.get("recipe") != made.sha256() or record.get("patches") != patches.sealed(made.patches):
        raise KitError(
            "export is of another recipe", where=str(source), next_step="check out the version that exported it", exit_code=FAILED
        )
    client = engine.connect()
    try:
        with source.open("rb") as file:
            client.images.load(file)
    except engine.FAULTS as error:
        raise engine.failed("image cannot be imported", error) from error
    attributes = _attributes(client, reference(product)) or {"Id": "no such image"}
    _same(reference(product), record["config"], attributes["Id"], sidecar.name)
    _write_record(product, record)
    return _do_verify(product, None)


def _named(path: Path | None) -> Path:
    if path is None:
        raise KitError("a tar file must be named", next_step="python -m kit image export CHIP FILE")
    return path


def _shown(found: ImageIdentity) -> str:
    manifest = found.manifest or "none: never pushed"
    return f"{found.reference}\nconfig {found.config}\nmanifest {manifest}\nbase {found.record['base']['digest']}"


_DO: dict[str, Callable[[chip.Chip, Path | None], str]] = {
    "lock": _do_lock,
    "wheelhouse": _do_wheelhouse,
    "build": _do_build,
    "verify": _do_verify,
    "pin": _do_pin,
    "export": _do_export,
    "import": _do_import,
}
ACTIONS = tuple(_DO)


def act(action: str, chip_id: str, path: Path | None) -> int:
    """Do one action for a chip and print what came of it."""
    if path is not None and action not in {"export", "import"}:
        raise KitError(f"kit image {action} takes no file", where=str(path), next_step="leave it out")
    print(_DO[action](chip.load(chip_id), path))
    return 0
