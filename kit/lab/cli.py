"""`python -m kit lab …`: the commands of an audit, in the order in which a lab types them."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kit import chip, keys, progress, run, statements
from kit.errors import FAILED, KitError, unusable
from kit.files import write_atomic
from kit.lab import calibrate, issue, publish, rerun
from kit.lab.rerun import Task
from verify import audit, given, policy
from verify.findings import Refused, Unchecked

Add = Callable[[Any], None]
DONE = {"pass": 0, "fail": FAILED, "partial": 2}
NEXT = {
    "pass": "publish it: python -m kit lab publish RUN --out RESULT",
    "fail": "hand that folder to the vendor; docs/audit.md, 'After a failed audit', says what follows",
    "partial": "mend what could not run, then go on with the same command",
}  # by verdict


def add(commands: Any) -> None:
    """`kit lab` and its own commands."""
    lab = commands.add_parser("lab", help="the lab's side: challenge, receipt, reveal, audit, publish (see docs/audit.md)")
    own = lab.add_subparsers(dest="action", required=True, metavar="COMMAND", parser_class=type(lab))
    for one in (_challenge, _receipt, _reveal, _audit, _sign, _publish, _withdraw, _status, _calibrate):
        one(own)


def _sub(own: Any, name: str, act: Callable[[argparse.Namespace], int], text: str) -> Any:
    sub = own.add_parser(name, help=text, description=text)
    sub.add_argument("--folder", type=Path, default=Path("lab"), metavar="DIR", help="the lab's own folder (default: %(default)s)")
    sub.add_argument("--key", type=Path, action="append", metavar="PEM", help="key that signs; twice for two persons (default: your own)")
    sub.set_defaults(act=lambda args: _guarded(act, args))
    return sub


def _guarded(act: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    try:
        return act(args)
    except Refused as bad:
        raise KitError("refused", why=str(bad), next_step="docs/audit.md says what its rules ask for", exit_code=FAILED) from None
    except Unchecked as stop:
        raise KitError(str(stop)) from None


def _keys(args: argparse.Namespace) -> list[Ed25519PrivateKey]:
    return [keys.load(path) for path in args.key or [None]]


def _chips(sub: Any) -> None:
    sub.add_argument("--chips", type=Path, metavar="DIR", help=f"folder with more chips, as {chip.FOLDERS} names it")


def _policy(sub: Any) -> None:
    sub.add_argument("--policy", metavar="FILE|self", help="trust policy; `self` is an exercise without one")


def _run(sub: Any) -> None:
    sub.add_argument("run", type=Path, metavar="RUN", help="the vendor's sealed run directory")


def _challenge(own: Any) -> None:
    sub = _sub(own, "challenge", _do_challenge, "ask a vendor for one run of one plan, and commit to a secret that will draw the sample")
    sub.add_argument("--plan", default=run.DEFAULT_PLAN, help="shipped plan or a file (default: %(default)s)")
    sub.add_argument("--chip", default=run.DEFAULT_CHIP, help="chip under test (default: %(default)s)")
    _chips(sub)
    sub.add_argument("--vendor", required=True, metavar="PARTY", help="vendor that is asked, as the trust policy names it")
    sub.add_argument("--party", required=True, metavar="PARTY", help="your lab, as the trust policy names it")
    sub.add_argument("--tolerances", default="provisional", metavar="NAME|FILE", help="tolerance table (default: %(default)s)")
    sub.add_argument("--k", nargs="+", action="extend", default=[], metavar="SUITE[:GLOB]=K",
                     help=f"cases to draw of a suite, or of a stratum of its own ({issue.DEFAULT_K} a suite unless named)")  # fmt: skip
    sub.add_argument("--run-days", type=_count, default=30, metavar="N", help="days in which the run must end (default: %(default)s)")
    sub.add_argument("--audit-days", type=_count, default=60, metavar="N", help="days after that for the audit (default: %(default)s)")
    sub.add_argument("--max-attempts", type=_count, default=3, metavar="N", help="attempts that a case may have (default: %(default)s)")
    sub.add_argument(
        "--image",
        nargs="+",
        type=_like(r"sha256:[0-9a-f]{64}"),
        action="extend",
        default=[],
        metavar="DIGEST",
        help="config digests that are allowed (default: any)",
    )
    sub.add_argument(
        "--kit",
        nargs="+",
        type=_like(r"[0-9a-f]{64}"),
        action="extend",
        default=[],
        metavar="DIGEST",
        help="kit tree digests that are allowed (default: any)",
    )
    _policy(sub)


def _like(pattern: str) -> Callable[[str], str]:
    """A type of option: text that fits the pattern."""

    def fits(text: str) -> str:
        if re.fullmatch(pattern, text) is None:
            raise argparse.ArgumentTypeError(f"'{text}' is no digest: {pattern}")
        return text

    return fits


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 3650:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number from 1 to 3650")
    return int(text)


def _do_challenge(args: argparse.Namespace) -> int:
    ask = issue.Ask(
        plan=args.plan, chip=args.chip, vendor=args.vendor, party=args.party, folder=args.folder, policy=args.policy,
        tolerances=args.tolerances, strata=tuple(args.k), run_days=args.run_days, audit_days=args.audit_days,
        max_attempts=args.max_attempts, images=tuple(args.image), kits=tuple(args.kit),
    )  # fmt: skip
    made = issue.challenge(ask, _keys(args)[0])
    print(
        f"challenge {made.challenge.sha256}\nfor the vendor: {made.audit / audit.FILES['challenge']}\nfor nobody: {made.folder / 'secret'}"
    )
    return 0


def _receipt(own: Any) -> None:
    sub = _sub(own, "receipt", _do_receipt, "verify a run that answers a challenge, then sign that it was received")
    sub.add_argument("--timestamp", type=Path, metavar="FILE", help="RFC 3161 response on RUN/run.dsse.json, kept and named by the receipt")
    _run(sub)
    _policy(sub)


def _do_receipt(args: argparse.Namespace) -> int:
    print(f"for the vendor: {issue.receipt(args.folder, args.run, _keys(args)[0], args.policy, args.timestamp)}")
    return 0


def _reveal(own: Any) -> None:
    _run(_sub(own, "reveal", _do_reveal, "open the commitment, after the receipt; prints r and the sample"))


def _do_reveal(args: argparse.Namespace) -> int:
    made, sample = issue.reveal(args.folder, args.run, _keys(args)[0])
    print("\n".join([f"r {made.read('reveal').predicate['r']}", *(f"sample {name}" for name in sample)]))
    return 0


def _audit(own: Any) -> None:
    sub = _sub(own, "audit", _do_audit, "run the sample again, and what it asks for, then sign the verdict; goes on where it was stopped")
    _run(sub)
    _policy(sub)
    sub.add_argument("--choose", nargs="+", action="extend", default=[], metavar="CASE", help="more cases, listed apart, never in the mean")
    _chips(sub)
    sub.add_argument("--isolation", choices=("auto", "container", "none"), default="auto", help="where cases run (default: %(default)s)")


def _do_audit(args: argparse.Namespace) -> int:
    show = progress.make()
    execute = lambda task, opened: _execute(task, opened, args, show)  # noqa: E731
    desk, said = rerun.perform(args.folder, args.run, _keys(args), args.policy, args.choose, execute, show.say)
    print("\n".join([f"audit {desk.audit}", *said["reasons"], f"verdict: {said['verdict']}; {NEXT[said['verdict']]}"]))
    return DONE[said["verdict"]]


def _execute(task: Task, opened: Callable[[Path], None], args: argparse.Namespace, show: progress.Progress) -> Path:
    """The kit itself, on this machine, under the challenge that seeds the vendor's inputs, too."""
    options = run.Options(
        plan=str(task.desk.folder / "plan.json"), chip=task.chip, isolation=args.isolation, out=task.out, resume=task.resume,
        key=args.key[0] if args.key else None, only=task.due.cases, rerun=True, challenge=task.desk.audit / audit.FILES["challenge"],
    )  # fmt: skip
    path = run.execute(options, show, opened)
    for _ in range(task.desk.challenge.predicate["maxAttempts"] - 1):
        if not _undone(path, task.due.cases):
            break
        path = run.execute(dataclasses.replace(options, resume=path), show)
    return path


