"""Writes vectors of other kinds than a run: vectors/<kind>/good is a scene that holds, vectors/<kind>/bad what differs from it.

Policies, a witness's copy, a lab's audit, archives, and made-up durations, which are accepted and said. `vector.toml` gives the command line, to be run within the scene. Keys
come from names, clocks and chance from counters, so that every byte comes out again (make_vectors.py writes them all).
"""

from __future__ import annotations

import datetime
import io
import itertools
import json
import os
import shutil
import tarfile
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import zstandard

from kit import record
from kit.lab import issue, office, publish, rerun
from kit.pack import pack
from tests.adversarial import (
    audits,
    builder,
    test_audit,
    test_cosignatures,
    test_packed,
    test_plausible_runs,
    trust,
)
from tests.adversarial.kinds import ARGV, FIRST, KINDS, LARGE_BYTES, LATER, PACKED, SECOND, UNREAD, VENDOR, WITH_RUN, Case
from tests.adversarial.kinds_of_policies import POLICIES, two_versions
from tests.adversarial.make_vectors import FOLDER, GOOD, NAME, _step, differences

# --- a witness's copy ------------------------------------------------------------------------------------------------


def _witness(scene: Path) -> None:
    test_cosignatures.policy(scene).parent.rename(scene / "trust")
    (scene / "seen.txt").write_bytes(test_cosignatures.cosigned(scene / NAME))


def _other_run(edit: Callable[[builder.Bench], Any]) -> Callable[[Path], Any]:
    def act(scene: Path) -> None:
        shutil.rmtree(scene / NAME)
        builder.build(scene, edit)

    return act


def _fewer(bench: builder.Bench) -> None:
    bench.events.pop(builder.TEXT)
    bench.plan.document["cases"].pop()


def _no_checkpoint_between(scene: Path) -> None:
    """Only the last cosigned checkpoint is kept, so that nothing but the length tells."""
    (scene / "seen.txt").write_bytes(test_cosignatures.cosigned(scene / NAME, slice(-1, None)))
    _other_run(_fewer)(scene)


def _tail_rewritten(scene: Path) -> None:
    """A witness saw the first checkpoint alone, and everything behind it is made anew."""
    (scene / "seen.txt").write_bytes(test_cosignatures.cosigned(scene / NAME, slice(1)))
    _other_run(lambda bench: bench.step(1).update(grad_norm=1.495))(scene)


WITNESSED = (
    Case("witness", 26, "witness.fork", "history rewritten under way", _other_run(lambda bench: bench.step(1).update(grad_norm=1.495))),
    Case("witness", 29, "witness.rollback", "a shorter log", _no_checkpoint_between),
    Case("witness", 27, "", "the unwitnessed tail rewritten", _tail_rewritten, exit_code=0,
         accepted="nobody saw what was there before: the result states a longer unwitnessed window"),
)  # fmt: skip

# --- audits ----------------------------------------------------------------------------------------------------------


