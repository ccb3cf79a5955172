"""Whether what an image promises can be imported in it: in a container without network, root file system or accelerator."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from kit import engine
from kit.errors import FAILED, KitError

LIMIT_S = 600
SCRIPT = """
import importlib, json, sys
found = {}
for name in sys.argv[1:]:
    module, _, attribute = name.partition(":")
    try:
        loaded = importlib.import_module(module)
        if attribute:
            getattr(loaded, attribute)
        found[name] = [True, str(getattr(loaded, "__version__", ""))]
    except BaseException as error:
        found[name] = [False, " ".join(f"{type(error).__name__}: {error}".split())[-300:]]
print("\\n" + json.dumps(found))
"""


def check(client: Any, config: str, names: Sequence[str]) -> dict[str, str]:
    """Version by name of each `module` or `module:attribute`; KitError (exit 1) that tells every one that fails, and why."""
    if not names:
        return {}
    found = _found(_said(client, config, names), config)
    broken = [f"{name}: {said}" for name, (fine, said) in found.items() if not fine]
    if broken:
        raise KitError(
            "image cannot import what it promises",
            where=config,
            why="; ".join(broken),
            next_step="mend requirements.in or overrides.in, and lock and build again",
            exit_code=FAILED,
        )
    return {name: version for name, (_, version) in found.items()}


def _said(client: Any, config: str, names: Sequence[str]) -> bytes:
    container = None
    try:
        container = client.containers.create(
            config,
            ["-c", SCRIPT, *names],
            network_mode="none",
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            tmpfs={"/tmp": "rw,size=1g"},  # noqa: S108 - the container's own
        )
        container.start()
        container.wait(timeout=LIMIT_S)
        return bytes(container.logs(stdout=True, stderr=False))
    except engine.FAULTS as error:
        raise engine.failed("image cannot be tried", error) from error
    finally:
        if container is not None:
            container.remove(force=True)


def _found(said: bytes, config: str) -> dict[str, tuple[bool, str]]:
    try:
        listed = json.loads(said.strip().rpartition(b"\n")[2])
    except ValueError as error:
        raise KitError("image's Python said nothing that can be read", where=config, exit_code=FAILED) from error
    return {name: (bool(fine), str(text)) for name, (fine, text) in listed.items()}
