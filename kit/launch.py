"""Where cases run: in a container, in an environment made from the lock, or in the interpreter at hand."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kit import archive, base, container, engine, environments, grants, host, image, launchers, nodes, patches, recipe, storage, weights
from kit.chip import Chip
from kit.errors import ENVIRONMENT, FAILED, KitError
from kit.job import Isolation, Job, NodeCommand, Outcome, Runner, timed_out
from kit.plan import Plan
from verify import inside

Say = Callable[[str], None]
TERM_GRACE_S = 10
PASSED_ON = ("CHIPASSAY_RENDEZVOUS_S",)
OWN = {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}


class ProcessRunner:
    """Runs the worker as a process of its own session, with a given interpreter."""

    def __init__(self, python: Path, isolation: Isolation, variables: dict[str, str]) -> None:
        self.python = python
        self.variables = variables
        self.isolation = isolation

    def command(self, job: Job) -> list[str]:
        return [str(self.python), str(job.archive.path), str(job.folder / "case.json"), str(job.folder)]

    def node_command(self, job: Job, node: int | None, endpoint: str) -> NodeCommand:
        told = self.variables | weights.variables(job.case) | storage.variables(job.case, job.folder) | OWN | launchers.told(node, endpoint)
        told |= {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        return NodeCommand(["env", *(f"{name}={value}" for name, value in told.items()), *self.command(job)], [])

    def run(self, job: Job, tick: Callable[[], None]) -> Outcome:
        with (job.folder / "stdout.log").open("wb") as out, (job.folder / "stderr.log").open("wb") as err:
            process = subprocess.Popen(
                self.command(job),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=_environment() | self.variables | weights.variables(job.case) | storage.variables(job.case, job.folder),
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - one system call, no lock taken
            )
            try:
                return _wait(process, job, tick)
            finally:
                _end_group(process)

    def stop_leftovers(self, run_name: str) -> None:
        """Nothing to do: the kernel ends the worker with its parent."""


def _environment() -> dict[str, str]:
    """The caller's environment less Python's own switches and what puts other code before the worker's, offline for hubs."""
    judged = inside.settings()["variables"]["judged"]
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "NOX", "VIRTUAL_ENV", *judged))} | OWN


def _die_with_parent() -> None:
    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGTERM)


def _wait(process: subprocess.Popen[bytes], job: Job, tick: Callable[[], None]) -> Outcome:
    waited = 0.0
    while waited < job.time_limit_s:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = process.wait(timeout=0.5)
            return Outcome(None if code == 0 else _exit_reason(code))
        waited += 0.5
        tick()
    return timed_out(job)


def _exit_reason(code: int) -> str:
    return f"worker was killed by signal {-code}" if code < 0 else f"worker exited with {code}"


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Leave no process of the attempt behind: ask, wait a little, then insist."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=TERM_GRACE_S)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def cards(chip: Chip, numbers: Sequence[int]) -> tuple[host.Card, ...]:
    """The chosen cards of the chip; KitError where the chip or a card is not here."""
    found = host.look(chip)
    host.require(found)
    return host.choose(found, numbers)


def choose(wanted: str, plan: Plan, chip: Chip, chosen: Sequence[host.Card], say: Say) -> Runner:
    """The runner for `--isolation auto|container|none`, or `environment` for a run that was opened in one.

    `auto` falls back from a container to the locked environment only where no engine answers or no base can be had, and
    only for plans that do not require a container (design.md section 6).
    """
    if recipe.exists(chip):
        patches.check(recipe.load(chip).patches, plan.allowed_patches, plan.name)
    if wanted == "none":
        return _bare(plan, chip, chosen)
    if wanted == "environment":
        return _locked(chip, chosen, "the run was opened in an environment", say)
    try:
        identity = image.ensure(chip, say)
        _check_base(plan, chip, identity)
        return container.ContainerRunner(chip, identity, _granted(plan, chip, chosen))
    except KitError as error:
        if wanted == "container" or plan.container_required or error.exit_code != ENVIRONMENT:
            raise
        say(f"NO CONTAINER: {error}")
        return _locked(chip, chosen, str(error), say)


def _granted(plan: Plan, chip: Chip, chosen: Sequence[host.Card]) -> grants.Grants:
    writes = any(storage.FIELD in case for case in plan.cases)
    return grants.of(chip, chosen, weights=weights.granted(plan.cases), checkpoints=storage.INSIDE if writes else None)


