"""One attack for each rule of verify. `sealed`: the vendor seals false content with the true key. `tampered`: somebody
changes a finished run. `restated`: the statement is changed and signed again with the true key.
"""

from __future__ import annotations

import base64
import importlib
import json
import os
import pkgutil
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.adversarial import builder
from tests.adversarial.builder import KEY, PRETRAIN, Bench
from verify.envelope import pae
from verify.strict import canonical

FOLDER = f"evidence/cases/{PRETRAIN}/attempt-1"
EVENTS = f"{FOLDER}/events-00000.jsonl"


@dataclass(frozen=True)
class Attack:
    """What is done to a run, the rule that must refuse it, and the rules that cannot but speak up as well."""

    rule: str
    name: str
    kind: str
    act: Callable[[Any], Any]
    also: tuple[str, ...] = ()

    def make(self, folder: Path) -> Path:
        """The attacked run."""
        if self.kind == "sealed":
            return builder.build(folder, self.act)
        run = builder.build(folder)
        if self.kind == "restated":
            builder.reseal(run, self.act)
        else:
            self.act(run)
        return run


ATTACKS: list[Attack] = []


def every() -> tuple[Attack, ...]:
    """All attacks, those of the modules beside this one too, whichever test was imported first."""
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if not module.name.startswith(("test_", "make_")):
            importlib.import_module(f"tests.adversarial.{module.name}")
    return tuple(ATTACKS)


def attack(rule: str, kind: str, *also: str) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
    """Register a function as an attack on a rule."""

    def register(act: Callable[[Any], Any]) -> Callable[[Any], Any]:
        ATTACKS.append(Attack(rule, act.__name__, kind, act, also))
        return act

    return register


def add(rule: str, kind: str, name: str, act: Callable[[Any], Any], *also: str) -> None:
    """Register a one-liner as an attack on a rule."""
    ATTACKS.append(Attack(rule, name, kind, act, also))


def put(bench: Bench, name: str, data: bytes, case: str = PRETRAIN) -> None:
    bench.raw[f"{case}/{name}"] = data


def rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def log_entry(run: Path, index: int, **fields: Any) -> None:
    """Change one entry of the run log."""
    path = run / "runlog/entries.jsonl"
    lines = path.read_bytes().splitlines()
    lines[index] = canonical(json.loads(lines[index]) | fields)
    path.write_bytes(b"\n".join(lines) + b"\n")


