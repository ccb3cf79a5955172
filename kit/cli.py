"""`python -m kit`: every command of the vendor's side; one line on stderr and an exit code for anything wrong."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from kit import (
    __version__,
    attempt,
    baseline,
    chip,
    doctor,
    image,
    keys,
    launchers,
    nodes,
    opening,
    pack,
    plan,
    progress,
    run,
    seal,
    storage,
    trust,
    witness,
)
from kit import report as reports
from kit.errors import FAILED, KitError, unusable
from kit.lab import cli as lab
from verify.findings import Refused, Unchecked


class Parser(argparse.ArgumentParser):
    """argparse with errors of one line, each from the command that was meant."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Nothing is left for a parser above, whose usage would not list the option; KitError (2) names the nearest one."""
        known, rest = super().parse_known_args(args, namespace)
        if rest:
            meant = difflib.get_close_matches(rest[0].partition("=")[0], self._option_string_actions, n=1)
            hint = f"; did you mean '{meant[0]}'?" if meant else ""
            self.error(f"unrecognized arguments: {' '.join(rest)}{hint}")
        return known, rest

    def error(self, message: str) -> NoReturn:
        raise KitError(message, next_step=f"see {self.prog} --help")


def _parser() -> Parser:
    parser = Parser(
        prog="python -m kit",
        description="Run, record and seal benchmarks of AI accelerators; see also: python -m verify",
    )
    parser.add_argument("--version", action="version", version=f"chipassay {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for add in (
        _add_run,
        _add_seal,
        _add_pack,
        _add_keygen,
        _add_doctor,
        _add_image,
        _add_baseline,
        _add_report,
        trust.add_command,
        lab.add,
        witness.add_command,
    ):
        add(commands)
    return parser


def _add_run(commands: Any) -> None:
    sub = commands.add_parser("run", help="run a plan, seal it, and show the scores that verify computes")
    sub.add_argument("--plan", default=run.DEFAULT_PLAN, help="shipped plan or a TOML file (default: %(default)s)")
    sub.add_argument("--chip", default=run.DEFAULT_CHIP, help="folder below images/ (default: %(default)s)")
    _add_chips(sub)
    sub.add_argument("--cards", type=_numbers, default=(), metavar="N,N", help="only these accelerators (default: all of the chip)")
    sub.add_argument("--suite", nargs="+", action="extend", default=[], metavar="S", help="only these suites")
    sub.add_argument("--case", nargs="+", action="extend", default=[], metavar="GLOB", help="only cases whose id fits one of these")
    sub.add_argument("--section", choices=plan.SECTIONS, help="only this section of the report")
    sub.add_argument(
        "--isolation",
        choices=("auto", "container", "none"),
        default="auto",
        help="where cases run (default: %(default)s)",
    )
    sub.add_argument("--out", type=Path, default=Path("runs"), metavar="DIR", help="where run directories go (default: %(default)s)")
    sub.add_argument("--resume", type=Path, metavar="RUN", help="go on with a run: cases that are done are kept")
    sub.add_argument("--key", type=Path, metavar="PEM", help="Ed25519 key that signs (default: your own, made on first use)")
    sub.add_argument("--challenge", type=Path, metavar="FILE", help="a lab's challenge that the run answers")
    sub.add_argument("--anonymous", action="store_true", help="serial numbers and addresses as salted hashes, tools' own words left out")
    sub.add_argument("--witness", type=Path, metavar="DIR", help="copy checkpoints into DIR, where a witness countersigns them")
    sub.add_argument("--hosts", type=Path, metavar="FILE", help="nodes of cases on several, as `name slots=8` a line; this one first")
    sub.add_argument("--remote", metavar="TEMPLATE", help="how a command gets to {host}; without {host}, to all at once (default: ssh)")
    sub.add_argument("--rendezvous", metavar="ADDR[:PORT]", help="where ranks of several nodes meet (default: the first of --hosts)")
    sub.add_argument("--checkpoints", type=Path, metavar="DIR", help="where checkpoints are written (default: beside the runs)")
    sub.add_argument("--dry-run", action="store_true", help="print cases, image, command lines and estimates; do nothing")
    sub.add_argument("--launcher", choices=launchers.LAUNCHERS, help="with --dry-run: print what this launcher would be given")
    sub.add_argument("--json", action="store_true", help="print one JSON object on stdout instead of tables")
    sub.set_defaults(act=_run)


