"""A plan executed once: opens or resumes a run directory, tries the cases, seals, and lets `verify` compute the scores."""

from __future__ import annotations

import contextlib
import datetime
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kit import (
    archive,
    attempt,
    challenge,
    chip,
    environment,
    heartbeat,
    history,
    inventory,
    job,
    keys,
    launch,
    nodes,
    opening,
    outbox,
    plan,
    progress,
    record,
    seal,
    storage,
    telemetry,
)
from kit.errors import ENVIRONMENT, FAILED, MISUSE, KitError
from kit.files import write_atomic
from verify.challenge import handed
from verify.findings import Refused
from verify.strict import canonical, loads

DEFAULT_PLAN = "smoke"
DEFAULT_CHIP = "cpu"
LEAST_FREE_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Options:
    """What `kit run` was asked for."""

    plan: str = DEFAULT_PLAN
    chip: str = DEFAULT_CHIP
    suites: tuple[str, ...] = ()
    case_globs: Sequence[str] = ()
    section: str | None = None
    isolation: str = "auto"
    out: Path = Path("runs")
    resume: Path | None = None
    cards: tuple[int, ...] = ()
    launcher: str | None = None
    anonymous: bool = False
    key: Path | None = None
    only: tuple[str, ...] = ()
    rerun: bool = False  # by the lab, which runs for one challenge as often as an audit asks, after the vendor's time
    challenge: Path | None = None
    witness: Path | None = None
    site: nodes.Site = nodes.ALONE


@dataclass(slots=True)
class Session:
    """Everything one `kit run` holds while it goes on."""

    run: Path
    plan: plan.Plan
    log: record.RunLog
    key: Ed25519PrivateKey
    runner: job.Runner
    archive: archive.Archive
    show: progress.Progress
    chip: chip.Chip
    asked: challenge.Challenge | None
    missing: dict[str, str]


class Interrupted(KitError):
    """Ctrl-C or SIGTERM: the run can be resumed."""

    def __init__(self, run: Path) -> None:
        super().__init__(
            "run was interrupted",
            where=str(run),
            next_step=f"go on with --resume {run}, or seal it as it is: python -m kit seal {run}",
            exit_code=FAILED,
        )


def dry_run(options: Options) -> list[dict[str, Any]]:
    """Per case what would be done: id, suite, image, command, estimate in seconds (None when never run here)."""
    resolved = plan.from_run(_plan_file(options.resume)) if options.resume else plan.load(options.plan)
    made = chip.load(options.chip)
    site = launch.Site(options.isolation, options.cards, options.launcher, options.site)
    rows = []
    for case in plan.select(resolved, options.suites, options.case_globs, options.section):
        kind, image_name, command = launch.preview(site, resolved, made, case, options.out)
        rows.append(
            {
                "case": case["id"],
                "suite": case["suite"],
                "section": case["section"],
                "isolation": kind,
                "image": image_name,
                "command": command,
                "estimate_s": history.estimate_s(case, kind),
                "time_limit_s": case["time_limit_s"],
            }
        )
    return rows


def execute(options: Options, show: progress.Progress, opened: Callable[[Path], None] = lambda _: None) -> Path:
    """Run the selected cases that are not done yet, seal, and return the run directory; `opened` hears of it first."""
    with _session(options, show) as session:
        opened(session.run)
        selected = plan.select(session.plan, options.suites, options.case_globs, options.section, options.only)
        if not selected:
            show.say(f"plan {session.plan.name} has no such case in section {options.section}: nothing to run")
        try:
            _try_cases(session, selected)
        except KeyboardInterrupt as error:
            raise Interrupted(session.run) from error
        seal.seal(session.run, session.plan, session.log, session.key)
        return session.run


