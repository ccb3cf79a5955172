"""Runs an attempt in a container: no network, read-only root, no capability that the chip does not name, a plain user, bounds."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from docker.types import Mount

from kit import engine, environment
from kit.chip import Chip
from kit.image import ImageIdentity
from kit.job import Isolation, Job, Outcome

PLAIN_USER = 65532
WORKER = "/worker.pyz"
FOLDER = "/case"
TEMPORARY = "/tmp"  # noqa: S108 - the container's own
POLL_S = 0.5
STOP_S = 10
RUN_LABEL = "chipassay.run"


def user() -> str:
    """uid:gid of the worker: the caller's own, but never root."""
    return f"{os.geteuid() or PLAIN_USER}:{os.getegid() or PLAIN_USER}"


def grants(chip: Chip) -> dict[str, Any]:
    """What a container of this chip is given; sealed with the run and shown."""
    has = chip.container
    return {
        "network": "none",
        "read_only": True,
        "user": user(),
        "capabilities": has["capabilities"],
        "security": ["no-new-privileges"],
        "devices": has["devices"],
        "groups": has["groups"],
        "environment": chip.worker_environment(),
        "pids_limit": has["pids_limit"],
        "memory_bytes": int(environment.memory_bytes() * has["memory_share"]),
        "shared_memory_bytes": has["shared_memory_bytes"],
        "temporary_bytes": has["temporary_bytes"],
    }


def command(chip: Chip, reference: str, job: Job) -> list[str]:
    """The same container as a docker command line, for people to read and try."""
    given = grants(chip)
    flags = ["--rm", "--network", given["network"], "--read-only", "--init", "--user", given["user"], "--cap-drop", "ALL"]
    flags += [part for name in given["capabilities"] for part in ("--cap-add", name)]
    flags += [part for name in given["security"] for part in ("--security-opt", name)]
    flags += [part for name in given["devices"] for part in ("--device", name)]
    flags += [part for name in given["groups"] for part in ("--group-add", name)]
    flags += [part for name, value in given["environment"].items() for part in ("--env", f"{name}={value}")]
    flags += [
        "--pids-limit",
        str(given["pids_limit"]),
        "--memory",
        str(given["memory_bytes"]),
        "--shm-size",
        str(given["shared_memory_bytes"]),
        "--tmpfs",
        f"{TEMPORARY}:{_temporary(given)}",
    ]
    flags += [
        "--volume",
        f"{job.archive.path}:{WORKER}:ro",
        "--volume",
        f"{job.folder}:{FOLDER}:rw",
    ]
    return ["docker", "run", *flags, reference, *_arguments()]


def _temporary(given: dict[str, Any]) -> str:
    return f"rw,exec,nosuid,nodev,size={given['temporary_bytes']}"


def _arguments() -> list[str]:
    return [WORKER, f"{FOLDER}/case.json", FOLDER]


class ContainerRunner:
    """Runs the worker in the chip's image through the engine's API."""

    def __init__(self, chip: Chip, identity: ImageIdentity) -> None:
        self.chip = chip
        self.identity = identity
        self.client = engine.connect()
        self.isolation = Isolation("container", image=identity.sealed(), lock=identity.record["lock"], grants=grants(chip))

    def command(self, job: Job) -> list[str]:
        return command(self.chip, self.identity.reference, job)

    def run(self, job: Job, tick: Callable[[], None]) -> Outcome:
        _let_write(job.folder)
        try:
            container = self.client.containers.create(**self._request(job))
        except engine.FAULTS as error:
            raise engine.failed("container cannot be made", error) from error
        try:
            return _follow(container, job, tick)
        except engine.FAULTS as error:
            raise engine.failed("container cannot be run", error) from error
        finally:
            with contextlib.suppress(*engine.FAULTS):
                container.remove(force=True)

    def _request(self, job: Job) -> dict[str, Any]:
        given = self.isolation.grants
        return {
            "image": self.identity.config,
            "command": _arguments(),
            "name": f"chipassay-{job.run_name}-{job.case['id']}-{job.attempt}",
            "labels": {RUN_LABEL: job.run_name},
            "init": True,
            "network_mode": given["network"],
            "read_only": given["read_only"],
            "user": given["user"],
            "cap_drop": ["ALL"],
            "cap_add": given["capabilities"],
            "security_opt": given["security"],
            "devices": given["devices"],
            "group_add": given["groups"],
            "environment": given["environment"],
            "pids_limit": given["pids_limit"],
            "mem_limit": given["memory_bytes"],
            "shm_size": given["shared_memory_bytes"],
            "tmpfs": {TEMPORARY: _temporary(given)},
            "mounts": [
                Mount(WORKER, str(job.archive.path.resolve()), type="bind", read_only=True),
                Mount(FOLDER, str(job.folder.resolve()), type="bind"),
            ],
        }

    def stop_leftovers(self, run_name: str) -> None:
        """Remove containers that a killed kit left running."""
        try:
            for container in self.client.containers.list(all=True, filters={"label": f"{RUN_LABEL}={run_name}"}):
                container.remove(force=True)
        except engine.FAULTS as error:
            raise engine.failed("containers left by an earlier attempt cannot be removed", error) from error


def _let_write(folder: Path) -> None:
    """The worker is not root: where the kit is, the folder is handed over."""
    if os.geteuid() == 0:
        os.chown(folder, PLAIN_USER, PLAIN_USER)


def _follow(container: Any, job: Job, tick: Callable[[], None]) -> Outcome:
    """Start, copy what it says into the logs, and wait without disturbing it; stop it at the time limit."""
    ended: dict[str, Any] = {}
    stream = container.attach(stream=True, stdout=True, stderr=True, demux=True)
    copier = threading.Thread(target=_copy, args=(stream, job.folder), daemon=True)
    copier.start()
    container.start()
    waiter = threading.Thread(target=_await, args=(container, ended), daemon=True)
    waiter.start()
    waited = 0.0
    while waiter.is_alive() and waited < job.time_limit_s:
        waiter.join(POLL_S)
        waited += POLL_S
        tick()
    timed_out = waiter.is_alive()
    if timed_out:
        container.stop(timeout=STOP_S)
    copier.join(STOP_S)
    return Outcome(f"time limit of {job.time_limit_s} s reached" if timed_out else _reason(container, ended))


def _await(container: Any, ended: dict[str, Any]) -> None:
    try:
        ended |= container.client.api.wait(container.id, timeout=None)
    except engine.FAULTS as error:
        ended["fault"] = engine.reason(error)


def _copy(stream: Any, folder: Path) -> None:
    with (
        (folder / "stdout.log").open("wb") as out,
        (folder / "stderr.log").open("wb") as err,
        contextlib.suppress(*engine.FAULTS, ValueError),
    ):
        for said, complained in stream:
            out.write(said or b"")
            err.write(complained or b"")


def _reason(container: Any, ended: dict[str, Any]) -> str | None:
    if "fault" in ended:
        return f"engine lost the container: {ended['fault']}"
    code = int(ended["StatusCode"])
    if code == 0:
        return None
    container.reload()
    if container.attrs["State"].get("OOMKilled"):
        return f"worker ran out of memory ({grants_text(container)})"
    return f"worker was killed by signal {code - 128}" if code > 128 else f"worker exited with {code}"


def grants_text(container: Any) -> str:
    """The memory bound in words."""
    return f"{container.attrs['HostConfig']['Memory'] / 2**30:.1f} GiB were granted"