@contextmanager
def _counted(folder: Path) -> Iterator[None]:
    """Clocks and chance of a lab and a vendor, from counters."""
    clock, chance = builder.Clock(), itertools.count(1)

    def wall_ns() -> int:
        return clock()[0]

    def now() -> datetime.datetime:
        return datetime.datetime.fromtimestamp(wall_ns() // builder.NS_PER_S, datetime.UTC)

    def drawn(_: int) -> int:
        return next(chance)

    with ExitStack() as stack:
        for patch in (
            mock.patch.dict(os.environ, {"CHIPASSAY_STATE": str(folder)}),
            mock.patch.object(record, "clocks", clock),
            mock.patch.object(time, "time_ns", wall_ns),
            mock.patch.object(office, "now", now),
            mock.patch("secrets.token_bytes", lambda size: next(chance).to_bytes(size, "big")),
            mock.patch("secrets.token_hex", lambda size: next(chance).to_bytes(size, "big").hex()),
            mock.patch("secrets.randbelow", drawn),
            *(mock.patch.object(module, "scorer_sha256", return_value="5" * 64) for module in (issue, rerun)),
        ):
            stack.enter_context(patch)
        yield


@contextmanager
def _played(**how: Any) -> Iterator[audits.Played]:
    with tempfile.TemporaryDirectory() as scratch, _counted(Path(scratch) / "state"):
        yield audits.play(Path(scratch) / "office", choose=1, **how)


def _audit(scene: Path, **how: Any) -> None:
    with _played(**how) as made:
        shutil.copytree(made.run, scene / VENDOR)
        shutil.copytree(made.audit, scene / "audit")
        shutil.copytree(made.office.policy.parent, scene / "trust")


def _attacked(act: Callable[[test_audit.Copy], Any]) -> Callable[[Path], Any]:
    def changed(scene: Path) -> None:
        with tempfile.TemporaryDirectory() as scratch, _counted(Path(scratch)):
            act(test_audit.Copy(scene / VENDOR, scene / "audit", scene / FIRST))

    return changed


def _slower(factors: dict[str, float]) -> Callable[[Path], Any]:
    """The whole audit played again on a machine of the lab that is slower than the vendor says."""

    def act(scene: Path) -> None:
        for path in list(scene.iterdir()):
            shutil.rmtree(path)
        _audit(scene, factors=lambda _: factors)

    return act


def _revoked_before(scene: Path) -> None:
    first = test_audit.payload(scene / FIRST)
    second = trust.after(first)
    second["keys"][trust.name("ann")]["revoked"] = {"since": "2026-09-01T00:00:00Z", "reason": "compromise"}
    trust.write(scene / "trust", trust.seal(first), trust.seal(second))


AUDITED = (
    "an old run for a new challenge", "another vendor's run", "the lab picks the sample", "the lab opens another r", "the audit tells another seed",
    "a case is chosen twice", "a reveal that names no receipt", "reveal before receipt in the ledger", "a receipt from before the challenge",
    "receipt of another challenge", "audit of another challenge", "the vendor signs the audit", "one person signs the audit",
    "another lab signs the challenge", "values that the lab's runs do not give", "a verdict that does not follow", "a run of the lab kept back",
    "the vendor's events as the lab's", "a run of the lab on another chip", "claims recomputed that are not these", "another ledger",
    "a second receipt in the ledger", "the way back", "a file beside the audit",
)  # fmt: skip
AUDITS = (
    *(Case("audit", row, rule, name, _attacked(act)) for row, name, rule, act in test_audit.ATTACKS if name in AUDITED),
    Case("audit", 24, "audit.fail", "one case in ten forged by 30 %", _slower({"pretrain-1": 1.3})),
    Case("audit", 25, "audit.fail", "every claim 10 % too high", _slower(dict.fromkeys(audits.CASES, 1.1))),
    Case("audit", 40, "policy.revoked", "a key revoked before the receipt", _revoked_before,
         ("audit", VENDOR, "audit", "--policy", SECOND, *LATER)),
    Case("audit", 41, "audit.folder", "no receipt", lambda scene: (scene / "audit/receipt.dsse.json").unlink()),
)  # fmt: skip

# --- publications ----------------------------------------------------------------------------------------------------


def _status(made: audits.Played, target: Path) -> None:
    publish.status(made.office.lab, target, (*made.office.keys, trust.key("pia")), str(made.office.policy), 30)


def _publication(scene: Path) -> None:
    """A result, and the list on which it stands; `withdrawn.dsse.json` is the list after its withdrawal."""
    with _played() as made:
        made.office.publish(made.run, scene / "result")
        shutil.copytree(made.office.policy.parent, scene / "trust")
        _status(made, scene / "status.dsse.json")
        shutil.copy(scene / "status.dsse.json", scene / "withdrawn.dsse.json")
        publish.withdraw(made.office.lab, str(made.run), "clocks were set too high", made.office.keys)
        _status(made, scene / "withdrawn.dsse.json")


def _signed_by_vendor(scene: Path) -> None:
    path = scene / "status.dsse.json"
    path.write_bytes(trust.statements.sign(trust.canonical(test_audit.payload(path)), [trust.key("ann")]))


PUBLISHED = ("publication", "result", "--policy", FIRST, "--status")
PUBLICATIONS = (
    Case("publication", 16, "status.publication", "a withdrawn result", lambda _: None, (*PUBLISHED, "withdrawn.dsse.json", *LATER)),
    Case("publication", 16, "status.stale", "a withdrawal held back", lambda _: None,
         (*PUBLISHED, "status.dsse.json", "--at", "2026-11-15T00:00:00Z"), exit_code=2),
    Case("publication", 16, "policy.role", "a list signed by the vendor", _signed_by_vendor),
    Case("publication", 23, "publication.folder", "a file beside the result", lambda scene: (scene / "result/x").write_text("x")),
)  # fmt: skip

# --- archives --------------------------------------------------------------------------------------------------------


def _archive(scene: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copy(pack(builder.build(Path(scratch))), scene / f"{NAME}.tar.zst")


def _packed(data: Callable[[], bytes]) -> Callable[[Path], Any]:
    return lambda scene: (scene / f"{NAME}.tar.zst").write_bytes(data())


def _bomb() -> bytes:
    return test_packed.packed(test_packed.tar({f"{NAME}/a": bytes(2**28)}))


ARCHIVES = (
    *(Case("archive", 36, f"archive.{test_packed.ATTACKS[name][0]}", name, _packed(lambda name=name: test_packed.ATTACKS[name][1]))  # type: ignore[misc]
      for name in ("a symbolic link", "a hard link", "a device", "an absolute path", "a path upwards", "a twin by case", "bytes after the end")),
    Case("archive", 36, "archive.ratio", "an archive that bursts", _packed(_bomb)),
)  # fmt: skip

# --- durations and telemetry that were made up -----------------------------------------------------------------------


def _lied(lie: Callable[[builder.Bench], object]) -> Callable[[Path], Any]:
    def act(scene: Path) -> None:
        shutil.rmtree(scene / NAME)
        test_plausible_runs.built(scene, lie)

    return act


ONLY_SAID = "a warning, which refuses nothing: an honest machine might do it"
PLAUSIBLE = tuple(
    Case("plausible", 35, rule, name, _lied(lie), exit_code=0, accepted=ONLY_SAID)
    for rule, name, lie in (
        ("plausible.repeated", "series copied within a case", test_plausible_runs.repeated),
        ("plausible.scaled", "series of another case, multiplied", test_plausible_runs.multiplied(0.77, "plausible.scaled")),
        ("plausible.lattice", "durations multiplied by 1.3", test_plausible_runs.multiplied(1.3, "plausible.lattice")),
        ("plausible.smooth", "durations drawn without noise", test_plausible_runs.drawn),
        ("plausible.idle", "durations told too short", test_plausible_runs.shrunk),
        ("plausible.telemetry", "telemetry of an accelerator at rest", lambda bench: test_plausible_runs.spliced(bench, (0, 1))),
    )
)
CASES = (*POLICIES, *WITNESSED, *AUDITS, *PUBLICATIONS, *ARCHIVES, *PLAUSIBLE)
MAKERS: dict[str, Callable[[Path], Any]] = {
    "policy": two_versions, "witness": _witness, "audit": _audit, "publication": _publication, "archive": _archive, "plausible": test_plausible_runs.built,
}  # fmt: skip


def scene(kind: str, top: Path, folder: Path) -> Path:
    """The good scene of a kind as a folder."""
    made = folder / kind
    made.mkdir()
    _lay(top / kind / GOOD, made)
    if kind in WITH_RUN:
        shutil.copytree(top / GOOD / NAME, made / NAME)
    return made


def apply(vector: Path, folder: Path) -> Path:
    """The scene of a vector, which is vectors/<kind>/good or one of vectors/<kind>/bad."""
    if vector.name == GOOD:
        return scene(vector.parent.name, FOLDER, folder)
    made = scene(vector.parent.parent.name, FOLDER, folder)
    for step in tomllib.loads((vector / "vector.toml").read_text(encoding="utf-8")).get("step", []):
        _step(made, made / step["path"], step)
    _lay(vector, made)
    return made


def _lay(vector: Path, made: Path) -> None:
    """Lay a vector's files over a scene."""
    if (vector / "files").is_dir():
        shutil.copytree(vector / "files", made, dirs_exist_ok=True)
    if (vector / PACKED).is_file():
        plain = zstandard.ZstdDecompressor().decompressobj().decompress((vector / PACKED).read_bytes())
        with tarfile.open(fileobj=io.BytesIO(plain)) as held:
            held.extractall(made, filter="data")


def _keep(files: dict[str, bytes], vector: Path) -> None:
    """Write a vector's files, as one archive where they are many."""
    if sum(len(data) for data in files.values()) > LARGE_BYTES:
        files = {PACKED: test_packed.packed(test_packed.tar(dict(sorted(files.items()))))}
    else:
        files = {f"files/{name}": data for name, data in files.items()}
    vector.mkdir(parents=True)
    for name, data in files.items():
        path = vector / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _toml(kind: str, case: Case | None, steps: list[dict[str, Any]]) -> str:
    lines = [] if case is None else [f"row = {case.row}  # of the attack table, 0: none", f"attack = {json.dumps(case.name)}", ""]
    lines += ["[verify]  # python -m verify, within the scene; `before` is run first and answers 0"]
    if case is not None and case.before:
        lines.append(f"before = {json.dumps([list(argv) for argv in case.before])}")
    lines.append(f"argv = {json.dumps(list((case and case.argv) or ARGV[kind]))}")
    lines += ["exit = 0"] if case is None else [f"exit = {case.exit_code}", f'rule = "{case.rule}"']
    lines += [f'accepted = "{case.accepted}"'] if case is not None and case.accepted else []
    for other in ("shell", "node"):
        lines += ["", f"[{other}]", 'result = "unread"', f'why = "{UNREAD}"']
    for step in steps:
        lines += ["", "[[step]]", *(f"{key} = {json.dumps(value)}" for key, value in step.items())]
    return "\n".join(lines) + "\n"


def write(top: Path) -> None:
    """Every kind below `top`, where the good run stands already."""
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as scratch:
            made = Path(scratch)
            if kind in WITH_RUN:
                shutil.copytree(top / GOOD / NAME, made / NAME)
            MAKERS[kind](made)
            if kind in WITH_RUN:
                shutil.rmtree(made / NAME)
            _keep({path.relative_to(made).as_posix(): path.read_bytes() for path in made.rglob("*") if path.is_file()}, top / kind / GOOD)
        (top / kind / GOOD / "vector.toml").write_text(_toml(kind, None, []), encoding="utf-8")
    for case in CASES:
        _write_case(case, top)


def _write_case(case: Case, top: Path) -> None:
    with tempfile.TemporaryDirectory() as good, tempfile.TemporaryDirectory() as bad:
        before, after = (scene(case.kind, top, Path(folder)) for folder in (good, bad))
        case.act(after)
        files, steps = differences(before, after)
    _keep(files, top / case.folder)
    (top / case.folder / "vector.toml").write_text(_toml(case.kind, case, steps), encoding="utf-8")
