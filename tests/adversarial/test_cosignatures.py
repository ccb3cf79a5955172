"""Cosignatures in a sealed run: what a witness saw binds the history; what nobody saw is stated, never hidden."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kit.report import body, words
from tests.adversarial import builder, trust
from tests.adversarial.builder import NS_PER_S, WALL_NS, Bench
from verify import cosign, notes, table
from verify.envelope import keyid, spki
from verify.replay import replay

WITNESS = Ed25519PrivateKey.from_private_bytes(bytes(32))
SECOND = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ALL = slice(None)
BEGIN_S = (WALL_NS + 1000 * NS_PER_S) // NS_PER_S


def policy(folder: Path, quorum: int | None = None) -> Path:
    """The tests' policy with two more witnesses."""
    document = trust.document()
    for party, key in {"wit-1": WITNESS, "wit-2": SECOND}.items():
        text = base64.b64encode(spki(key.public_key())).decode()
        document["keys"][keyid(key.public_key())] = trust.entry("wim") | {"spki": text, "person": party}
        document["parties"][party] = {"kind": "witness"}
        document["persons"][party] = {"party": party, "name": party}
    if quorum:
        document["rules"]["cosignature/v1"] = [{"kind": "witness", "threshold": quorum}]
    return trust.write(folder / "policy", trust.seal(document))


def line(note: notes.Note, time_s: int, key: Ed25519PrivateKey = WITNESS, name: str = "w.example/1") -> str:
    signature = key.sign(cosign.message(time_s, notes.body(note.origin, note.size, note.root)))
    return cosign.render(name, key.public_key(), time_s, signature)


def checkpoints(run: Path) -> list[notes.Note]:
    return list(notes.split((run / "runlog/checkpoints.txt").read_bytes()))


def cosigned(run: Path, take: slice = ALL, after_s: int = 2, keys: tuple[Ed25519PrivateKey, ...] = (WITNESS,)) -> bytes:
    """Some of a run's checkpoints as witnesses saw them, the i-th `after_s * i` seconds after the run was opened."""
    found = list(enumerate(checkpoints(run), start=1))[take]
    texts = [notes.render(note) + "".join(line(note, BEGIN_S + after_s * i, key) for key in keys) + "\n" for i, note in found]
    return "".join(texts).encode()


def put(run: Path, data: bytes) -> Path:
    (run / "runlog/cosignatures.txt").write_bytes(data)
    return run


def outcome(run: Path, policy: Path, **given: Any) -> Any:
    """The result, without the notice that a policy is used for the first time."""
    found = replay(run, policy, trust.AT, **given)
    found.findings[:] = [finding for finding in found.findings if finding.rule != "policy.first"]
    return found


def test_a_witnessed_run(tmp_path: Path) -> None:
    """Each checkpoint seen after two seconds more: the window is the longest stretch between two of them."""
    run = builder.build(tmp_path)
    sizes = [note.size for note in checkpoints(run)]
    found = outcome(put(run, cosigned(run)), policy(tmp_path))
    assert (found.verdict, found.findings) == ("verified", [])
    window = found.run["unwitnessed"]
    assert window == {
        "entries": max(later - earlier for earlier, later in zip([0, *sizes], sizes, strict=False)),
        "seconds": 2, "cosignatures": len(sizes), "witnesses": ["wit-1"],
    }  # fmt: skip


def test_without_a_witness_the_window_is_the_run(tmp_path: Path) -> None:
    """Attack 27: rewritten before anybody saw it, a run verifies; what a reader is told is how much that may be."""
    run = builder.build(tmp_path)
    found = replay(run, "self")
    size = checkpoints(run)[-1].size
    assert found.verdict == "verified"
    assert found.run["unwitnessed"]["entries"] == size
    assert found.run["unwitnessed"]["seconds"] >= 2
    assert f"none; longest unwitnessed stretch {found.run['unwitnessed']['seconds']} s, {size} log entries" in table.render(
        found.document()
    )


def test_the_tail_that_nobody_saw_counts(tmp_path: Path) -> None:
    run = builder.build(tmp_path)
    first = checkpoints(run)[0].size
    window = outcome(put(run, cosigned(run, slice(1))), policy(tmp_path)).run["unwitnessed"]
    assert window["entries"] == checkpoints(run)[-1].size - first


def test_the_unwitnessed_tail_rewritten_is_not_caught_and_said(tmp_path: Path) -> None:
    """Attack 27 as such: everything after the last cosignature made anew under the vendor's key."""
    run = builder.build(tmp_path / "true")
    seen = cosigned(run, slice(1))

    def faster(bench: Bench) -> None:
        for number in range(4):
            bench.step(number)["grad_norm"] = 1.495

    (tmp_path / "false").mkdir()
    other = builder.build(tmp_path / "false", faster)
    found = outcome(put(other, seen), policy(tmp_path))
    assert found.verdict == "verified"
    assert found.run["unwitnessed"]["entries"] == checkpoints(other)[-1].size - checkpoints(other)[0].size