def _add_chips(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--chips", type=Path, metavar="DIR", help=f"folder with more chips, as {chip.FOLDERS} names it")


def _numbers(text: str) -> tuple[int, ...]:
    """`0,1` as numbers."""
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = (-1,)
    if min(numbers) < 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of card numbers like 0,1")
    return numbers


def _add_seal(commands: Any) -> None:
    sub = commands.add_parser("seal", help="seal a run as it is, e.g. after an interruption")
    sub.add_argument("run", type=Path, metavar="RUN")
    sub.add_argument("--key", type=Path, metavar="PEM", help="Ed25519 key that signs (default: your own)")
    sub.set_defaults(act=_seal)


def _add_pack(commands: Any) -> None:
    sub = commands.add_parser("pack", help="write a sealed run as one file for the lab: RUN.tar.zst")
    sub.add_argument("run", type=Path, metavar="RUN")
    sub.add_argument("--out", type=Path, metavar="FILE", help="where the archive goes (default: beside the run)")
    sub.set_defaults(act=_pack)


def _add_keygen(commands: Any) -> None:
    sub = commands.add_parser("keygen", help="make an Ed25519 key pair in DIR")
    sub.add_argument("folder", type=Path, metavar="DIR")
    sub.set_defaults(act=_keygen)


def _add_doctor(commands: Any) -> None:
    sub = commands.add_parser("doctor", help="what this machine has, what is missing, and the next step")
    _add_chips(sub)
    sub.add_argument("--json", action="store_true", help="print one JSON object")
    sub.add_argument("--lang", choices=doctor.LANGUAGES, help="language (default: the locale's)")
    sub.add_argument("--draft-chip", metavar="NAME", help="write a first NAME/chip.toml below --chips, from what is seen here")
    sub.set_defaults(act=_doctor)


def _add_image(commands: Any) -> None:
    sub = commands.add_parser("image", help="lock, wheelhouse, build, verify, pin, export or import a chip's image")
    sub.add_argument("action", choices=image.ACTIONS)
    _add_chips(sub)
    sub.add_argument("chip", metavar="CHIP", help="folder below images/")
    sub.add_argument("path", nargs="?", type=Path, metavar="FILE", help="tar file of export and import")
    sub.set_defaults(act=_image)


def _add_baseline(commands: Any) -> None:
    sub = commands.add_parser("baseline", help="make a baseline from sealed runs, show one, or compare two")
    actions = sub.add_subparsers(dest="action", required=True, metavar="ACTION", parser_class=Parser)
    one = actions.add_parser("make", help="mean and spread over sealed runs that verify")
    one.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    one.add_argument("--name", required=True, help="name of the pack: small letters, digits, dots and hyphens")
    one.add_argument("--out", type=Path, default=Path("baselines"), metavar="DIR", help="holds NAME/baseline.json (default: %(default)s)")
    one.add_argument("--policy", metavar="FILE|self", help="trust policy of the runs (default: self)")
    one.set_defaults(act=lambda args: baseline.create(args.runs, args.name, args.out, args.policy))
    two = actions.add_parser("show", help="the cells of a pack, with status and source")
    two.add_argument("name", metavar="NAME|FILE")
    two.add_argument("--all", action="store_true", help="cells without a value, too")
    two.set_defaults(act=lambda args: baseline.show(args.name, empty=args.all))
    three = actions.add_parser("diff", help="two packs side by side; exit code 1 where they differ")
    three.add_argument("first", metavar="NAME|FILE")
    three.add_argument("second", metavar="NAME|FILE")
    three.set_defaults(act=lambda args: baseline.diff(args.first, args.second))


def _add_report(commands: Any) -> None:
    sub = commands.add_parser("report", help="write the report of a result as HTML, PDF and DOCX, in English and Chinese; compare several")
    given = "run folder, result, or baseline (name or file); several are compared"
    sub.add_argument("results", type=Path, nargs="+", metavar="RUN|RESULT.json|BASELINE", help=given)
    sub.add_argument("--out", type=Path, default=Path("report"), metavar="DIR", help="where the files go (default: %(default)s)")
    sub.add_argument("--format", nargs="+", choices=reports.FORMATS, default=reports.FORMATS, help="default: all three")
    sub.add_argument("--intro", type=Path, metavar="FILE.md", help="the vendor's introduction of the chip, in Markdown")
    sub.add_argument("--audit", type=Path, metavar="FILE.json", help="what `verify audit RUN AUDIT --json` wrote, for the first run")
    sub.add_argument("--template", type=Path, metavar="FILE.docx", help="the lab's own template for DOCX")
    sub.set_defaults(act=_report)


def _options(args: argparse.Namespace) -> run.Options:
    return run.Options(
        plan=args.plan,
        chip=args.chip,
        suites=tuple(args.suite),
        case_globs=args.case,
        section=args.section,
        isolation=args.isolation,
        out=args.out,
        resume=args.resume or _shared_run(args.out),
        cards=args.cards,
        launcher=args.launcher,
        anonymous=args.anonymous,
        key=args.key,
        challenge=args.challenge,
        witness=args.witness,
        site=nodes.read(args.hosts, args.remote, args.rendezvous),
    )


def _pointer(out: Path) -> Path:
    return out / ".invocation.json"


def _shared_run(out: Path) -> Path | None:
    """The run that an earlier session of this nox invocation opened (docs/decisions/0004)."""
    token = os.environ.get("CHIPASSAY_INVOCATION")
    try:
        known = json.loads(_pointer(out).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    shared = Path(known["run"])
    return shared if token and known["token"] == token and shared.is_dir() else None


def _share_run(out: Path, path: Path) -> None:
    if token := os.environ.get("CHIPASSAY_INVOCATION"):
        _pointer(out).write_text(json.dumps({"token": token, "run": str(path)}), encoding="utf-8")


def _run(args: argparse.Namespace) -> int:
    options = _options(args)
    if args.launcher and not args.dry_run:
        raise KitError("--launcher only prints", next_step="add --dry-run")
    if args.dry_run:
        return reports.print_dry_run(run.dry_run(options), as_json=args.json)
    show = progress.make()
    path = run.execute(options, show, opened=lambda made: _share_run(options.out, made))
    return reports.show_scores(path, run.result_path(path), as_json=args.json)


def _seal(args: argparse.Namespace) -> int:
    path = run.check_run(args.run)
    key = keys.load(args.key)
    log, own = opening.again(path, key)
    try:
        seal.unseal(path)
        opening.resumed(log, own)
        attempt.end_open(log)
        seal.seal(path, plan.from_run(path / "evidence/plan.json"), log, key)
    finally:
        log.close()
    return reports.show_scores(path, run.result_path(path), as_json=False)


def _pack(args: argparse.Namespace) -> int:
    print(pack.pack(run.check_run(args.run), args.out))
    return 0


def _keygen(args: argparse.Namespace) -> int:
    print(keys.generate(args.folder))
    return 0


def _doctor(args: argparse.Namespace) -> int:
    if args.draft_chip:
        print(doctor.draft(args.draft_chip, args.chips or Path()))
        return 0
    return doctor.show(as_json=args.json, language=args.lang or doctor.users_language())


def _image(args: argparse.Namespace) -> int:
    return image.act(args.action, args.chip, args.path)


def _report(args: argparse.Namespace) -> int:
    wanted = reports.Wanted(args.out, tuple(args.format), introduction=args.intro, audit=args.audit, template=args.template)
    for page in reports.write(args.results, wanted):
        print(page)
    return 0


def _raise_interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code of design.md section 6."""
    signal.signal(signal.SIGTERM, _raise_interrupt)
    try:
        args = _parser().parse_args(argv)
        if getattr(args, "chips", None):
            os.environ[chip.FOLDERS] = os.pathsep.join(filter(None, [str(args.chips), os.environ.get(chip.FOLDERS, "")]))
        if getattr(args, "checkpoints", None):
            os.environ[storage.FOLDER] = str(args.checkpoints)
        act: Callable[[argparse.Namespace], int] = args.act
        return act(args)
    except KitError as error:
        return _failed(error)
    except KeyboardInterrupt:
        print("kit: interrupted", file=sys.stderr)
        return FAILED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Refused as bad:
        return _failed(KitError("refused", why=str(bad), next_step="python -m verify RUN shows all that is wrong", exit_code=FAILED))
    except Unchecked as stop:
        return _failed(KitError(str(stop)))
    except OSError as fault:
        return _failed(unusable("file or folder cannot be used", fault, str(fault.filename or ""), "check its path and its mode"))


def _failed(error: KitError) -> int:
    print(f"kit: {error}", file=sys.stderr)
    return error.exit_code
