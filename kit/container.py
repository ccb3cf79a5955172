"""Runs an attempt in a container: no network, read-only root, no capability that the chip does not name, a plain user, bounds."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from docker.types import DeviceRequest, Mount, Ulimit

from kit import engine, launchers, storage, weights
from kit.chip import Chip
from kit.grants import PLAIN_USER, Grants
from kit.image import ImageIdentity
from kit.job import Isolation, Job, NodeCommand, Outcome, timed_out

POLL_S = 0.5
STOP_S = 10
RUN_LABEL = "chipassay.run"


def task(reference: str, job: Job) -> launchers.Task:
    """The attempt as launchers know it."""
    return launchers.Task(
        container_name(job),
        reference,
        job.archive.path.resolve(),
        job.folder.resolve(),
        nodes=job.nodes,
        processes=int(job.case.get("processes", 1)),
        weights=weights.declared(job.case),
        data=weights.dataset(job.case),
        checkpoints=storage.folder(job.case, job.folder),
    )


def container_name(job: Job) -> str:
    """Unique on this host."""
    return f"chipassay-{job.run_name}-{job.case['id']}-{job.attempt}"


class ContainerRunner:
    """Runs the worker in the chip's image through the engine's API."""

    def __init__(self, chip: Chip, identity: ImageIdentity, given: Grants) -> None:
        self.chip = chip
        self.identity = identity
        self.given = given
        self.client = engine.connect()
        self.isolation = Isolation(
            "container", image=identity.sealed(), lock=identity.record["lock"], grants=given.sealed(), cards=given.cards
        )

    def command(self, job: Job) -> list[str]:
        return launchers.docker(self.chip, self.given, task(self.identity.reference, job))

    def node_command(self, job: Job, node: int | None, endpoint: str) -> NodeCommand:
        """By the client of each node's own engine, which must hold the image under the same digest."""
        _let_write(job.folder)
        made = replace(task(self.identity.config, job), node=node, endpoint=endpoint)
        return NodeCommand(launchers.docker(self.chip, self.given, made), ["docker", "rm", "--force", made.name])

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
        return request(self.given, task(self.identity.config, job)) | {"labels": {RUN_LABEL: job.run_name}}

    def stop_leftovers(self, run_name: str) -> None:
        """Remove containers that a killed kit left running."""
        try:
            for container in self.client.containers.list(all=True, filters={"label": f"{RUN_LABEL}={run_name}"}):
                container.remove(force=True)
        except engine.FAULTS as error:
            raise engine.failed("containers left by an earlier attempt cannot be removed", error) from error


def request(given: Grants, task: launchers.Task) -> dict[str, Any]:
    """The container as the engine's API takes it: the same that launchers.docker spells."""
    cards = [str(number) for number in given.cards]
    return {
        "image": task.image,
        "command": launchers.ARGUMENTS,
        "name": task.name,
        "init": True,
        "network_mode": given.network,
        "read_only": given.read_only,
        "user": given.user,
        "privileged": given.privileged,
        "runtime": given.runtime,
        "cap_drop": ["ALL"],
        "cap_add": list(given.capabilities),
        "security_opt": list(given.security),
        "devices": [f"{node}:{node}:rwm" for node in given.nodes],
        "device_requests": _device_requests(given, cards),
        "group_add": list(given.groups),
        "ulimits": [Ulimit(name=name, soft=value, hard=value) for name, value in given.ulimits.items()],
        "environment": given.environment | task.environment,
        "pids_limit": given.pids_limit,
        "mem_limit": given.memory_bytes,
        "shm_size": given.shared_memory_bytes,
        "tmpfs": {launchers.TEMPORARY: launchers.temporary(given)},
        "mounts": _mounts(given, task),
    }


def _device_requests(given: Grants, cards: list[str]) -> list[DeviceRequest]:
    if given.cdi:
        return [DeviceRequest(driver="cdi", device_ids=list(given.cdi))]
    return [DeviceRequest(device_ids=cards, capabilities=[["gpu"]])] if given.way == "request" and cards else []


def _mounts(given: Grants, task: launchers.Task) -> list[Mount]:
    wanted = [*((path, path, "ro") for path in given.mounts), *task.mounts]
    return [Mount(target, source, type="bind", read_only=mode == "ro") for source, target, mode in wanted]


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
    late = waiter.is_alive()
    if late:
        container.stop(timeout=STOP_S)
    copier.join(STOP_S)
    return timed_out(job) if late else Outcome(_reason(container, ended))


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
