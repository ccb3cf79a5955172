"""`python -m verify RUN`: reads arguments, prints the table or result.json, and answers by exit code.

0 verified, 1 refused, 2 could not check or misuse; what is wrong with the command is one line on stderr.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from verify import archive, given, policy, profile, table
from verify.findings import Refused, Unchecked
from verify.replay import replay
from verify.result import Result
from verify.scoring import baseline
from verify.scoring.attach import attach, known

REFUSED, MISUSE = 1, 2


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Unchecked(message, next_step="see python -m verify --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m verify",
        description="Replay a sealed run: check seal, log and files, and recompute every score.",
        epilog="exit code: 0 verified, 1 refused, 2 could not check",
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="run directory, or RUN.tar.zst as `kit pack` writes it")
    parser.add_argument(
        "--policy", metavar="FILE|self", help="trust policy; `self` takes the run's own key and shows integrity, not origin"
    )
    parser.add_argument(
        "--profile", metavar="NAME", default=profile.DEFAULT, help="scoring profile below baselines/profiles (default: %(default)s)"
    )
    parser.add_argument(
        "--against",
        metavar="NAME",
        action="append",
        help="baseline to score against, or profile to compare with, by name; may be given again",
    )
    parser.add_argument("--baseline", metavar="FILE", type=Path, action="append", help="baseline to score against, from a file")
    parser.add_argument("--rows", metavar="TABLE", action="append", help="show the rows of a table of the report; `all` for every one")
    parser.add_argument("--json", metavar="FILE|-", help="write result.json; `-` prints it instead of the table")
    parser.add_argument("--witness", metavar="FILE", type=Path, help="cosigned checkpoints as the witness keeps them")
    parser.add_argument(
        "--seen", metavar="FILE", type=Path, help="index of series of earlier runs: compare with it, and add this run to it"
    )
    parser.add_argument("--at", metavar="TIME", help="time at which keys must be valid, like 2026-01-31T12:00:00Z (default: now)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    try:
        return _verify(list(sys.argv[1:] if argv is None else argv))
    except Unchecked as stop:
        print(f"verify: {stop}", file=sys.stderr)
        return MISUSE
    except Refused as stop:
        print(f"verify: {stop}; get that file from whoever signs it: nothing was verified by it", file=sys.stderr)
        return REFUSED
    except BrokenPipeError:
        return MISUSE
    except OSError as fault:
        said = Unchecked("could not check", where=str(fault.filename or ""), why=fault.strerror or "", next_step=given.HELP)
        print(f"verify: {said}", file=sys.stderr)
        return MISUSE


def _verify(argv: list[str]) -> int:
    if argv[:1] == ["audit"]:
        from verify import audit_cli

        return audit_cli.run_audit(argv[1:], _time)
    if argv[:1] == ["publication"]:
        from verify import audit_cli

        return audit_cli.run_publication(argv[1:], _time)
    options = _parser().parse_args(argv)
    target = given.target(options.json, [options.run])
    given.trust(options.policy)
    given.index(options.seen)
    packs = [baseline.read(path) for path in options.baseline or []]
    known(options.against or [])
    table.check(profile.load(options.profile), options.rows or [])
    result = _replayed(options)
    attach(result, options.profile, options.against, packs)
    _print(result, to_stdout=options.json == given.STDOUT, target=target, rows=options.rows or [])
    return result.exit_code


def _replayed(options: argparse.Namespace) -> Result:
    """The run in a folder, or unpacked from an archive; an archive that breaks a rule is refused like a run."""
    extra: dict[str, Any] = {"witnessed": given.cosigned(options.witness), "index": options.seen}
    if not options.run.name.endswith(archive.SUFFIX) or options.run.is_dir():
        return replay(options.run, options.policy, _time(options.at), **extra)
    try:
        with archive.unpacked(options.run) as run:
            return replay(run, options.policy, _time(options.at), **extra)
    except Refused as bad:
        return Result(findings=[bad.finding])


def _time(text: str | None) -> Any:
    try:
        return None if text is None else policy.parse_time(text)
    except ValueError:
        raise Unchecked("--at is not a time", where=text or "", next_step="write it like 2026-01-31T12:00:00Z") from None


def _print(result: Result, *, to_stdout: bool, target: Path | None, rows: list[str]) -> None:
    document = result.document()
    if target is not None:
        given.write(target, _text(document))
    print(_text(document) if to_stdout else table.render(document, rows), flush=True)


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=1, sort_keys=True)
