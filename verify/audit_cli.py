"""`python -m verify audit RUN AUDIT` and `python -m verify publication RESULT`: the same for a lab's audit and its result."""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from verify import audit, chain, given, policy, publication
from verify.audit import Outcome
from verify.findings import Unchecked

EXIT = {"verified": 0, "refused": 1, "unchecked": 2}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Unchecked(message, next_step=f"see {self.prog} --help")


def _audit_parser() -> _Parser:
    parser = _Parser(
        prog="python -m verify audit",
        description="Check a lab's audit of a run from files alone: signatures, order, sample, the lab's runs, the decision.",
        epilog="exit code: 0 the audit holds and says pass; 1 refused, or it says fail; 2 could not check, or it is partial",
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="the vendor's run directory")
    parser.add_argument("audit", metavar="AUDIT", type=Path, help="the folder that the lab handed out")
    return _common(parser)


def _publication_parser() -> _Parser:
    parser = _Parser(
        prog="python -m verify publication",
        description="Check a published result: the run, its audit, the scores, and what binds them.",
        epilog="exit code: 0 the result holds; 1 refused or withdrawn; 2 could not check, or the status list is stale",
    )
    parser.add_argument("result", metavar="RESULT", type=Path, help="the folder that was published")
    parser.add_argument("--status", metavar="FILE", type=Path, help="status list that must show that the publication stands")
    return _common(parser)


def _common(parser: _Parser) -> _Parser:
    parser.add_argument(
        "--policy", metavar="FILE|self", help="trust policy; `self` takes the folders' own keys and shows integrity, not origin"
    )
    parser.add_argument("--json", metavar="FILE|-", help="write what was found; `-` prints it instead of the lines")
    parser.add_argument("--at", metavar="TIME", help="time at which keys must be valid, like 2026-01-31T12:00:00Z (default: now)")
    return parser


def run_audit(argv: Sequence[str], time: Callable[[str | None], datetime.datetime | None]) -> int:
    """`verify audit`; returns the exit code."""
    options = _audit_parser().parse_args(list(argv))
    given.target(options.json, [options.run, options.audit])
    at, trust = _trust(options, time)
    return _show(audit.audit(options.run, options.audit, trust, at, options.policy), options)


def run_publication(argv: Sequence[str], time: Callable[[str | None], datetime.datetime | None]) -> int:
    """`verify publication`; returns the exit code."""
    options = _publication_parser().parse_args(list(argv))
    given.target(options.json, [options.result])
    at, trust = _trust(options, time)
    if options.status is not None:
        given.sealed(options.status, "status list", "get it from the lab")
    outcome = publication.check(options.result, trust, at, options.policy)
    if options.status is not None and "publication" in outcome.sha256:
        status = publication.open_status(options.status, trust, at)
        outcome.add(publication.standing(status, outcome.sha256["publication"]))
    told = [_numbers(options.result, outcome, options.policy or policy.SELF)] if outcome.verdict != "refused" else []
    return _show(outcome, options, told)


def _numbers(result: Path, outcome: Outcome, source: str) -> str:
    """What was recomputed, and the command that shows it."""
    metrics, cases, scores = publication.counted(result)
    run = shlex.join(["python", "-m", "verify", str(result / publication.RUN / outcome.run), "--policy", source])
    numbers = f"{metrics} metrics of {cases} cases and {scores} scores of sections"
    return f"recomputed from the events and equal to {publication.RESULT}: {numbers}; all of them: {run}"


def _trust(options: argparse.Namespace, time: Callable[[str | None], datetime.datetime | None]) -> tuple[datetime.datetime, policy.Policy]:
    at = time(options.at) or datetime.datetime.now(datetime.UTC)
    given.trust(options.policy)
    return at, chain.load(options.policy, at)


def document(outcome: Outcome) -> dict[str, Any]:
    """What --json writes; `audit` is the lab's statement once its signatures hold."""
    return {
        "schemaVersion": 1,
        "verdict": outcome.verdict,
        "run": outcome.run or None,
        "statements": outcome.sha256,
        "audit": outcome.stated,
        "findings": [finding.to_dict() for finding in outcome.findings],
    }


def _show(outcome: Outcome, options: argparse.Namespace, told: Sequence[str] = ()) -> int:
    text = json.dumps(document(outcome), indent=1, sort_keys=True)
    if options.json not in {None, given.STDOUT}:
        given.write(Path(options.json), text)
    print(text if options.json == given.STDOUT else "\n".join(lines(outcome, told)), flush=True)
    return EXIT[outcome.verdict]


def lines(outcome: Outcome, told: Sequence[str] = ()) -> list[str]:
    """What a person reads: the audit in short, findings, what else is told, the verdict last."""
    shown = []
    if outcome.stated is not None:
        said = outcome.stated
        shown.append(f"audit of {outcome.run}: {said['verdict']}")
        shown.append(
            f"sample: {', '.join(said['sample'])}; by choice: {', '.join(said['chosen']) or 'none'}; runs of the lab: {len(said['runs'])}"
        )
        for name, stage in said["stages"].items():
            if stage is not None:
                mean = stage["mean"]
                shown.append(
                    f"{name}: mean log ratio {mean['meanLogRatio']} over {mean['cases']} cases, limit {mean['limit']}: {mean['verdict']}"
                )
                shown += [
                    f"  {one['id']} {one['metric']}: vendor {one['vendor']}, lab {' '.join(one['lab']) or 'none'}, "
                    f"log ratio {one['logRatio']}, tolerance {one['tolerance']}: {one['verdict']}"
                    for one in stage["cases"]
                ]
        shown += said["reasons"]
    shown += [f"{finding.severity}: {finding}" for finding in outcome.findings]
    return [*shown, *told, f"verdict: {outcome.verdict}", *_next(outcome)]


def _next(outcome: Outcome) -> list[str]:
    """Where only origin is open: how to close it."""
    open_ends = {finding.rule for finding in outcome.findings} if outcome.verdict == "unchecked" else set()
    if open_ends & {"origin.unchecked", "audit.partial"} != {"origin.unchecked"}:
        return []
    return ["next: --policy FILE, the trust policy that names lab and vendor; --policy self shows integrity alone, and no origin"]