def envelope(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the envelope, keeping it canonical."""
    document = json.loads((run / "run.dsse.json").read_bytes())
    change(document)
    (run / "run.dsse.json").write_bytes(canonical(document) + b"\n")


ROOT = ("log.root", "log.checkpoint")
LOST = (*ROOT, "log.close", "log.files", "cases.attempts")

# --- the folder itself -----------------------------------------------------------------------------------------------
add("top.extra", "tampered", "file beside the run", lambda run: (run / "notes.txt").write_text("x"))
add("top.missing", "tampered", "no SHA256SUMS", lambda run: (run / "SHA256SUMS").unlink(), "file.missing")
add(
    "top.type",
    "tampered",
    "envelope is a link",
    lambda run: ((run / "run.dsse.json").rename(run.parent / "e"), (run / "run.dsse.json").symlink_to(run.parent / "e")),
    "file.type",
)
add(
    "tree.digest",
    "tampered",
    "one byte of a log",
    lambda run: rewrite(run / EVENTS, lambda d: d.replace(b"4.0", b"4.1", 1)),
    "tree.read",
    "pretrain.loss",
    "claims.value",
    "heartbeat.prefix",
)
add("tree.missing", "tampered", "a log removed", lambda run: (run / FOLDER / "stdout.log").unlink())
add("tree.extra", "tampered", "a file added", lambda run: (run / FOLDER / "extra.log").write_text("x"))
add("tree.empty", "tampered", "an empty folder", lambda run: (run / FOLDER / "artifacts").mkdir())
add("tree.path", "tampered", "a name with a newline", lambda run: (run / FOLDER / "a\nb").write_text("x"))
add("tree.case", "tampered", "a twin by case", lambda run: (run / FOLDER / "STDOUT.log").write_bytes(b""), "tree.extra")
add("tree.type", "tampered", "a fifo", lambda run: os.mkfifo(run / FOLDER / "pipe"))
add(
    "tree.type",
    "tampered",
    "a symbolic link",
    lambda run: ((run / FOLDER / "stdout.log").unlink(), (run / FOLDER / "stdout.log").symlink_to("stderr.log")),
    "tree.missing",
)
add("tree.link", "tampered", "a hard link", lambda run: os.link(run / FOLDER / "stdout.log", run.parent / "second"))
add(
    "tree.sums",
    "tampered",
    "lines in another order",
    lambda run: rewrite(run / "SHA256SUMS", lambda d: b"".join(reversed(d.splitlines(keepends=True)))),
    "statement.subject",
    "log.close",
)
add("file.missing", "tampered", "no plan", lambda run: (run / "evidence/plan.json").unlink(), "tree.missing")
add(
    "file.type",
    "tampered",
    "environment is a folder",
    lambda run: ((run / "evidence/environment.json").unlink(), (run / "evidence/environment.json").mkdir()),
    "tree.empty",
    "tree.missing",
)
add("file.link", "tampered", "a hard link to the run log", lambda run: os.link(run / "runlog/entries.jsonl", run.parent / "second"), *LOST)
add("file.missing", "tampered", "no run log", lambda run: shutil.rmtree(run / "runlog"), "top.missing", *LOST)
add("file.missing", "tampered", "no evidence", lambda run: shutil.rmtree(run / "evidence"), "top.missing", "tree.type", "tree.missing",
    "envelope.signature", "log.checkpoint")  # fmt: skip
add("file.line", "sealed", "a last line without newline", lambda b: put(b, "events-00000.jsonl", b'{"t":0}'))
add("file.size", "tampered", "an envelope of 33 MiB", lambda run: (run / "run.dsse.json").write_bytes(b" " * (33 * 2**20)))

# --- envelope and keys -----------------------------------------------------------------------------------------------
add(
    "envelope.canonical",
    "tampered",
    "spaces in the envelope",
    lambda run: rewrite(run / "run.dsse.json", lambda d: d.replace(b":", b": ", 1)),
)


def other_alphabet(run: Path) -> None:
    """The same bytes in URL-safe base64, which DSSE readers take: `???` in a statement has a place where both alphabets differ."""
    builder.reseal(run, lambda s: s["predicate"]["isolation"].update(reason="???"))
    envelope(run, lambda d: d.update(payload=d["payload"].replace("+", "-").replace("/", "_")))
    assert b"_" in (run / "run.dsse.json").read_bytes()


add("envelope.canonical", "tampered", "the other alphabet of base64", other_alphabet)
add("envelope.fields", "tampered", "a field added", lambda run: envelope(run, lambda d: d.update(extra=1)))
add("envelope.base64", "tampered", "payload is not base64", lambda run: envelope(run, lambda d: d.update(payload="!!")))
add("envelope.signatures", "tampered", "no signature", lambda run: envelope(run, lambda d: d.update(signatures=[])))
add("envelope.keyid", "tampered", "another key's name", lambda run: envelope(run, lambda d: d["signatures"][0].update(keyid="0" * 64)))
add(
    "envelope.twin",
    "tampered",
    "the same signature twice",
    lambda run: envelope(run, lambda d: d["signatures"].append(dict(d["signatures"][0]))),
)


@attack("envelope.signature", "tampered")
def statement_changed_without_key(run: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        payload = base64.b64decode(document["payload"]).replace(b'"chip":"cpu"', b'"chip":"gpu"')
        document["payload"] = base64.b64encode(payload).decode()

    envelope(run, change)


@attack("key.order", "tampered", "tree.digest", "tree.read", "envelope.signature", "log.checkpoint")
def signer_key_of_low_order(run: Path) -> None:
    spki = bytes.fromhex("302a300506032b6570032100") + bytes(32)
    pem = b"-----BEGIN PUBLIC KEY-----\n" + base64.b64encode(spki) + b"\n-----END PUBLIC KEY-----\n"
    (run / "evidence/signer.pub.pem").write_bytes(pem)


@attack("key.algorithm", "tampered", "tree.digest", "tree.read", "envelope.signature", "log.checkpoint")
def signer_key_of_another_curve(run: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = X25519PrivateKey.generate().public_key()
    (run / "evidence/signer.pub.pem").write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


add("key.format", "tampered", "signer key is text", lambda run: (run / "evidence/signer.pub.pem").write_text("hello\n"),
    "tree.digest", "tree.read", "envelope.signature", "log.checkpoint")  # fmt: skip

# --- strict reading (of the plan, which is sealed) -------------------------------------------------------------------


def plan_bytes(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda run: rewrite(run / "evidence/plan.json", change)


PLAN = ("tree.digest", "tree.read", "log.files")
add("json.duplicate", "tampered", "a key twice", plan_bytes(lambda d: d.replace(b'"name":', b'"name":"x","name":', 1)), *PLAN)
add("json.duplicate", "tampered", "a key twice by case", plan_bytes(lambda d: d.replace(b'"name":', b'"Name":"x","name":', 1)), *PLAN)
add("json.number", "tampered", "NaN", plan_bytes(lambda d: d.replace(b'"official":false', b'"official":NaN')), *PLAN)
add("json.number", "tampered", "a huge integer", plan_bytes(lambda d: d.replace(b'"seed":7', b'"seed":' + b"9" * 30, 1)), *PLAN)
add("json.depth", "tampered", "deep nesting", plan_bytes(lambda _: b"[" * 60 + b"]" * 60), *PLAN)
add("json.encoding", "tampered", "a byte-order mark", plan_bytes(lambda d: b"\xef\xbb\xbf" + d), *PLAN)
add("json.syntax", "tampered", "a comma too many", plan_bytes(lambda d: d.replace(b"}", b",}", 1)), *PLAN)

# --- statement -------------------------------------------------------------------------------------------------------
add("statement.schema", "restated", "an unknown field", lambda s: s["predicate"].update(extra=1))
add("statement.schema", "restated", "another predicate", lambda s: s.update(predicateType="https://example.org/x"))
add("statement.subject", "restated", "another subject", lambda s: s["subject"][0]["digest"].update(sha256="0" * 64))
add(
    "statement.plan", "restated", "another plan", lambda s: s["predicate"]["plan"].update(sha256="0" * 64), "statement.log", "run_key.bound"
)
add("statement.environment", "restated", "another chip", lambda s: s["predicate"].update(chip="other"))
add(
    "statement.environment",
    "restated",
    "a container claimed",
    lambda s: s["predicate"]["isolation"].update(kind="container"),
    "statement.log",
)
add("statement.log", "restated", "another start", lambda s: s["predicate"].update(started="2020-01-01T00:00:00Z"))
add("log.root", "restated", "another root", lambda s: s["predicate"]["log"].update(root=base64.b64encode(bytes(32)).decode()))
add("claims.value", "restated", "a better claim", lambda s: s["predicate"]["claims"][-1].update(value="99999"))
add("claims.value", "restated", "a claim left out", lambda s: s["predicate"]["claims"].pop())
add("claims.twin", "restated", "a claim twice", lambda s: s["predicate"]["claims"].append(dict(s["predicate"]["claims"][0])))
add("cases.statement", "restated", "a case left out", lambda s: s["predicate"]["cases"].pop())


def resigned(payload_type: str | None = None, spaced: bool = False) -> Callable[[Path], None]:
    """The statement in another writing or under another type, signed with the true key."""

    def act(run: Path) -> None:
        document = json.loads((run / "run.dsse.json").read_bytes())
        payload = base64.b64decode(document["payload"])
        if spaced:
            payload = json.dumps(json.loads(payload), indent=1, sort_keys=True).encode()
        document["payloadType"] = payload_type or document["payloadType"]
        document["payload"] = base64.b64encode(payload).decode()
        document["signatures"][0]["sig"] = base64.b64encode(KEY.sign(pae(document["payloadType"], payload))).decode()
        (run / "run.dsse.json").write_bytes(canonical(document) + b"\n")

    return act


add("statement.canonical", "tampered", "spaces in the statement", resigned(spaced=True))
add("statement.type", "tampered", "another payload type", resigned("application/json"))

# --- run log ---------------------------------------------------------------------------------------------------------
add(
    "log.entry",
    "tampered",
    "an unknown field",
    lambda run: log_entry(run, 1, extra=1),
    *ROOT,
    "log.close",
    "log.files",
    "cases.attempts",
    "log.checkpoint_missing",
)
add("log.sequence", "tampered", "a number skipped", lambda run: log_entry(run, 2, n=9), *ROOT)
add("log.open", "tampered", "opened twice", lambda run: open_twice(run), *ROOT, "log.sequence", "log.checkpoint_missing")
add("log.time", "tampered", "time goes back", lambda run: log_entry(run, 2, monotonic_ns=0), *ROOT, "log.clock_step")
add(
    "log.checkpoint",
    "tampered",
    "a checkpoint's root",
    lambda run: rewrite(run / "runlog/checkpoints.txt", lambda d: d.replace(d.splitlines()[2], base64.b64encode(bytes(32)), 1)),
)
add(
    "log.checkpoint_missing",
    "tampered",
    "a checkpoint removed",
    lambda run: rewrite(run / "runlog/checkpoints.txt", lambda d: b"\n".join(d.split(b"\n")[12:])),
)
add("log.torn", "tampered", "a torn file that no entry names", lambda run: (run / "runlog/torn-0").write_bytes(b"x"))


def open_twice(run: Path) -> None:
    path = run / "runlog/entries.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], *lines]))


def logged(rule: str, name: str, entries: list[dict[str, Any]], *also: str) -> None:
    """An attack by entries that the vendor's own, changed kit wrote before it sealed."""

    def act(bench: Bench) -> None:
        write = bench.write

        def changed() -> Any:
            log = write()
            for entry in entries:
                fields = dict(entry)
                log.append(fields.pop("type"), **fields)
            return log

        bench.write = changed  # type: ignore[method-assign]

    ATTACKS.append(Attack(rule, name, "sealed", act, also))


logged("log.attempts", "an attempt left open", [{"type": "case-start", "case": PRETRAIN, "attempt": 2}], "cases.attempts")
logged(
    "log.attempts",
    "an attempt numbered anew",
    [
        {"type": "case-start", "case": PRETRAIN, "attempt": 1},
        {"type": "case-end", "case": PRETRAIN, "attempt": 1, "state": "done", "reason": None},
    ],
    "cases.attempts",
    "log.checkpoint_missing",
    "statement.log",
)
logged("log.files", "a file logged with another digest", [{"type": "file", "path": "plan.json", "sha256": "0" * 64, "size_bytes": 1}])
logged("log.close", "closed early", [{"type": "close", "sums_sha256": "0" * 64}], "log.checkpoint_missing")

# --- completeness ----------------------------------------------------------------------------------------------------


def cases_json(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    """cases.json changed after the fact; the tree notices, and so must the rule about its content."""

    def act(run: Path) -> None:
        path = run / "evidence/cases.json"
        document = json.loads(path.read_bytes())
        change(document)
        path.write_bytes(canonical(document) + b"\n")

    return act


add(
    "cases.plan",
    "tampered",
    "a case left out",
    cases_json(lambda d: d["cases"].pop()),
    *PLAN,
    "cases.attempts",
    "cases.statement",
    "claims.value",
)
add(
    "cases.state",
    "tampered",
    "a failed case called done",
    cases_json(lambda d: d["cases"][0]["attempts"][0].update(state="failed")),
    *PLAN,
    "cases.attempts",
    "claims.value",
)
add(
    "cases.attempts",
    "tampered",
    "an attempt hidden",
    cases_json(lambda d: d["cases"][0].update(attempts=[], state="not_run")),
    *PLAN,
    "cases.statement",
    "claims.value",
)
add("cases.schema", "tampered", "an unknown state", cases_json(lambda d: d["cases"][0].update(state="great")), *PLAN, "cases.statement")
