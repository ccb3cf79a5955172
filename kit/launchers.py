"""Command or request by which each kind of site starts a worker in the chip's image: pure functions of chip, grants and task."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.chip import Chip
from kit.errors import KitError
from kit.grants import Grants
from kit.storage import FOLDER as CHECKPOINTS
from kit.storage import INSIDE as CHECKPOINTS_INSIDE
from kit.weights import DATA_FOLDER, DATA_INSIDE, INSIDE
from kit.weights import FOLDER as WEIGHTS

WORKER, FOLDER = "/worker.pyz", "/case"
TEMPORARY = "/tmp"  # noqa: S108 - the container's own
ARGUMENTS = [WORKER, f"{FOLDER}/case.json", FOLDER]
PYTHON = "/opt/venv/bin/python"
PLANNED = "NODE0:29400"  # what a dry run shows where no rendezvous was given


@dataclass(frozen=True, slots=True)
class Task:
    """One attempt to be started: image (name, or file for sites without an engine), worker archive, folder, weights, data.

    Of a case on several `nodes`, `processes` are those of all; `node` is the one that is started (None: the site tells each
    which it is), `endpoint` where ranks meet.
    """

    name: str
    image: str
    archive: Path
    folder: Path
    nodes: int = 1
    weights: Path | None = None
    data: Path | None = None
    checkpoints: Path | None = None
    processes: int = 1
    node: int | None = None
    endpoint: str = ""

    @property
    def file(self) -> str:
        """Name, less its ending, of the image as a file: made by hand from what `kit image export` writes."""
        return self.image.replace("/", "-").replace(":", "-")

    @property
    def mounts(self) -> list[tuple[str, str, str]]:
        """(host, container, ro or rw) of the two things that every worker gets, and of the weights, data and checkpoints of its case."""
        asked = ((self.weights, INSIDE), (self.data, DATA_INSIDE))
        named = [(str(path), f"{inside}/{path.name}", "ro") for path, inside in asked if path]
        own = [(str(self.checkpoints), CHECKPOINTS_INSIDE, "rw")] if self.checkpoints else []
        return [(str(self.archive), WORKER, "ro"), (str(self.folder), FOLDER, "rw"), *named, *own]

    @property
    def environment(self) -> dict[str, str]:
        """What a container is told besides the chip's own variables."""
        named = {
            WEIGHTS: (self.weights, INSIDE),
            DATA_FOLDER: (self.data, DATA_INSIDE),
            CHECKPOINTS: (self.checkpoints, CHECKPOINTS_INSIDE),
        }
        return {name: inside for name, (path, inside) in named.items() if path} | self.meeting

    @property
    def meeting(self) -> dict[str, str]:
        """What a worker of several nodes is told of where to meet."""
        return told(self.node, self.endpoint or PLANNED) if self.nodes > 1 else {}

    def network(self, given: Grants) -> str:
        """The host's where ranks of several nodes talk to each other, else what was granted."""
        return "host" if self.nodes > 1 else given.network


def told(node: int | None, endpoint: str) -> dict[str, str]:
    """Variables of the worker's roll call; one that the kit starts for a node dies with its standard input."""
    own = {} if node is None else {"CHIPASSAY_NODE": str(node), "CHIPASSAY_TETHER": "stdin"}
    return {"CHIPASSAY_RENDEZVOUS": endpoint} | own


def temporary(given: Grants) -> str:
    """Options of the worker's /tmp."""
    return f"rw,exec,nosuid,nodev,size={given.temporary_bytes}"


def _pairs(flag: str, values: Any) -> list[str]:
    return [part for value in values for part in (flag, value)]


def _variables(values: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in values.items()]


def _ulimits(given: Grants) -> list[str]:
    return [f"{name}={value}:{value}" for name, value in given.ulimits.items()]


def _engine_flags(given: Grants, task: Task) -> list[str]:
    """What docker and podman spell alike."""
    flags = [
        "--rm",
        *(["--interactive"] if task.node is not None else []),
        "--network",
        task.network(given),
        "--read-only",
        "--init",
        "--user",
        given.user,
        "--cap-drop",
        "ALL",
    ]
    flags += ["--privileged"] if given.privileged else []
    flags += ["--runtime", given.runtime] if given.runtime else []
    flags += _pairs("--cap-add", given.capabilities) + _pairs("--security-opt", given.security)
    flags += _pairs("--device", (*given.cdi, *given.nodes)) + _pairs("--group-add", given.groups)
    flags += _pairs("--ulimit", _ulimits(given)) + _pairs("--env", _variables(given.environment | task.environment))
    flags += ["--pids-limit", str(given.pids_limit), "--memory", str(given.memory_bytes), "--shm-size", str(given.shared_memory_bytes)]
    return [*flags, "--tmpfs", f"{TEMPORARY}:{temporary(given)}"]


