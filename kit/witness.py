"""A witness: countersigns checkpoints of run logs that it finds in a folder, each only as a continuation of the last it saw.

What it saw is on its own disk before a cosignature leaves it, so that it never signs two histories. A request that it
refuses is kept: two signed histories of one log are evidence against whoever signed them.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import hashlib
import json
import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kit import keys, outbox
from kit.errors import FAILED, KitError
from kit.files import make_folder, write_atomic
from verify import cosign, heartbeat, notes
from verify.envelope import load_key
from verify.findings import Refused
from verify.merkle import consistent
from verify.strict import canonical

MAX_REQUEST_BYTES = 64 * 1024
MAX_PROOF = 63
NAME = "chipassay.dev/witness/"
_REQUEST = re.compile(rf"old (0|[1-9][0-9]{{0,18}})\n((?:[A-Za-z0-9+/]{{43}}=\n){{0,{MAX_PROOF}}})\n(.+)", re.DOTALL)


class Rejected(Exception):
    """A request that may not be countersigned: rollback, fork, or no request at all."""


@dataclass(frozen=True, slots=True)
class Known:
    """The last that was seen of one log, and the note as it was countersigned."""

    size: int
    root: bytes
    signer: str
    cosigned: str


class Witness:
    """Signs under `name` with `key`; remembers in `state`."""

    def __init__(self, key: Ed25519PrivateKey, state: Path, name: str | None = None) -> None:
        public = key.public_key()
        spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.key, self.public, self.state = key, public, state
        self.name = name or NAME + hashlib.sha256(spki).hexdigest()[:16]
        make_folder(state, "memory of the witness", "name a folder with --state")

    def serve(self, folder: Path) -> tuple[int, list[str]]:
        """Countersign every run's request in `folder` that may be; how many were, and why the others were not."""
        done, refused = 0, []
        for place in sorted(path.parent for path in folder.glob(f"*/{outbox.REQUEST}")):
            try:
                done += self._one(place)
            except Rejected as bad:
                refused.append(f"{place.name}: {bad}")
                self._keep(place)
        return done, refused

    def _one(self, place: Path) -> int:
        """1 if a new checkpoint was countersigned, 0 if there was nothing new."""
        old, proof, note, text = _parse(place)
        signer, pem = _signer(place)
        try:
            notes.verify(note, signer, place.name)
        except Refused as bad:
            raise Rejected(str(bad)) from None
        known = self._known(note.origin)
        if known and (note.size, note.root) == (known.size, known.root):
            return self._answer_again(place, known)
        if known and note.size <= known.size:
            raise Rejected(f"{'rollback' if note.size < known.size else 'fork'}: size {note.size}, but {known.size} were seen")
        if old != (known.size if known else 0):
            self._answer_again(place, known)
            return 0
        if known and not consistent((known.size, known.root), (note.size, note.root), proof):
            raise Rejected(f"fork: size {note.size} does not continue the {known.size} entries that were seen")
        self._sign(place, note, text, pem)
        return 1

    def _sign(self, place: Path, note: notes.Note, text: str, pem: str) -> None:
        now = int(time.time())
        signature = self.key.sign(cosign.message(now, notes.body(note.origin, note.size, note.root)))
        cosigned = text + cosign.render(self.name, self.public, now, signature) + "\n"
        state = {
            "origin": note.origin,
            "size": note.size,
            "root": base64.b64encode(note.root).decode(),
            "signer": pem,
            "cosigned": cosigned,
        }
        write_atomic(self._path(note.origin), canonical(state) + b"\n")
        _append(place, cosigned)

    def _answer_again(self, place: Path, known: Known | None) -> int:
        """Give the last cosignature once more, where the folder lacks it."""
        if known and outbox.last_size(outbox.answer(place)) != known.size:
            _append(place, known.cosigned)
        return 0

    def _path(self, origin: str) -> Path:
        return self.state / f"{hashlib.sha256(origin.encode()).hexdigest()}.json"

    def _known(self, origin: str) -> Known | None:
        path = self._path(origin)
        if not path.exists():
            return None
        try:
            data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return Known(data["size"], base64.b64decode(data["root"]), data["signer"], data["cosigned"])
        except (ValueError, KeyError) as error:
            raise KitError("state of the witness cannot be read", where=str(path), next_step="restore it; never start afresh") from error

    def _keep(self, place: Path) -> None:
        """Keep a refused request as evidence, once."""
        data = (place / outbox.REQUEST).read_bytes()[:MAX_REQUEST_BYTES]
        path = self.state / f"refused-{hashlib.sha256(data).hexdigest()[:16]}.txt"
        if not path.exists():
            write_atomic(path, data)