def _undone(path: Path, cases: tuple[str, ...]) -> list[str]:
    """Cases that failed: the lab tries again as often as the vendor might, and its first completed attempt counts."""
    stated = json.loads((path / "evidence/cases.json").read_bytes())["cases"]
    return [case["id"] for case in stated if case["id"] in cases and case["state"] != "done"]


def _sign(own: Any) -> None:
    sub = _sub(own, "sign", _do_sign, "add a signature to a statement, e.g. the second person's to an audit")
    sub.add_argument("statement", type=Path, metavar="FILE", help="*.dsse.json")


def _do_sign(args: argparse.Namespace) -> int:
    given.sealed(args.statement, "signed statement", "name a *.dsse.json, as the lab's commands write it")
    try:
        data = args.statement.read_bytes()
        for key in _keys(args):
            data = statements.add_signature(data, key, str(args.statement))
        write_atomic(args.statement, data)
    except OSError as error:
        raise unusable("statement cannot be signed", error, str(args.statement), "make its folder one that you may write") from error
    print(args.statement)
    return 0


def _publish(own: Any) -> None:
    sub = _sub(own, "publish", _do_publish, "check an audit that passed, and write the self-contained folder of the result")
    _run(sub)
    _policy(sub)
    sub.add_argument("--out", type=Path, required=True, metavar="RESULT", help="folder to make")
    sub.add_argument(
        "--supersedes", type=_like(r"[0-9a-f]{64}"), metavar="DIGEST", help="payload digest of the publication that this one replaces"
    )


