"""`kit trust`: makes and rotates trust policies. A draft is JSON that people edit; its signed form is <version>.dsse.json beside it.

The kit holds no root key: each root person signs the draft on a machine of their own with `kit trust sign`.
"""

from __future__ import annotations

import argparse
import base64
import copy
import datetime
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kit import keys, statements
from kit.errors import FAILED, KitError
from kit.files import make_folder, write_atomic
from verify import chain, envelope, policy
from verify.findings import Refused, Unchecked
from verify.strict import SAFE_INTEGER, canonical, loads

DRAFT = "draft.json"
VALID_DAYS = 365
LONGEST_DAYS = 3660
MOST_ROOTS = 16
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")  # as policy.schema.json has it
DEFAULT_RULES: dict[str, list[dict[str, Any]]] = {
    "challenge/v1": [{"kind": "lab", "threshold": 1}],
    "run-key/v1": [{"kind": "vendor", "threshold": 1}],
    "vendor-run/v1": [{"kind": "vendor", "threshold": 1}],
    "receipt/v1": [{"party": "=challenge.lab", "threshold": 1}],
    "reveal/v1": [{"party": "=challenge.lab", "threshold": 1}],
    "lab-audit/v1": [{"party": "=challenge.lab", "threshold": 2, "distinct": "person"}],
    "publication/v1": [{"kind": "lab", "threshold": 1}],
    "withdrawal/v1": [{"kind": "lab", "threshold": 1}],
    "status/v1": [{"kind": "lab", "threshold": 1}],
}  # attestation rules of docs/design/trust.md; a draft keeps those that its parties can meet
Document = dict[str, Any]


def add_command(commands: Any) -> None:
    """`kit trust ACTION DIR`."""
    sub = commands.add_parser("trust", help="make, change, sign and show a trust policy in DIR (see manifests/trust)")
    sub.add_argument("action", choices=sorted(ACTIONS))
    sub.add_argument("folder", type=Path, metavar="DIR", help="folder of the policy: draft.json and <version>.dsse.json")
    sub.add_argument("--name", help="init: name of the policy")
    sub.add_argument("--threshold", type=int, default=2, metavar="N", help="init: root persons that must sign (default: %(default)s)")
    sub.add_argument("--person", metavar="P", help="add: whose key it is, a short name")
    sub.add_argument("--party", metavar="P", help="add: the person's party")
    sub.add_argument("--kind", choices=("vendor", "lab", "publisher", "witness"), help="add: the party's kind, where it is new")
    sub.add_argument("--public", type=Path, metavar="PEM", help="add, revoke: the public key")
    sub.add_argument("--root", action="store_true", help="add: the key may sign the policy")
    sub.add_argument("--days", type=int, default=VALID_DAYS, metavar="N", help="init, add, rotate: days of validity (default: %(default)s)")
    sub.add_argument("--reason", choices=("compromise", "superseded"), help="revoke: why")
    sub.add_argument("--since", metavar="TIME", help="revoke: since when, like 2026-01-31T12:00:00Z (default: now)")
    sub.add_argument("--key", type=Path, metavar="PEM", help="sign: a root person's private key")
    sub.set_defaults(act=act)


def act(args: argparse.Namespace) -> int:
    """Run the command."""
    try:
        return ACTIONS[args.action](args)
    except Refused as bad:
        raise KitError("trust policy is refused", where=bad.finding.where, why=str(bad), next_step="correct the draft") from None
    except Unchecked as bad:
        raise KitError(str(bad)) from None


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)


def _needed(args: argparse.Namespace, *names: str) -> None:
    for name in names:
        if getattr(args, name) is None:
            raise KitError(f"kit trust {args.action} needs --{name}", next_step="see python -m kit trust --help")
    if not 0 < args.days <= LONGEST_DAYS:
        raise KitError("--days is out of range", why=f"{args.days}", next_step=f"use 1 to {LONGEST_DAYS}")


def _draft(folder: Path) -> Document:
    path = folder / DRAFT
    try:
        document = loads(path.read_bytes(), str(path), largest=SAFE_INTEGER)
    except OSError as error:
        raise KitError(
            "no draft of a trust policy", where=str(path), why=error.strerror or "", next_step="kit trust init DIR, or kit trust rotate DIR"
        ) from error
    if not isinstance(document, dict) or not {"keys", "parties", "persons", "root", "rules", "version"} <= document.keys():
        raise KitError("not a draft of a trust policy", where=str(path), next_step="kit trust init DIR")
    return document