def _check_base(plan: Plan, chip: Chip, identity: image.ImageIdentity) -> None:
    if plan.official and identity.record["base"]["kind"] == "registry" and base.unchecked(recipe.load(chip)):
        raise KitError(
            "base image was never checked",
            where=f"{chip.id}/image.toml",
            why=base.UNCHECKED,
            next_step=f"pull it, look at it, and pin it: python -m kit image pin {chip.id}",
            exit_code=FAILED,
        )


def _locked(chip: Chip, chosen: Sequence[host.Card], reason: str, say: Say) -> Runner:
    say("the run uses an isolated environment made from the hash-pinned lock; the seal and every report say so")
    made = environments.prepare(chip, say)
    isolation = Isolation("environment", reason=reason, lock=made.lock, cards=_numbers(chosen), patches=made.patches)
    return ProcessRunner(made.python, isolation, _variables(chip, chosen))


def _bare(plan: Plan, chip: Chip, chosen: Sequence[host.Card]) -> Runner:
    if plan.official or plan.container_required:
        raise KitError("plan needs a container", where=f"plan {plan.name}", next_step="leave out --isolation none")
    if recipe.exists(chip) and recipe.load(chip).patches:
        why = "patches go into images and environments that the kit makes"
        raise KitError("chip has source patches", where=chip.id, why=why, next_step="leave out --isolation none")
    reason = "asked for with --isolation none"
    isolation = Isolation("none", reason=reason, packages=environments.compare(chip), cards=_numbers(chosen))
    return ProcessRunner(Path(sys.executable), isolation, _variables(chip, chosen))


def _variables(chip: Chip, chosen: Sequence[host.Card]) -> dict[str, str]:
    return chip.worker_environment() | (chip.visible(_numbers(chosen)) if chosen else {})


def _numbers(chosen: Sequence[host.Card]) -> tuple[int, ...]:
    return tuple(card.number for card in chosen)


def shown(command: list[str]) -> str:
    """A command as one would type it."""
    return shlex.join(command)


@dataclass(frozen=True, slots=True)
class Site:
    """Where a dry run pretends to be: isolation, cards by number (none: those that are here), launcher (none: a run's own), nodes."""

    isolation: str
    numbers: tuple[int, ...] = ()
    launcher: str | None = None
    nodes: nodes.Site = nodes.ALONE


def preview(site: Site, plan: Plan, chip: Chip, case: dict[str, Any], out: Path) -> tuple[str, str | None, str]:
    """(isolation, image reference, command or request) that a case would get, without building or starting anything."""
    folder = out.resolve() / "RUN/evidence/cases" / case["id"] / "attempt-1"
    job = Job("RUN", case, 1, folder, archive.planned())
    kind = "container" if site.launcher not in {None, "bare"} else _expected_kind(site.isolation, plan)
    if site.launcher or kind == "container":
        launcher = site.launcher or "docker"
        given = grants.of(chip, planned_cards(chip, site.numbers), launchers.way(chip, launcher))
        reference = image.planned_reference(chip)
        task = replace(container.task(reference, job), endpoint=site.nodes.rendezvous)
        if job.nodes > 1 and launcher in {"docker", "podman", "bare"}:
            task = replace(task, node=0)
        made = launchers.LAUNCHERS[launcher](chip, given, task)
        return kind, reference if kind == "container" else None, launchers.text(made, shown)
    python = Path(sys.executable) if kind == "none" else environments.python_path(chip)
    runner = ProcessRunner(python, Isolation(kind), {} if job.nodes == 1 else chip.worker_environment())
    if job.nodes == 1:
        return kind, None, shown(runner.command(job))
    if nodes.missing(case, site.nodes, None):  # the hosts are not named: what node 0 would be given
        return kind, None, shown(runner.node_command(job, 0, site.nodes.rendezvous).start)
    return kind, None, "\n".join(shown(made.start) for made in nodes.NodesRunner(runner, site.nodes).commands(job))


def planned_cards(chip: Chip, numbers: Sequence[int]) -> tuple[host.Card, ...]:
    """The chosen cards; on a host that has none of the chip, the numbers are taken at their word, or card 0."""
    found = host.look(chip)
    if found.here or not chip.detection:
        return host.choose(found, numbers)
    patterns = chip.container.get("nodes_per_card", [])
    return tuple(host.Card(number, None, host.planned_nodes(patterns, number)) for number in numbers or (0,))


def _expected_kind(wanted: str, plan: Plan) -> str:
    if wanted != "auto":
        return wanted
    try:
        engine.connect()
    except KitError:
        return "container" if plan.container_required else "environment"
    return "container"