def _volumes(given: Grants, task: Task) -> list[str]:
    return _pairs("--volume", [*(f"{path}:{path}:ro" for path in given.mounts), *(":".join(mount) for mount in task.mounts)])


def docker(_: Chip, given: Grants, task: Task) -> list[str]:
    """Docker's command line; the kit itself says the same through the engine's API."""
    request = ["--gpus", f'"device={",".join(map(str, given.cards))}"'] if given.way == "request" and given.cards else []
    return ["docker", "run", *request, *_engine_flags(given, task), *_volumes(given, task), task.image, *ARGUMENTS]


def podman(_: Chip, given: Grants, task: Task) -> list[str]:
    """Podman's command line, without the writable places and the files of users that it would mount of its own accord."""
    own = ["--read-only-tmpfs=false", "--passwd=false"]
    return ["podman", "run", *own, *_engine_flags(given, task), *_volumes(given, task), task.image, *ARGUMENTS]


def apptainer(chip: Chip, given: Grants, task: Task) -> list[str]:
    """Apptainer or Singularity: nothing of the host but what is bound; flags only where they exist for the chip."""
    network = [] if task.nodes > 1 else ["--net", "--network", given.network]
    flags = ["--containall", "--no-home", "--no-privs", *network, "--workdir", TEMPORARY]
    driver = chip.section("apptainer").get("flags", [])
    bound = [] if driver else [*(f"{node}:{node}" for node in given.nodes), *(f"{path}:{path}:ro" for path in given.mounts)]
    flags += driver + _pairs("--bind", [*bound, *(":".join(mount) for mount in task.mounts)])
    flags += _pairs("--env", _variables(given.environment | task.environment | (chip.visible(given.cards) if driver else {})))
    return ["apptainer", "exec", *flags, f"{task.file}.sif", PYTHON, *ARGUMENTS]


def slurm(_: Chip, given: Grants, task: Task) -> list[str]:
    """A step of Slurm with the pyxis plug-in; cards and their nodes come from Slurm and the site's own hooks."""
    mounts = [*(f"{path}:{path}:ro" for path in given.mounts), *(":".join(mount) for mount in task.mounts)]
    flags = [f"--nodes={task.nodes}", "--ntasks-per-node=1", f"--job-name={task.name}"]
    flags += [f"--gpus-per-node={len(given.cards)}"] if given.cards else []
    flags += [f"--container-image={task.file}.sqsh", f"--container-mounts={','.join(mounts)}"]
    flags += ["--no-container-mount-home", "--container-readonly"]
    return ["srun", *flags, "env", *_variables(given.environment | task.environment), PYTHON, *ARGUMENTS]


def kubernetes(chip: Chip, given: Grants, task: Task) -> dict[str, Any]:
    """An indexed Job as kubectl takes it; its device plug-in chooses the cards. KitError where chip.toml names no resource."""
    plugin = chip.section("kubernetes")
    if chip.detection and not plugin:
        raise KitError(
            "chip names no Kubernetes resource", where=f"{chip.id}/chip.toml", next_step="add a table [kubernetes] with resource and source"
        )
    limits = {"memory": str(given.memory_bytes)} | ({plugin["resource"]: str(len(given.cards) or 1)} if plugin else {})
    pod: dict[str, Any] = {"restartPolicy": "Never", "hostNetwork": task.nodes > 1, "automountServiceAccountToken": False}
    if "runtime_class" in plugin:
        pod["runtimeClassName"] = plugin["runtime_class"]
    volumes, mounts = _pod_volumes(given, task)
    box = {
        "name": "worker",
        "image": task.image,
        "args": ARGUMENTS,
        "env": [{"name": name, "value": value} for name, value in (chip.worker_environment() | task.environment).items()],
        "resources": {"limits": limits},
        "securityContext": _security(given),
        "volumeMounts": mounts,
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": task.name.lower(), "labels": {"app": "chipassay"}},
        "spec": {
            "completionMode": "Indexed",
            "completions": task.nodes,
            "parallelism": task.nodes,
            "backoffLimit": 0,
            "template": {"spec": {**pod, "containers": [box], "volumes": volumes}},
        },
    }