def _save(folder: Path, document: Document) -> None:
    write_atomic(folder / DRAFT, json.dumps(document, indent=1, sort_keys=True).encode() + b"\n")


def _init(args: argparse.Namespace) -> int:
    _needed(args, "name")
    if (args.folder.exists() and any(args.folder.glob("*.dsse.json"))) or (args.folder / DRAFT).exists():
        raise KitError("there is a trust policy already", where=str(args.folder), next_step="change it with kit trust rotate")
    if NAME.fullmatch(args.name) is None:
        raise KitError("name of a trust policy is not allowed", where=args.name, next_step="use 1 to 64 small letters, digits and hyphens")
    if not 1 <= args.threshold <= MOST_ROOTS:
        raise KitError("--threshold is out of range", why=f"{args.threshold}", next_step=f"use 1 to {MOST_ROOTS}")
    make_folder(args.folder, "folder of the trust policy", "name another DIR")
    document: Document = {
        "schemaVersion": 1,
        "name": args.name,
        "version": 1,
        "previous": None,
        "expires": policy.format_time(_now() + datetime.timedelta(days=args.days)),
        "root": {"threshold": args.threshold, "keys": []},
        "parties": {},
        "persons": {},
        "keys": {},
        "rules": {},
        "statusMaxAgeDays": 30,
    }
    _save(args.folder, document)
    print(args.folder / DRAFT)
    return 0


def _public(path: Path) -> envelope.PublicKey:
    try:
        return envelope.load_key(path.read_bytes(), str(path))
    except OSError as error:
        step = "name the PEM file of a public key with --public"
        raise KitError("public key cannot be read", where=str(path), why=error.strerror or "", next_step=step) from error


def _add(args: argparse.Namespace) -> int:
    _needed(args, "person", "party", "public")
    document, key = _draft(args.folder), _public(args.public)
    name = envelope.keyid(key)
    if name in document["keys"]:
        raise KitError("key is in the policy already", where=str(args.public), next_step="each key is one person's, once")
    if document["persons"].get(args.person, {"party": args.party})["party"] != args.party:
        raise KitError("person belongs to another party", where=args.person, next_step=f"use {document['persons'][args.person]['party']}")
    known = document["parties"].get(args.party, {}).get("kind")
    if (args.kind or known) is None or known not in {None, args.kind or known}:
        raise KitError("kind of the party is not clear", where=args.party, why=f"it is {known or 'new'}", next_step="give its one --kind")
    document["parties"].setdefault(args.party, {"kind": args.kind})
    document["persons"].setdefault(args.person, {"party": args.party, "name": args.person})
    document["keys"][name] = {
        "alg": envelope.algorithm(key),
        "spki": base64.b64encode(envelope.spki(key)).decode(),
        "person": args.person,
        "notBefore": policy.format_time(_now()),
        "notAfter": policy.format_time(_now() + datetime.timedelta(days=args.days)),
        "revoked": None,
    }
    if args.root:
        document["root"]["keys"].append(name)
    _offer_rules(document)
    _save(args.folder, document)
    print(name)
    return 0


def _offer_rules(document: Document) -> None:
    """The default rule of each statement whose kind of party is there now; rules that somebody wrote stay."""
    kinds = {party["kind"] for party in document["parties"].values()}
    for statement, rules in DEFAULT_RULES.items():
        if all(rule.get("kind", str(rule.get("party")).rpartition(".")[2]) in kinds for rule in rules):
            document["rules"].setdefault(statement, copy.deepcopy(rules))


def _revoke(args: argparse.Namespace) -> int:
    _needed(args, "public", "reason")
    document, name = _draft(args.folder), envelope.keyid(_public(args.public))
    if name not in document["keys"]:
        raise KitError("key is not in the policy", where=str(args.public), next_step="kit trust show DIR")
    try:
        since = policy.format_time(policy.parse_time(args.since) if args.since else _now())
    except ValueError:
        raise KitError("--since is not a time", where=args.since, next_step="write it like 2026-01-31T12:00:00Z") from None
    document["keys"][name]["revoked"] = {"since": since, "reason": args.reason}
    document["root"]["keys"] = [kept for kept in document["root"]["keys"] if kept != name]
    _save(args.folder, document)
    print(f"{name} revoked since {since} ({args.reason}); sign the draft, and it is so")
    return 0