@contextlib.contextmanager
def _session(options: Options, show: progress.Progress) -> Iterator[Session]:
    key = keys.load(options.key)
    made = archive.build()
    if options.resume:
        run = check_run(options.resume)
        resolved = plan.from_run(_plan_file(run))
        chip_id, wanted, numbers = _as_opened(run)
    else:
        resolved, chip_id, wanted, numbers = plan.load(options.plan), options.chip, options.isolation, options.cards
    asked = _asked(options, resolved, chip_id)
    product = chip.load(chip_id)
    chosen = launch.cards(product, numbers)
    missing = _missing(options, resolved, len(chosen) if product.detection else None)
    storage.check()
    if options.witness is not None:
        outbox.check(options.witness)
    if options.resume is None:
        _check_out(options.out)
    runner = launch.choose(wanted, resolved, product, chosen, show.say)
    if any(case.get("nodes", 1) > 1 for case in resolved.cases):
        runner = nodes.NodesRunner(runner, options.site)
    if options.resume is None:
        run = _new_run(options.out, resolved, product.id)
    facts = {} if options.resume else inventory.document(product, runner.isolation, made, anonymous=options.anonymous)
    log = _open_log(run, resolved, facts, key, runner, made, asked, resumed=options.resume is not None)
    if options.witness is not None:
        log.on_checkpoint = outbox.Outbox(options.witness, run, log.public_pem(), show.say)
        if log.last_note:
            log.on_checkpoint(log.last_note)
    show.say(f"run {run}")
    try:
        yield Session(run, resolved, log, key, runner, made, show, product, asked, missing)
    finally:
        log.close()


def _missing(options: Options, resolved: plan.Plan, cards: int | None) -> dict[str, str]:
    """Why selected cases cannot run here, by id; KitError where that leaves none."""
    selected = plan.select(resolved, options.suites, options.case_globs, options.section, options.only)
    found = {str(case["id"]): reason for case in selected if (reason := nodes.missing(case, options.site, cards))}
    if selected and len(found) == len(selected):
        first, reason = next(iter(found.items()))
        raise KitError(
            f"none of the {len(selected)} selected cases can run here",
            where=first,
            why=reason,
            next_step="choose cases with --case, or another plan; see: python -m kit doctor",
            exit_code=ENVIRONMENT,
        )
    return found


def _asked(options: Options, resolved: plan.Plan, chip_id: str) -> challenge.Challenge | None:
    """The challenge that the run answers: given now and fitting, or the one with which it was opened."""
    if options.resume:
        return challenge.of_run(options.resume, options.challenge)
    if options.challenge is None:
        return None
    asked = challenge.load(options.challenge)
    if not options.rerun:
        challenge.check(asked, resolved, chip_id, datetime.datetime.now(datetime.UTC))
    return asked


def check_run(run: Path) -> Path:
    """The path itself if it is a run directory of ours, else a KitError."""
    if not run.is_dir():
        raise KitError("run directory does not exist", where=str(run), next_step="name a folder below runs/")
    if not (run / "evidence/plan.json").is_file() or not (run / "runlog/entries.jsonl").is_file():
        raise KitError(
            "not a run directory",
            where=str(run),
            why="evidence/plan.json or runlog/entries.jsonl is missing",
            next_step="name a folder below runs/",
        )
    return run


def _plan_file(run: Path) -> Path:
    return check_run(run) / "evidence/plan.json"


def _as_opened(run: Path) -> tuple[str, str, tuple[int, ...]]:
    """Chip id, --isolation value and cards with which the run was opened: a run never changes them."""
    path = run / "evidence/environment.json"
    try:
        facts = loads(path.read_bytes())
        wanted = {"container": "container", "environment": "environment", "none": "none"}[facts["isolation"]["kind"]]
        return facts["chip"]["id"], wanted, tuple(facts["chip"]["cards"])
    except (OSError, Refused, KeyError, TypeError) as fault:
        step = "go on with the version of the kit that opened the run, or start a new one"
        raise KitError("run cannot go on", where=str(path), why=f"{type(fault).__name__}: {fault}", next_step=step) from None