def _security(given: Grants) -> dict[str, Any]:
    uid, gid = map(int, given.user.split(":"))
    held = {"readOnlyRootFilesystem": given.read_only, "runAsNonRoot": True, "runAsUser": uid, "runAsGroup": gid}
    if given.privileged:
        return held | {"privileged": True}
    added = {"add": list(given.capabilities)} if given.capabilities else {}
    return held | {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"], **added}}


def _pod_volumes(given: Grants, task: Task) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    memory = {"shared": ("/dev/shm", given.shared_memory_bytes), "temporary": (TEMPORARY, given.temporary_bytes)}  # noqa: S108 - in the pod
    volumes: list[dict[str, Any]] = [
        {"name": name, "emptyDir": {"medium": "Memory", "sizeLimit": str(size)}} for name, (_, size) in memory.items()
    ]
    mounts: list[dict[str, Any]] = [{"name": name, "mountPath": path} for name, (path, _) in memory.items()]
    for index, (source, target, mode) in enumerate([*((path, path, "ro") for path in given.mounts), *task.mounts]):
        volumes.append({"name": f"host-{index}", "hostPath": {"path": source}})
        mounts.append({"name": f"host-{index}", "mountPath": target, "readOnly": mode == "ro"})
    return volumes, mounts


def bare(chip: Chip, given: Grants, task: Task) -> list[str]:
    """The vendor's own interpreter, without any container: never official."""
    return [*_bare_environment(chip, given, task), "python3", *_bare_arguments(task)]


def _bare_environment(chip: Chip, given: Grants, task: Task) -> list[str]:
    named = {name: str(path.parent) for name, path in ((WEIGHTS, task.weights), (DATA_FOLDER, task.data)) if path}
    named |= {CHECKPOINTS: str(task.checkpoints)} if task.checkpoints else {}
    return ["env", *_variables(chip.worker_environment() | chip.visible(given.cards) | named | task.meeting)]


def _bare_arguments(task: Task) -> list[str]:
    return [str(task.archive), str(task.folder / "case.json"), str(task.folder)]


def torchrun(chip: Chip, given: Grants, task: Task) -> list[str]:
    """PyTorch's own launcher, called on each node with its number: what the worker does by itself where nobody did it before."""
    address, _, port = (task.endpoint or PLANNED).rpartition(":")
    flags = ["--nnodes", str(task.nodes), "--node-rank", _number(task)]
    flags += ["--nproc-per-node", str(task.processes // task.nodes), "--master-addr", address, "--master-port", port]
    return [*_bare_environment(chip, given, task), "torchrun", *flags, *_bare_arguments(task)]


def _number(task: Task) -> str:
    return "0" if task.nodes == 1 else "NODE" if task.node is None else str(task.node)


def deepspeed(chip: Chip, given: Grants, task: Task) -> list[str]:
    """DeepSpeed's launcher, called once on the first node; it reaches the others of its hostfile by pdsh."""
    address, _, port = (task.endpoint or PLANNED).rpartition(":")
    flags = ["--hostfile", "HOSTFILE", "--num_nodes", str(task.nodes), "--num_gpus", str(task.processes // task.nodes)]
    flags += ["--master_addr", address, "--master_port", port, "--no_python", "--no_local_rank"]
    return ["deepspeed", *flags, *_bare_environment(chip, given, task), "python3", *_bare_arguments(task)]


Builder = Callable[[Chip, Grants, Task], list[str] | dict[str, Any]]
LAUNCHERS: dict[str, Builder] = {
    "docker": docker,
    "podman": podman,
    "apptainer": apptainer,
    "slurm": slurm,
    "kubernetes": kubernetes,
    "bare": bare,
    "torchrun": torchrun,
    "deepspeed": deepspeed,
}


def way(chip: Chip, launcher: str) -> str:
    """How this launcher hands the chip's cards over: Podman has no device requests, and takes CDI devices instead."""
    own = chip.container.get("way", "nodes")
    return "cdi" if launcher == "podman" and own == "request" else str(own)


def text(made: list[str] | dict[str, Any], quote: Callable[[list[str]], str]) -> str:
    """A request as JSON, which kubectl reads; a command as one types it."""
    return json.dumps(made, indent=2) if isinstance(made, dict) else quote(made)