def _rotate(args: argparse.Namespace) -> int:
    """A draft of the next version, from the newest signed one."""
    _needed(args)
    if (args.folder / DRAFT).exists():
        raise KitError("there is a draft already", where=str(args.folder / DRAFT), next_step="sign it, or remove it")
    last = chain.read_chain(args.folder)[-1]
    expires = policy.format_time(_now() + datetime.timedelta(days=args.days))
    made = {"version": last.document["version"] + 1, "previous": {"sha256": last.sha256}, "expires": expires}
    _save(args.folder, last.document | made)
    print(f"{args.folder / DRAFT}: version {made['version']}")
    return 0


def _sign(args: argparse.Namespace) -> int:
    """Add a root person's signature to the draft; the last one that was needed turns it into a version."""
    _needed(args, "key")
    key = keys.load(args.key)
    document = _draft(args.folder)
    payload = canonical(document)
    policy.parse(payload, str(args.folder / DRAFT))
    before = _before(args.folder)
    if before is not None:
        chain.check_order(before, document, str(args.folder / DRAFT))
    path = args.folder / f"{document['version']}.dsse.json"
    pending = args.folder / f"{document['version']}.unfinished"
    sealed = _with_signature(pending, payload, key)
    write_atomic(pending, sealed)
    trial = _trial(before, sealed, f"version {document['version']}")
    if trial is not None:
        print(f"signed; not enough yet: {trial}")
        return 0
    pending.replace(path)
    (args.folder / DRAFT).unlink()
    print(f"{path}: fingerprint {chain.open_version(sealed, str(path)).sha256}")
    return 0


def _with_signature(pending: Path, payload: bytes, key: Any) -> bytes:
    if pending.exists() and envelope.parse(pending.read_bytes(), str(pending)).payload == payload:
        return statements.add_signature(pending.read_bytes(), key, str(pending))
    return statements.sign(payload, [key], chain.PAYLOAD_TYPE)


def _before(folder: Path) -> chain.Version | None:
    """The newest signed version; None where there is none yet."""
    return chain.read_chain(folder)[-1] if any(folder.glob("*.dsse.json")) else None


def _trial(before: chain.Version | None, sealed: bytes, where: str) -> str | None:
    """Why the version does not hold yet, where it is signatures that it lacks; Refused where it is anything else."""
    try:
        new = chain.open_version(sealed, where)
        if before is not None:
            chain.follow(before, new, where)
    except Refused as bad:
        if bad.finding.rule == "policy.root" and "signatures" in bad.finding.expected:
            return str(bad)
        raise
    return None


def _show(args: argparse.Namespace) -> int:
    """Every version with its fingerprint; parties and keys of the newest. Exit code 1 where it has expired."""
    versions = chain.read_chain(args.folder)
    for version in versions:
        print(f"version {version.document['version']}  fingerprint {version.sha256}  expires {version.document['expires']}")
    last = versions[-1]
    print(f"root: {last.document['root']['threshold']} of {len(last.document['root']['keys'])} keys")
    for named in sorted(last.policy.keys.values(), key=lambda named: (named.party, named.person, named.keyid)):
        root = " root" if named.keyid in last.document["root"]["keys"] else ""
        state = f"revoked since {policy.format_time(named.revoked.since)} ({named.revoked.reason})" if named.revoked else "valid"
        print(f"{named.kind:9} {named.party:16} {named.person:16} {named.keyid} to {policy.format_time(named.not_after)} {state}{root}")
    expired = last.policy.expires is not None and _now() > last.policy.expires
    if expired:
        print("the newest version has expired")
    return FAILED if expired else 0


ACTIONS: dict[str, Callable[[argparse.Namespace], int]] = {
    "init": _init,
    "add": _add,
    "revoke": _revoke,
    "rotate": _rotate,
    "sign": _sign,
    "show": _show,
}
