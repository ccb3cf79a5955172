"""Who builds an image: the engine's own builder, or buildah, whose images are the same byte for byte from the same inputs.

`CHIPASSAY_BUILDER=buildah` asks for the latter: it works without daemon and network, sets every time stamp to 0, and hands the
result to the engine, which reports the digest that buildah made.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from kit import engine
from kit.errors import ENVIRONMENT, MISUSE, KitError
from kit.files import cache_folder
from kit.wheelhouse import exclusive

CHOICE = "CHIPASSAY_BUILDER"
BUILDERS = ("engine", "buildah")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # the engine paints what a step writes to stderr


def chosen() -> str:
    """The builder that the environment asks for."""
    name = os.environ.get(CHOICE, BUILDERS[0])
    if name not in BUILDERS:
        raise KitError(f"unknown builder '{name}'", where=CHOICE, next_step=f"known: {', '.join(BUILDERS)}", exit_code=MISUSE)
    return name


def by_engine(client: Any, context: str, under: str, tag: str, platform: str, labels: dict[str, str]) -> None:
    """The engine's own builder, which every Docker and Podman has; the stage that holds the wheels is removed."""
    said: list[str] = []
    try:
        for part in client.api.build(
            path=context,
            tag=tag,
            buildargs={"BASE": under},
            network_mode="none",
            labels=labels,
            platform=platform,
            rm=True,
            forcerm=True,
            decode=True,
        ):
            said += [line for line in COLOUR.sub("", str(part.get("stream", ""))).splitlines() if line.strip()]
            if "error" in part:
                why = next((line for line in reversed(said) if "ERROR" in line or "Error" in line), str(part["error"])[-300:])
                raise KitError("image cannot be built", where=tag, why=why, next_step="mend what it names", exit_code=ENVIRONMENT)
        client.images.prune(filters={"dangling": True, "label": "chipassay.stage=build"})
    except engine.FAULTS as error:
        raise engine.failed("image cannot be built", error) from error


def by_buildah(base: Path, context: str, tag: str, labels: dict[str, str]) -> None:
    """Build from a base's tar and hand the image to the engine under `tag`; what the build needs on disk is removed again."""
    under, name = f"localhost/base:{tag.rpartition(':')[2]}", f"localhost/{tag}"
    with exclusive(cache_folder() / "buildah"):
        try:
            _build(base, under, context, name, labels)
            _buildah(["push", name, f"docker-daemon:{tag}"])
        finally:
            _buildah(["rmi", "--force", "--all"])


def _build(base: Path, under: str, context: str, name: str, labels: dict[str, str]) -> None:
    _import(base, under)
    marks = [part for key, value in labels.items() for part in ("--label", f"{key}={value}")]
    still = ["--isolation", "oci", "--network", "none", "--timestamp", "0", "--no-cache", "--layers=false", "--format", "oci"]
    _buildah(["bud", *_runtime(), *still, "--build-arg", f"BASE={under}", *marks, "--tag", name, context])


def _import(base: Path, name: str) -> None:
    """A base image of one layer from a packed file system."""
    box = _buildah(["from", "scratch"])
    _buildah(["add", box, str(base), "/"])
    _buildah(["commit", "--quiet", "--timestamp", "0", "--format", "oci", "--rm", box, name])


def _runtime() -> list[str]:
    """Runc where it is there: crun refuses machines that have both versions of control groups."""
    found = shutil.which("runc")
    return ["--runtime", found] if found else []


def _buildah(arguments: list[str]) -> str:
    program = shutil.which("buildah")
    if program is None:
        raise KitError("buildah is missing", next_step=f"apt-get install buildah, or leave out {CHOICE}", exit_code=ENVIRONMENT)
    folder = cache_folder().resolve() / "buildah"
    places = ["--root", str(folder / "root"), "--runroot", str(folder / "run"), "--storage-driver", "overlay"]
    done = subprocess.run([program, *places, *arguments], check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if "error" in line.lower()] or ["no message"]
        own = [line for line in lines if line.startswith("ERROR: ")] or lines  # what a step of the build said, before buildah's own words
        raise KitError(f"buildah {arguments[0]} failed", why=own[-1][-300:], exit_code=ENVIRONMENT)
    return done.stdout.strip()
