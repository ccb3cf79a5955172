"""Where a case runs: in a container, in an environment made from the lock, or in the interpreter at hand.

A runner knows how it isolates (for the seal), which command it would run (for --dry-run), and runs one attempt.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from kit import container, environments, image
from kit.archive import Archive
from kit.chip import Chip
from kit.errors import KitError
from kit.plan import Plan

Say = Callable[[str], None]
TERM_GRACE_S = 10


@dataclass(frozen=True, slots=True)
class Job:
    """One attempt: the worker reads `case.json` in `folder` and writes its events there."""

    run_name: str
    case: dict[str, Any]
    attempt: int
    folder: Path
    archive: Archive

    @property
    def time_limit_s(self) -> int:
        return int(self.case["time_limit_s"])


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended: `reason` is None when the worker exited with 0."""

    reason: str | None


@dataclass(frozen=True, slots=True)
class Isolation:
    """What is sealed about where a run took place."""

    kind: str
    reason: str | None = None
    image: dict[str, Any] | None = None
    lock: dict[str, Any] | None = None
    grants: dict[str, Any] = field(default_factory=dict)
    packages: dict[str, Any] | None = None


class Runner(Protocol):
    """A way to run cases."""

    isolation: Isolation

    def command(self, job: Job) -> list[str]: ...
    def run(self, job: Job, tick: Callable[[], None]) -> Outcome: ...
    def stop_leftovers(self, run_name: str) -> None: ...


class ProcessRunner:
    """Runs the worker as a process of its own session, with a given interpreter."""

    def __init__(self, python: Path, isolation: Isolation) -> None:
        self.python = python
        self.isolation = isolation

    def command(self, job: Job) -> list[str]:
        return [str(self.python), str(job.archive.path), str(job.folder / "case.json"), str(job.folder)]

    def run(self, job: Job, tick: Callable[[], None]) -> Outcome:
        with (job.folder / "stdout.log").open("wb") as out, (job.folder / "stderr.log").open("wb") as err:
            process = subprocess.Popen(
                self.command(job),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=_environment(),
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )  # noqa: PLW1509
            try:
                return _wait(process, job.time_limit_s, tick)
            finally:
                _end_group(process)

    def stop_leftovers(self, run_name: str) -> None:
        """Nothing to do: the kernel ends the worker with its parent."""


def _environment() -> dict[str, str]:
    """The caller's environment less Python's own switches, offline for hubs."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "NOX", "VIRTUAL_ENV"))}
    return kept | {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def _die_with_parent() -> None:
    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGTERM)


def _wait(process: subprocess.Popen[bytes], limit_s: int, tick: Callable[[], None]) -> Outcome:
    waited = 0.0
    while waited < limit_s:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = process.wait(timeout=0.5)
            return Outcome(None if code == 0 else _exit_reason(code))
        waited += 0.5
        tick()
    return Outcome(f"time limit of {limit_s} s reached")


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


def choose(wanted: str, plan: Plan, chip: Chip, say: Say) -> Runner:
    """The runner for `--isolation auto|container|none`; design.md section 6 has the rule."""
    if wanted == "none":
        if plan.official:
            raise KitError(
                "plan counts officially and needs a container",
                where=f"plan {plan.name}",
                next_step="leave out --isolation none",
            )
        return _bare(chip)
    try:
        container.engine()
    except KitError as error:
        if wanted == "container" or plan.container_required:
            raise
        say(f"NO CONTAINER: {error}")
        return _locked(chip, str(error), say)
    return container.ContainerRunner(chip, image.ensure(chip, say))


def _locked(chip: Chip, reason: str, say: Say) -> Runner:
    say("the run uses an isolated environment made from the hash-pinned lock; the seal and every report say so")
    made = environments.prepare(chip, say)
    isolation = Isolation("environment", reason=reason, lock={"file": made.lock_file, "sha256": made.lock_sha256})
    return ProcessRunner(made.python, isolation)


def _bare(chip: Chip) -> Runner:
    python = Path(sys.executable)
    isolation = Isolation("none", reason="asked for with --isolation none", packages=environments.compare(chip, python))
    return ProcessRunner(python, isolation)


def shown(command: list[str]) -> str:
    """A command as one would type it."""
    return shlex.join(command)


def preview(wanted: str, plan: Plan, chip: Chip, case: dict[str, Any]) -> tuple[str, str | None, list[str]]:
    """(isolation, image reference, command) that a case would get, without building or starting anything."""
    folder = Path("RUN/evidence/cases") / case["id"] / "attempt-1"
    job = Job("RUN", case, 1, folder, Archive(Path("worker.pyz"), ""))
    kind = _expected_kind(wanted, plan)
    if kind == "container":
        reference = image.reference(chip)
        return kind, reference, container.command(chip, reference, job)
    python = Path(sys.executable) if kind == "none" else environments.python_path(chip)
    return kind, None, ProcessRunner(python, Isolation(kind)).command(job)


def _expected_kind(wanted: str, plan: Plan) -> str:
    if wanted != "auto":
        return wanted
    try:
        container.engine()
    except KitError:
        return "container" if plan.container_required else "environment"
    return "container"