def _parse(place: Path) -> tuple[int, list[bytes], notes.Note, str]:
    data = (place / outbox.REQUEST).read_bytes()
    try:
        match = _REQUEST.fullmatch(data.decode("utf-8")) if len(data) <= MAX_REQUEST_BYTES else None
        if match is None:
            raise Rejected("no add-checkpoint request")
        proof = [base64.b64decode(line) for line in match[2].split()]
        return int(match[1]), proof, notes.parse(match[3]), match[3]
    except (UnicodeDecodeError, binascii.Error, Refused) as bad:
        raise Rejected(f"no add-checkpoint request: {bad}") from None


def _signer(place: Path) -> tuple[Ed25519PublicKey, str]:
    try:
        pem = (place / outbox.SIGNER).read_bytes()
        key = load_key(pem, outbox.SIGNER)
    except (OSError, Refused) as bad:
        raise Rejected(f"no key of the log: {bad}") from None
    if not isinstance(key, Ed25519PublicKey):
        raise Rejected("the log's key is not Ed25519")
    return key, keys.public_pem_of(key).decode()


def _append(place: Path, cosigned: str) -> None:
    """Add a note behind the whole ones; what a crash tore is cut off."""
    whole = len(outbox.answer(place))
    with (place / outbox.ANSWER).open("ab") as file:
        file.truncate(whole)
        file.write(cosigned.encode())
        file.flush()
        os.fsync(file.fileno())


def add_command(commands: Any) -> None:
    """`kit witness`."""
    sub = commands.add_parser("witness", help="countersign checkpoints of runs in DIR, or fetch cosignatures into a run")
    sub.add_argument("folder", type=Path, metavar="DIR", help="folder given to `kit run --witness`")
    sub.add_argument("--key", type=Path, metavar="PEM", help="Ed25519 key of the witness")
    sub.add_argument("--state", type=Path, metavar="DIR", help="the witness's own memory; never on the vendor's disk")
    sub.add_argument("--name", help="name of the witness in its cosignatures (default: from its key)")
    sub.add_argument("--watch", action="store_true", help="go on until interrupted")
    sub.add_argument("--into", type=Path, metavar="RUN", help="copy what was cosigned into RUN, also after it was sealed")
    sub.set_defaults(act=act)


def act(args: argparse.Namespace) -> int:
    """Run the command; exit code 1 where a request was refused."""
    if not args.folder.is_dir():
        raise KitError("witness folder does not exist", where=str(args.folder), next_step="name the folder of kit run --witness")
    if args.into is not None:
        if args.key or args.state or args.watch or args.name:
            raise KitError(
                "--into fetches, and takes no --key, --state, --name or --watch", next_step="run the witness by itself, without --into"
            )
        return _fetch(args.folder, args.into)
    if args.key is None or args.state is None:
        raise KitError("a witness needs --key and --state", next_step="or fetch cosignatures with --into RUN")
    if args.state.resolve().is_relative_to(args.folder.resolve()):
        raise KitError("--state lies in the shared folder", where=str(args.state), next_step="keep it where only the witness writes")
    witness = Witness(keys.load(args.key), args.state, args.name)
    said: set[str] = set()
    code = _round(witness, args.folder, said)
    while args.watch:
        time.sleep(heartbeat.settings().poll_s)
        code = max(code, _round(witness, args.folder, said))
    return code


def _round(witness: Witness, folder: Path, said: set[str]) -> int:
    done, refused = witness.serve(folder)
    if done:
        print(f"{done} checkpoints countersigned as {witness.name}", flush=True)
    for line in refused:
        if line not in said:
            print(f"refused {line}", file=sys.stderr, flush=True)
        said.add(line)
    return FAILED if refused else 0


def _fetch(folder: Path, run: Path) -> int:
    if not (run / "runlog").is_dir():
        raise KitError("not a run directory", where=str(run), next_step="name a folder below runs/")
    size = outbox.collect(folder / run.resolve().name, run)
    if not size:
        raise KitError("nothing was cosigned for this run", where=str(folder / run.resolve().name), next_step="let the witness sign first")
    print(f"cosigned up to entry {size}")
    return 0
