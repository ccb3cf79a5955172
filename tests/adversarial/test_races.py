"""A run that changes while it is checked: what is scored must be what is hashed, since each file is read once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.adversarial import builder
from verify import files, tree
from verify.files import Evidence
from verify.findings import Refused
from verify.replay import replay

EVENTS = f"cases/{builder.PRETRAIN}/attempt-1/events-00000.jsonl"


@pytest.mark.parametrize("path", ["environment.json", EVENTS, f"cases/{builder.TEXT}/attempt-1/stdout.log"])
def test_a_file_that_grows_while_it_is_read(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = builder.build(tmp_path) / "evidence" / path
    real = files.Source.end

    def growing(source: files.Source) -> files.Seen:
        if source.path == path:
            with target.open("ab") as file:
                file.write(b"\n")
        return real(source)

    monkeypatch.setattr(files.Source, "end", growing)
    outcome = replay(tmp_path / target.relative_to(tmp_path).parts[0], "self")
    assert outcome.verdict == "refused"
    assert "tree.changed" in {finding.rule for finding in outcome.findings}


@pytest.mark.parametrize("path", ["plan.json", EVENTS])
def test_a_file_swapped_after_the_folders_were_listed(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is scored now was hashed as it was read: the swap shows by its digest, and as a change."""
    run = builder.build(tmp_path)
    real = tree.Walk

    def swapped(top: Path) -> tree.Walk:
        walk = real(top)
        (top / path).write_bytes((top / path).read_bytes() + b"\n")
        return walk

    monkeypatch.setattr(tree, "Walk", swapped)
    assert {"tree.changed", "tree.digest"} <= {finding.rule for finding in replay(run, "self").findings}


def test_a_file_swapped_after_it_was_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put back what was sealed once the false events are read, clock and all: the bytes that were scored are the ones compared."""
    run = builder.build(tmp_path)
    target = run / "evidence" / EVENTS
    sealed = target.read_bytes()
    target.write_bytes(sealed.replace(b'"python":"3.11.7"', b'"python":"3.11.8"'))
    real = tree.hashed

    def restored(walk: tree.Walk, evidence: Evidence) -> object:
        target.write_bytes(sealed)
        return real(walk, evidence)

    monkeypatch.setattr(tree, "hashed", restored)
    assert {finding.rule for finding in replay(run, "self").findings} == {"tree.digest", "heartbeat.prefix"}


def test_a_document_that_is_not_what_it_was_at_first_reading(tmp_path: Path) -> None:
    evidence = Evidence(tmp_path)
    (tmp_path / "plan.json").write_bytes(b"{}\n")
    evidence.read("plan.json")
    (tmp_path / "plan.json").write_bytes(b"[]\n")
    with pytest.raises(Refused, match=r"tree\.read"):
        evidence.read("plan.json")