def test_a_quorum_counts_parties(tmp_path: Path) -> None:
    run = builder.build(tmp_path)
    trusted = policy(tmp_path, quorum=2)
    size = checkpoints(run)[-1].size
    assert outcome(put(run, cosigned(run)), trusted).run["unwitnessed"]["entries"] == size
    twice = outcome(put(run, cosigned(run, keys=(WITNESS, WITNESS))), trusted)
    assert twice.run["unwitnessed"]["entries"] == size
    both = outcome(put(run, cosigned(run, keys=(WITNESS, SECOND))), trusted)
    assert (both.findings, both.run["unwitnessed"]["witnesses"]) == ([], ["wit-1", "wit-2"])
    assert both.run["unwitnessed"]["entries"] < size


def test_a_witness_that_no_policy_names(tmp_path: Path) -> None:
    run = builder.build(tmp_path)
    other = Ed25519PrivateKey.generate()
    found = outcome(put(run, cosigned(run, slice(1), keys=(other,))), policy(tmp_path))
    assert [(finding.rule, finding.severity) for finding in found.findings] == [("witness.unknown", "notice")]
    assert found.run["unwitnessed"]["cosignatures"] == 0


def rewritten(folder: Path) -> tuple[Path, bytes]:
    """A run rewritten from its first case on, and what the witness had seen of the true one (attack 26)."""
    true = builder.build(folder / "true")
    seen = cosigned(true)
    run = builder.build(folder / "false", lambda bench: bench.step(1).update(grad_norm=1.495))
    return run, seen


def shortened(folder: Path) -> tuple[Path, bytes]:
    """A case left out of the log that the witness saw whole."""
    true = builder.build(folder / "true")
    seen = cosigned(true, slice(-1, None))

    def fewer(bench: Bench) -> None:
        bench.events.pop(builder.TEXT)
        bench.plan.document["cases"].pop()

    return builder.build(folder / "false", fewer), seen


def forged(folder: Path) -> tuple[Path, bytes]:
    """A cosignature whose time was moved."""
    run = builder.build(folder)
    note = checkpoints(run)[0]
    text = line(note, BEGIN_S)
    other = line(note, BEGIN_S + 1)
    blob, wrong = (base64.b64decode(item.split(" ")[2]) for item in (text, other))
    mixed = base64.b64encode(wrong[:12] + blob[12:]).decode()
    return run, (notes.render(note) + f"— w.example/1 {mixed}\n\n").encode()


def outside(folder: Path) -> tuple[Path, bytes]:
    run = builder.build(folder)
    note = checkpoints(run)[0]
    return run, (notes.render(note) + line(note, BEGIN_S + 10 * 365 * 86400) + "\n").encode()


def foreign(folder: Path) -> tuple[Path, bytes]:
    """Cosignatures of another run's log, whose first entries are as many."""
    run = builder.build(folder)
    note = checkpoints(run)[0]
    moved = notes.Note(note.origin + "0", note.size, note.root, note.signature)
    return run, (notes.render(moved) + line(moved, BEGIN_S) + "\n").encode()


REFUSED: dict[str, Callable[[Path], tuple[Path, bytes]]] = {
    "witness.fork": rewritten,
    "witness.rollback": shortened,
    "witness.signature": forged,
    "witness.window": outside,
    "witness.origin": foreign,
    "witness.form": lambda folder: (builder.build(folder), b"hello\n"),
}


@pytest.mark.parametrize("rule", REFUSED)
def test_what_a_witness_saw_binds(rule: str, tmp_path: Path) -> None:
    for name in ("true", "false"):
        (tmp_path / name).mkdir()
    run, seen = REFUSED[rule](tmp_path)
    found = outcome(put(run, seen), policy(tmp_path))
    assert found.verdict == "refused"
    assert {finding.rule for finding in found.findings} == {rule}


def test_what_the_vendor_left_out_the_witness_gives(tmp_path: Path) -> None:
    """Attack 29 with the cosignatures deleted, too: the witness's own copy refuses the run."""
    for name in ("true", "false"):
        (tmp_path / name).mkdir()
    run, seen = rewritten(tmp_path)
    trusted = policy(tmp_path)
    assert outcome(run, trusted).verdict == "verified"
    assert {finding.rule for finding in outcome(run, trusted, witnessed=tuple(cosign.split(seen))).findings} == {"witness.fork"}


def test_reports_state_the_window(tmp_path: Path) -> None:
    """In both languages, whatever the format: the table of the seal has it."""
    run = builder.build(tmp_path)
    document = outcome(put(run, cosigned(run)), policy(tmp_path)).document()
    shown = {}
    for language in words.LANGUAGES:
        table = body._seal(SimpleNamespace(result=document), words.load(language))  # type: ignore[arg-type]
        shown[language] = dict(table.rows)
    window = document["run"]["unwitnessed"]
    assert shown["en"]["Unwitnessed at most"] == (
        f"2 s, {window['entries']} run log entries ({len(checkpoints(run))} cosignatures; witnesses: wit-1)"
    )
    assert "见证方：wit-1" in shown["zh"]["未见证的最长区间"]
