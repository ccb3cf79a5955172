"""A lab's challenge, before a run is opened for it: does it fit, and was it used before?"""

from __future__ import annotations

import datetime
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.errors import KitError
from kit.files import write_atomic
from kit.keys import config_folder
from kit.plan import Plan
from verify import challenge
from verify.envelope import MAX_BYTES
from verify.findings import Refused
from verify.policy import format_time, parse_time
from verify.statements import Statement

FILE = challenge.FILE
USED = "challenges.json"


@dataclass(frozen=True, slots=True)
class Challenge:
    """A challenge as it came: `data` are the bytes of the file, `made` what it says."""

    data: bytes
    made: Statement


def load(path: Path) -> Challenge:
    """Read a challenge file."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise KitError("challenge cannot be read", where=str(path), why=error.strerror or "", next_step="name the lab's file") from error
    try:
        return Challenge(data, challenge.parse(data, str(path)))
    except Refused as bad:
        raise KitError("not a challenge", where=str(path), why=str(bad), next_step="ask the lab for it again") from None


def of_run(run: Path, given: Path | None) -> Challenge | None:
    """The challenge with which a run was opened; another one may not be `given` when it goes on."""
    own = run / "evidence" / FILE
    opened = load(own) if own.exists() else None
    if given is not None and (opened is None or load(given).made.sha256 != opened.made.sha256):
        raise KitError("run was opened for another challenge", where=str(run), next_step="leave out --challenge, or start a new run")
    return opened


def check(asked: Challenge, plan: Plan, chip_id: str, now: datetime.datetime) -> None:
    """Refuse to open a run that the challenge does not ask for, or a second one for the same challenge."""
    said = asked.made.predicate
    if asked.made.subject["plan.json"] != plan.sha256():
        raise _misfit("another plan", f"plan {plan.name} has SHA-256 {plan.sha256()}", "--plan with the plan that the lab named")
    if said["chip"] != chip_id:
        raise _misfit("another chip", f"it asks for {said['chip']}", f"--chip {said['chip']}")
    start, end = parse_time(said["notBefore"]), parse_time(said["notAfter"])
    if not start <= now <= end:
        raise _misfit("another time", f"it is valid from {format_time(start)} to {format_time(end)}", "ask the lab for a new one")
    if (used := _used().get(asked.made.sha256)) is not None:
        raise KitError("challenge was used before", where=f"run {used}", next_step="go on with --resume, or ask the lab for a new one")


def _misfit(what: str, why: str, next_step: str) -> KitError:
    return KitError(f"challenge asks for {what}", why=why, next_step=next_step)


def remember(asked: Challenge, run_name: str) -> None:
    """Note that a run was opened for the challenge."""
    folder = config_folder()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomic(folder / USED, json.dumps(_used() | {asked.made.sha256: run_name}, indent=1, sort_keys=True).encode() + b"\n")


def _used() -> dict[str, Any]:
    try:
        known: dict[str, Any] = json.loads((config_folder() / USED).read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise KitError("list of used challenges is damaged", where=str(config_folder() / USED), next_step="restore it") from error
    return known
