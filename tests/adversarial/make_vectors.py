"""Writes tests/adversarial/vectors: one good run, and bad ones as what differs from it. Clocks stand still, the key is a
constant of the tests, so that every byte comes out again: `python -m tests.adversarial.make_vectors`.

`vector.toml` says what each verifier must answer. A difference between verifiers is a sentence there, or a failure.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import stat
import tempfile
import time
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from tests.adversarial import builder
from tests.adversarial.attacks import every

FOLDER = Path(__file__).parent / "vectors"
GOOD = "good"
NAME = "tiny-cpu-20261124T000000Z-abcdef"
LARGE_BYTES = 2**20
BY_PATTERN = "the shell reads JSON by patterns"
LAST_ONLY = "the shell reads the end of the run log only"
CONTENT = "numbers, cases and events are judged by replay alone"


@dataclass(frozen=True)
class Vector:
    """A bad run: its row in the attack table, the attack (by rule and name), and who accepts it, with the reason."""

    row: int
    rule: str
    attack: str
    accepts: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return named(self.row, self.attack)


def named(row: int, attack: str) -> str:
    """The folder of a vector."""
    return f"{row:02}-" + "".join(c if c.isalnum() else "-" for c in attack.lower()).strip("-").replace("--", "-")


SHELL, BOTH = {"shell": BY_PATTERN}, {"shell": CONTENT, "node": CONTENT}
VECTORS = (
    Vector(1, "tree.digest", "one byte of a log"),
    Vector(2, "tree.extra", "a file added"),
    Vector(2, "tree.missing", "a log removed"),
    Vector(2, "top.extra", "file beside the run"),
    Vector(2, "tree.sums", "lines in another order"),
    Vector(3, "tree.type", "a symbolic link"),
    Vector(3, "tree.type", "a fifo"),
    Vector(3, "tree.link", "a hard link"),
    Vector(3, "file.link", "a hard link to the run log"),
    Vector(3, "tree.path", "a name with a newline"),
    Vector(3, "tree.case", "a twin by case"),
    Vector(3, "tree.empty", "an empty folder"),
    Vector(3, "tree.missing", "a path that climbs out, sealed"),
    Vector(3, "tree.missing", "an absolute path, sealed"),
    Vector(3, "tree.sums", "a path twice, sealed"),
    Vector(5, "tree.sums", "no file listed, sealed"),
    Vector(5, "tree.extra", "a log left out, sealed"),
    Vector(5, "cases.statement", "a case left out", BOTH),
    Vector(6, "claims.value", "a better claim", BOTH),
    Vector(6, "case.handed", "the worker was given an easier case", BOTH),
    Vector(6, "text_to_image.kept", "the picture of another call", BOTH),
    Vector(6, "text_to_image.pixels", "colours of another picture", BOTH),
    Vector(7, "statement.schema", "a decimal comma", BOTH),
    Vector(7, "statement.schema", "a value with an exponent", BOTH),
    Vector(7, "statement.schema", "a hexadecimal value", BOTH),
    Vector(7, "statement.schema", "a trailing zero", BOTH),
    Vector(8, "json.duplicate", "two subjects, signed"),
    Vector(8, "json.duplicate", "a key twice by case, signed", SHELL),
    Vector(8, "json.number", "NaN, signed", SHELL),
    Vector(8, "json.number", "a size beyond 2^53, signed"),
    Vector(8, "envelope.canonical", "the other alphabet of base64"),
    Vector(8, "json.encoding", "half a surrogate pair, signed", SHELL),
    Vector(9, "statement.type", "another payload type"),
    Vector(9, "statement.schema", "another predicate", {"shell": "the shell does not ask what kind of statement it is"}),
    Vector(9, "envelope.signature", "statement_changed_without_key"),
    Vector(10, "envelope.signatures", "no signature"),
    Vector(11, "envelope.twin", "the same signature twice"),
    Vector(12, "key.order", "a whole run under a key of low order"),
    Vector(18, "cases.attempts", "an attempt hidden"),
    Vector(19, "statement.environment", "another chip", BOTH),
    Vector(26, "log.checkpoint", "a checkpoint's root", {"shell": LAST_ONLY}),
    Vector(28, "log.torn", "a torn file that no entry names", {"shell": LAST_ONLY}),
    Vector(29, "log.checkpoint_missing", "a checkpoint removed", {"shell": LAST_ONLY}),
    Vector(30, "log.time", "time goes back", {"shell": "the shell builds no Merkle tree"}),
    Vector(31, "statement.environment", "a container claimed", BOTH),
    Vector(31, "patches.allowed", "a patch under a plan that allows none", BOTH),
    Vector(32, "inside.variables", "a library loaded before all others", BOTH),
    Vector(32, "inside.mounts", "packages mounted over those of the image", BOTH),
    Vector(32, "inside.worker", "another worker than the sealed one", BOTH),
    Vector(32, "inside.code", "a library in the folder of the case", BOTH),
    Vector(32, "inside.libraries", "a library of no package in the image", BOTH),
    Vector(33, "pretrain.cards", "two ranks on one card", BOTH),
    Vector(34, "specifications.product", "TF32 for FP32", BOTH),
    Vector(37, "file.size", "an envelope of 33 MiB"),
    Vector(37, "envelope.signatures", "17 signatures"),
    Vector(37, "json.depth", "deep nesting, signed", SHELL),
    Vector(38, "events.schema", "a kind of event that steers a terminal", BOTH),
    Vector(41, "file.missing", "no plan"),
    Vector(41, "file.missing", "no run log"),
    Vector(41, "file.missing", "no evidence"),
    Vector(41, "top.missing", "no SHA256SUMS"),
)


def _still() -> Any:
    """Clocks that tick a second a look from one moment on."""
    wall, monotonic = itertools.count(1_790_000_000 * 10**9, 10**9), itertools.count(10**9, 10**9)
    return mock.patch.multiple(time, time_ns=lambda: next(wall), monotonic_ns=lambda: next(monotonic))


def _made(vector: Vector, folder: Path) -> Path:
    attack = next(attack for attack in every() if (attack.rule, attack.name) == (vector.rule, vector.attack))
    with _still():
        return attack.make(folder)


def _paths(run: Path) -> dict[str, Path]:
    return {path.relative_to(run).as_posix(): path for path in sorted(run.rglob("*"))}


def differences(good: Path, bad: Path) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    """Files of `bad` that are not those of `good`, and steps for what a checkout of git cannot hold."""
    before, after = _paths(good), _paths(bad)
    gone = [
        name
        for name in before
        if name not in after and not any(parent.as_posix() in before and parent.as_posix() not in after for parent in Path(name).parents)
    ]
    steps: list[dict[str, Any]] = [{"do": "remove", "path": name} for name in gone]
    files: dict[str, bytes] = {}
    lowered = [name.lower() for name in after]
    for name, path in after.items():
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            steps += [{"do": "remove", "path": name}, {"do": "symlink", "path": name, "to": str(path.readlink())}]
        elif stat.S_ISFIFO(status.st_mode):
            steps.append({"do": "fifo", "path": name})
        elif stat.S_ISDIR(status.st_mode):
            steps += [{"do": "folder", "path": name}] if name not in before else []
        elif status.st_nlink > 1:
            steps.append({"do": "link", "path": name})
        elif name not in before or path.read_bytes() != before[name].read_bytes():
            data = path.read_bytes()
            odd = not name.replace("/", "").replace(".", "").replace("-", "").isalnum() or lowered.count(name.lower()) > 1
            if len(data) > LARGE_BYTES:
                steps.append({"do": "fill", "path": name, "size_bytes": len(data), "text": data[:1].decode()})
            elif odd and name not in before:
                steps.append({"do": "write", "path": name, "text": data.decode()})
            else:
                files[name] = data
    return files, steps


def apply(vector: Path, folder: Path) -> Path:
    """The bad run as a folder, from the good one and a vector."""
    run = folder / NAME
    shutil.copytree(FOLDER / GOOD / NAME, run)
    for step in tomllib.loads((vector / "vector.toml").read_text(encoding="utf-8")).get("step", []):
        _step(run, run / step["path"], step)
    if (vector / "files").is_dir():
        shutil.copytree(vector / "files", run, dirs_exist_ok=True)
    return run


def _step(run: Path, path: Path, step: dict[str, Any]) -> None:
    match step["do"]:
        case "remove":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        case "symlink":
            path.symlink_to(step["to"])
        case "fifo":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "link":
            os.link(path, run.parent / "second")
        case "fill":
            path.write_text(step["text"] * step["size_bytes"], encoding="utf-8")
        case "write":
            path.write_text(step["text"], encoding="utf-8")


def _toml(vector: Vector, steps: list[dict[str, Any]]) -> str:
    lines = [f"row = {vector.row}  # of the attack table, 0: none", f"attack = {json.dumps(vector.attack)}", "", "[verify]",
             'result = "refused"', f'rule = "{vector.rule}"']  # fmt: skip
    for name in ("shell", "node"):
        why = vector.accepts.get(name)
        lines += ["", f"[{name}]", f'result = "{"accepted" if why else "refused"}"', *([f'why = "{why}"'] if why else [])]
    for step in steps:
        lines += ["", "[[step]]", *(f"{key} = {json.dumps(value)}" for key, value in step.items())]
    return "\n".join(lines) + "\n"


def write(top: Path) -> None:
    """Everything that lies below vectors/, runs first."""
    with tempfile.TemporaryDirectory() as scratch, _still():
        good = builder.build(Path(scratch))
        shutil.copytree(good, top / GOOD / NAME)
    for vector in VECTORS:
        with tempfile.TemporaryDirectory() as scratch:
            files, steps = differences(top / GOOD / NAME, _made(vector, Path(scratch)))
        for name, data in files.items():
            path = top / "bad" / vector.name / "files" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        (top / "bad" / vector.name).mkdir(parents=True, exist_ok=True)
        (top / "bad" / vector.name / "vector.toml").write_text(_toml(vector, steps), encoding="utf-8")
    from tests.adversarial import make_kinds

    make_kinds.write(top)


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    write(FOLDER)


if __name__ == "__main__":
    main()