def _check_out(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KitError(
            "output folder cannot be made",
            where=str(out),
            why=error.strerror or "",
            next_step="choose another with --out",
            exit_code=MISUSE if isinstance(error, FileExistsError | NotADirectoryError) else ENVIRONMENT,
        ) from error
    probe = out / f".probe-{os.getpid()}"
    try:
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        raise KitError(
            "output folder cannot be written",
            where=str(out),
            why=error.strerror or "",
            next_step="choose another with --out",
            exit_code=ENVIRONMENT,
        ) from error
    if (free := environment.free_bytes(out)) < LEAST_FREE_BYTES:
        raise KitError(
            "output folder is full",
            where=str(out),
            why=f"{free} bytes are free, {LEAST_FREE_BYTES} are needed",
            next_step="free space or choose another with --out",
            exit_code=ENVIRONMENT,
        )


def _new_run(out: Path, resolved: plan.Plan, chip_id: str) -> Path:
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    return out / f"{resolved.name}-{chip_id}-{stamp}-{secrets.token_hex(3)}"


def _open_log(
    run: Path,
    resolved: plan.Plan,
    facts: dict[str, Any],
    key: Ed25519PrivateKey,
    runner: job.Runner,
    made: archive.Archive,
    asked: challenge.Challenge | None,
    *,
    resumed: bool,
) -> record.RunLog:
    if not resumed:
        return opening.create(run, resolved, facts, key, runner.isolation, made, asked)
    log, own = opening.again(run, key)
    if log.entries[0]["worker_sha256"] != made.sha256:
        log.close()
        raise KitError(
            "the worker changed since the run was opened",
            where=str(run),
            next_step="check out the kit's earlier version, or start a new run",
        )
    runner.stop_leftovers(run.name)
    seal.unseal(run)
    opening.resumed(log, own)
    attempt.end_open(log)
    return log


def _try_cases(session: Session, selected: Sequence[plan.Case]) -> None:
    tried = record.attempts(session.log.entries)
    pending = [case for case in selected if seal.state_of(tried.get(case["id"], [])) != "done"]
    for case in pending:
        if reason := session.missing.get(case["id"]):
            session.show.say(f"NOT RUN {case['id']}: {reason}")
    pending = [case for case in pending if case["id"] not in session.missing]
    for index, case in enumerate(pending, start=1):
        kind = session.runner.isolation.kind
        session.show.case_start(case["id"], index, len(pending), history.estimate_s(case, kind))
        begin = time.monotonic()
        state, reason = _attempt(session, case, len(tried.get(case["id"], [])) + 1)
        session.show.case_end(state, reason)
        if state == "done":
            history.remember(case, kind, time.monotonic() - begin)


def _attempt(session: Session, case: plan.Case, number: int) -> tuple[str, str | None]:
    """One attempt, logged from start to end whatever happens; returns its state and reason."""
    folder = session.run / "evidence/cases" / case["id"] / f"attempt-{number}"
    session.log.append("case-start", case=case["id"], attempt=number)
    folder.mkdir(parents=True)
    write_atomic(folder / "case.json", canonical(handed(case, number, session.asked.made if session.asked else None)) + b"\n")
    task = job.Job(session.run.name, case, number, folder, session.archive)
    state: str = "interrupted"
    reason: str | None = "stopped by the user"
    heart = heartbeat.Heart(session.log, folder)

    def tick() -> None:
        heart.tick()
        session.show.tick(attempt.recorded_bytes(folder))

    try:
        storage.prepare(case, folder)
        with telemetry.sampling(session.chip.folder, folder):
            outcome = session.runner.run(task, tick)
        state, reason = attempt.state_of(folder, outcome)
        if state == "done" or not storage.continues(case):
            storage.clear(case, folder)
    except KitError as error:
        state, reason = "failed", str(error)
        if error.exit_code == ENVIRONMENT:
            raise
    finally:
        attempt.end(session.log, case["id"], number, state, reason)
    return state, reason


def summary(run: Path) -> dict[str, Any]:
    """What --json prints besides the result: where things are."""
    return {"run": str(run), "result": str(result_path(run))}


def result_path(run: Path) -> Path:
    """result.json stands beside the run: nothing may be added below a sealed run."""
    return run.with_name(f"{run.name}.result.json")