def _do_publish(args: argparse.Namespace) -> int:
    made = publish.publish(args.folder, args.run, args.out, _keys(args), args.policy, args.supersedes)
    print(f"{made}\npython -m verify publication {made}")
    return 0


def _withdraw(own: Any) -> None:
    sub = _sub(own, "withdraw", _do_withdraw, "withdraw a publication; a run that was received and not published fails for good")
    sub.add_argument("name", metavar="RUN|CHALLENGE", help="a run, or the first digits of a challenge")
    sub.add_argument("--reason", required=True, help="why, for the public")


def _do_withdraw(args: argparse.Namespace) -> int:
    print(publish.withdraw(args.folder, args.name, args.reason, _keys(args)))
    return 0


def _status(own: Any) -> None:
    sub = _sub(own, "status", _do_status, "how far every challenge has come; writes or checks the signed status list")
    sub.add_argument("--write", type=Path, metavar="FILE", help="sign the list, with the next version")
    sub.add_argument("--check", type=Path, metavar="FILE", help="check a list; a stale one ends with exit code 2")
    sub.add_argument(
        "--days", type=_count, default=30, metavar="N", help="days until a list that is written expires (default: %(default)s)"
    )
    sub.add_argument("--at", metavar="TIME", help="time of --check (default: now)")
    sub.add_argument("--json", action="store_true", help="print one JSON object")
    _policy(sub)


def _do_status(args: argparse.Namespace) -> int:
    if args.check is not None and args.write is not None:
        raise KitError("--check reads a list and --write makes one", next_step="give one of them")
    if args.folder.exists() and not args.folder.is_dir():
        raise KitError("the lab's folder is a file", where=str(args.folder), next_step="name a folder with --folder DIR")
    if args.check is None and args.at is not None:
        raise KitError("--at is the time of --check", next_step="add --check FILE, or leave --at out")
    if args.check is not None:
        shown = publish.check_status(args.check, args.policy, _time(args.at))
    else:
        shown = {"audits": publish.rows(args.folder)}
        if args.write is not None:
            publish.status(args.folder, args.write, _keys(args), args.policy, args.days)
            shown = {"audits": publish.rows(args.folder)}
    rows = [f"{one['challenge'][:16]}  {one['vendor']}  {one['state']}" for one in shown["audits"]]
    print(json.dumps(shown, indent=1, sort_keys=True) if args.json else "\n".join(rows) or "no challenge yet")
    return 0


def _calibrate(own: Any) -> None:
    sub = _sub(own, "calibrate", _do_calibrate, "measure how much each metric scatters, and write a tolerance table")
    sub.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="sealed runs of one plan on one machine, five or more")
    sub.add_argument("--tolerances", default="provisional", metavar="NAME|FILE", help="table that names the metrics (default: %(default)s)")
    sub.add_argument("--out", type=Path, required=True, metavar="FILE", help="table to write, like my-lab.toml")


def _do_calibrate(args: argparse.Namespace) -> int:
    print(calibrate.calibrate(args.runs, args.tolerances, args.out))
    return 0


def _time(text: str | None) -> datetime.datetime:
    try:
        return datetime.datetime.now(datetime.UTC) if text is None else policy.parse_time(text)
    except ValueError:
        raise KitError("--at is not a time", where=text or "", next_step="write it like 2026-01-31T12:00:00Z") from None
