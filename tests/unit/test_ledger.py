"""The lab's ledger: written entry by entry, read strictly, whole after a crash, and no state has a way back."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kit.errors import KitError
from kit.lab.ledger import Writer, opened
from verify import ledger
from verify.strict import canonical

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
A, B = "a" * 64, "b" * 64
D = "d" * 64
PASSED: list[dict[str, Any]] = [
    {"type": "challenge", "nonce_sha256": A},
    {"type": "receipt", "sha256": D, "run_sha256": D},
    {"type": "reveal", "sha256": D},
    {"type": "run-start", "name_sha256": D, "purpose": "sample", "repeat": 0},
    {"type": "run-end", "name_sha256": D, "sha256": D},
    {"type": "audit", "sha256": D, "verdict": "partial"},
    {"type": "audit", "sha256": D, "verdict": "pass"},
    {"type": "publication", "sha256": D},
    {"type": "withdrawal", "sha256": D},
]
KINDS = {
    "challenge": {"nonce_sha256": B}, "receipt": {"sha256": D, "run_sha256": D}, "reveal": {"sha256": D},
    "run-start": {"name_sha256": D, "purpose": "full", "repeat": 0}, "run-end": {"name_sha256": D, "sha256": D},
    "audit": {"sha256": D, "verdict": "pass"}, "failed": {"reason": "withdrawn"}, "publication": {"sha256": D}, "withdrawal": {"sha256": D},
}  # fmt: skip


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of short ledgers need not reach the disk."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def written(folder: Path, steps: list[dict[str, Any]]) -> Writer:
    writer = Writer(folder, "lab-a", KEY)
    for one in steps:
        writer.append(one["type"], A, **{name: value for name, value in one.items() if name != "type"})
    return writer


def faults(folder: Path, key: Ed25519PrivateKey = KEY, lab: str = "lab-a") -> set[str]:
    known = ledger.read(folder)
    return {finding.rule for finding in [*known.findings, *ledger.checkpoints(folder, known, lab, [key.public_key()])]}


def rewrite(folder: Path, index: int, **fields: Any) -> None:
    path = folder / ledger.ENTRIES
    lines = path.read_bytes().splitlines()
    lines[index] = canonical(json.loads(lines[index]) | fields)
    path.write_bytes(b"\n".join(lines) + b"\n")


def test_a_challenge_goes_its_way_to_the_end(tmp_path: Path) -> None:
    writer = written(tmp_path, PASSED)
    assert writer.state(A) == "withdrawn"
    assert writer.known.digests(A, ledger.Audit) == [D, D]
    writer.close()
    assert faults(tmp_path) == set()
    assert (tmp_path / "checkpoints.txt").read_text().count("chipassay.dev/lab/lab-a\n") == len(PASSED)


LENGTH = {"open": 1, "receipted": 2, "revealed": 3, "audited": 7, "published": 8, "withdrawn": 9}
ALLOWED = {
    "open": {"receipt"},
    "receipted": {"reveal", "failed"},
    "revealed": {"run-start", "run-end", "audit", "failed"},
    "audited": {"publication", "failed"},
    "published": {"withdrawal"},
    "withdrawn": set(),
    "failed": set(),
}


@pytest.mark.parametrize("state", ALLOWED)
def test_no_state_has_a_way_back(state: str, tmp_path: Path) -> None:
    """Attack 42: no step from any state leads to one before it, and none leaves `failed`."""
    start = [*PASSED[:2], {"type": "failed", "reason": "withdrawn after the receipt"}] if state == "failed" else PASSED[: LENGTH[state]]
    for kind, fields in KINDS.items():
        folder = tmp_path / kind
        writer = written(folder, start)
        assert writer.state(A) == state
        if kind in ALLOWED[state]:
            writer.append(kind, A, **fields)
            assert writer.state(A) not in {"new", "open"}
        else:  # and nothing of a refused step is written
            with pytest.raises(KitError, match=r"ledger\.state"):
                writer.append(kind, A, **fields)
        writer.close()
        assert faults(folder) == set()


def test_a_nonce_is_used_once(tmp_path: Path) -> None:
    writer = written(tmp_path, PASSED[:1])
    with pytest.raises(KitError, match=r"ledger\.nonce"):
        writer.append("challenge", B, nonce_sha256=A)
    writer.close()
    assert faults(tmp_path) == set()
    path = tmp_path / ledger.ENTRIES
    again = json.loads(path.read_bytes()) | {"n": 1, "challenge": B}
    path.write_bytes(path.read_bytes() + canonical(again) + b"\n")
    assert faults(tmp_path) == {"ledger.nonce", "ledger.checkpoint"}


def test_two_writers_are_one_too_many(tmp_path: Path) -> None:
    with opened(tmp_path, "lab-a", KEY), pytest.raises(KitError, match="another process"):
        Writer(tmp_path / "ledger", "lab-a", KEY)


@pytest.mark.parametrize(
    ("rule", "index", "fields"),
    [
        ("ledger.entry", 1, {"extra": 1}),
        ("ledger.entry", 1, {"sha256": "D" * 64}),
        ("ledger.entry", 0, {"type": "nothing"}),
        ("ledger.sequence", 1, {"n": 7}),
        ("ledger.time", 1, {"wall_ns": 1}),
        ("ledger.state", 1, {"challenge": B}),
        ("ledger.checkpoint", 1, {"run_sha256": A}),
    ],
)
def test_an_entry_that_was_changed(rule: str, index: int, fields: dict[str, Any], tmp_path: Path) -> None:
    written(tmp_path, PASSED[:3]).close()
    rewrite(tmp_path, index, **fields)
    assert rule in faults(tmp_path)
    with pytest.raises(KitError, match="does not hold together"):
        Writer(tmp_path, "lab-a", KEY)


def test_an_entry_that_was_taken_away(tmp_path: Path) -> None:
    written(tmp_path, PASSED[:3]).close()
    path = tmp_path / ledger.ENTRIES
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    assert faults(tmp_path) == {"ledger.checkpoint"}


def test_checkpoints_are_the_labs(tmp_path: Path) -> None:
    written(tmp_path, PASSED[:2]).close()
    assert faults(tmp_path, Ed25519PrivateKey.generate()) == {"ledger.checkpoint"}
    assert faults(tmp_path, lab="lab-b") == {"ledger.checkpoint"}
    (tmp_path / ledger.CHECKPOINTS).write_bytes(b"\xff")
    assert faults(tmp_path) == {"ledger.checkpoint"}


def test_a_crash_at_any_byte_leaves_a_ledger_that_goes_on(tmp_path: Path) -> None:
    """The last write may be cut anywhere: what was whole stays, and its checkpoint is made up for."""
    written(tmp_path / "whole", PASSED[:3]).close()
    entries = (tmp_path / "whole" / ledger.ENTRIES).read_bytes()
    signed = (tmp_path / "whole" / ledger.CHECKPOINTS).read_bytes()
    second = signed.index("\n\n—".encode())
    for cut in range(0, len(entries) - entries.rstrip(b"\n").rfind(b"\n"), 31):
        folder = tmp_path / f"e{cut}"
        folder.mkdir()
        (folder / ledger.ENTRIES).write_bytes(entries[: len(entries) - cut])
        kept = len(entries[: len(entries) - cut].split(b"\n")) - 1
        (folder / ledger.CHECKPOINTS).write_bytes(signed if kept == 3 else b"".join(_notes(signed)[:kept]))
        _goes_on(folder, kept)
    for cut in range(second, len(signed), 53):
        folder = tmp_path / f"n{cut}"
        folder.mkdir()
        (folder / ledger.ENTRIES).write_bytes(entries)
        (folder / ledger.CHECKPOINTS).write_bytes(signed[:cut])
        _goes_on(folder, 3)


def _notes(signed: bytes) -> list[bytes]:
    lines = signed.splitlines(keepends=True)
    return [b"".join(lines[index : index + 6]) for index in range(0, len(lines), 6)]


def _goes_on(folder: Path, kept: int) -> None:
    writer = Writer(folder, "lab-a", KEY)
    assert len(writer.known.entries) == kept
    writer.close()
    assert faults(folder) == set()
