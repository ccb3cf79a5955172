"""The container engine of this host, through the Docker API that Docker and Podman both speak."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import docker
import requests
from docker.errors import APIError, DockerException

from kit.errors import ENVIRONMENT, KitError

PROBE_S = 10
CALL_S = 600
FAULTS = (DockerException, requests.RequestException, OSError)


def connect() -> Any:
    """A client of the first engine that answers; KitError (exit 3) where none does."""
    faults = []
    for address in _addresses():
        try:
            options: dict[str, Any] = {"base_url": address} if address else {}
            probe = docker.DockerClient(timeout=PROBE_S, **options) if address else docker.from_env(timeout=PROBE_S)
            probe.ping()
        except FAULTS as error:
            faults.append(reason(error))
        else:
            probe.api.timeout = CALL_S
            return probe
    raise KitError(
        "no container engine answers",
        where=os.environ.get("DOCKER_HOST", ""),
        why=faults[0],
        next_step="install or start Docker or Podman",
        exit_code=ENVIRONMENT,
    )


def _addresses() -> list[str | None]:
    """None stands for what the Docker environment variables say; Podman's sockets are tried when they say nothing."""
    if os.environ.get("DOCKER_HOST"):
        return [None]
    folders = [os.environ.get("XDG_RUNTIME_DIR", ""), "/run"]
    sockets = [Path(folder) / "podman/podman.sock" for folder in folders if folder]
    return [None, *(f"unix://{path}" for path in sockets if path.exists())]


def reason(error: Exception) -> str:
    """The engine's own words, on one line and short."""
    text = error.explanation if isinstance(error, APIError) and error.explanation else error
    return " ".join(str(text).split())[:300]


def failed(what: str, error: Exception, next_step: str = "see: python -m kit doctor") -> KitError:
    """An engine's refusal as a KitError (exit 3)."""
    return KitError(what, why=reason(error), next_step=next_step, exit_code=ENVIRONMENT)
