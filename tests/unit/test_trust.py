"""`kit trust` from an empty folder to a rotated policy, and every way of going wrong on one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kit import keys, trust
from kit.cli import main
from verify import chain
from verify.policy import Moment, parse_time


def now() -> Moment:
    return Moment(trust._now())


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """A folder of key pairs, one subfolder a person."""
    for person in ("ann", "lea", "leo", "rik", "ria", "new"):
        keys.generate(tmp_path / "keys" / person)
    return tmp_path / "keys"


def public(people: Path, person: str) -> str:
    return str(people / person / keys.PUBLIC_NAME)


def private(people: Path, person: str) -> str:
    return str(people / person / keys.KEY_NAME)


def kit(*args: str | Path) -> int:
    return main(["trust", *map(str, args)])


@pytest.fixture
def first(tmp_path: Path, people: Path) -> Path:
    """Version 1, signed by both root persons."""
    folder = tmp_path / "trust"
    assert kit("init", folder, "--name", "office") == 0
    for person, party, kind in (("ann", "acme", "vendor"), ("lea", "lab-a", "lab"), ("leo", "lab-a", "lab")):
        assert kit("add", folder, "--person", person, "--party", party, "--kind", kind, "--public", public(people, person)) == 0
    for person in ("rik", "ria"):
        assert kit("add", folder, "--person", person, "--party", "lab-a", "--public", public(people, person), "--root") == 0
    assert kit("sign", folder, "--key", private(people, "rik")) == 0
    assert kit("sign", folder, "--key", private(people, "ria")) == 0
    return folder


def test_a_policy_from_nothing(first: Path) -> None:
    assert sorted(path.name for path in first.iterdir()) == ["1.dsse.json"]
    made = chain.load(first, now().at)
    assert {named.person for named in made.keys.values()} == {"ann", "lea", "leo", "rik", "ria"}
    assert "lab-audit/v1" in made.rules


def test_one_signature_is_not_enough(first: Path, people: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert kit("rotate", first) == 0
    assert kit("sign", first, "--key", private(people, "rik")) == 0
    assert "not enough yet" in capsys.readouterr().out
    assert not (first / "2.dsse.json").exists()
    assert kit("sign", first, "--key", private(people, "rik")) == 0
    assert not (first / "2.dsse.json").exists()


def test_rotation_to_a_new_root_person_and_a_revoked_key(first: Path, people: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert kit("rotate", first) == 0
    assert kit("add", first, "--person", "new", "--party", "lab-a", "--public", public(people, "new"), "--root") == 0
    assert kit("revoke", first, "--public", public(people, "rik"), "--reason", "superseded", "--since", "2026-01-01T00:00:00Z") == 0
    for person in ("rik", "ria", "new"):
        assert not (first / "2.dsse.json").exists()
        assert kit("sign", first, "--key", private(people, person)) == 0
    made = chain.load(first, now().at)
    assert (made.version, made.name) == (2, "office 2")
    capsys.readouterr()
    assert kit("show", first) == 0
    shown = capsys.readouterr().out
    assert "revoked since 2026-01-01T00:00:00Z (superseded)" in shown
    assert chain.read_chain(first)[0].sha256 in shown


def test_a_changed_draft_loses_its_signatures(first: Path, people: Path) -> None:
    assert kit("rotate", first) == 0
    assert kit("sign", first, "--key", private(people, "rik")) == 0
    assert kit("add", first, "--person", "new", "--party", "lab-a", "--public", public(people, "new")) == 0
    assert kit("sign", first, "--key", private(people, "ria")) == 0
    assert not (first / "2.dsse.json").exists()


def test_an_expired_policy_is_shown_as_such(first: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(trust, "_now", lambda: parse_time("2100-01-01T00:00:00Z"))
    assert kit("show", first) == 1
    assert "has expired" in capsys.readouterr().out


def wrong(*args: str | Path) -> tuple[int, str]:
    """Exit code and the line on stderr."""
    import contextlib
    import io

    err = io.StringIO()
    with contextlib.redirect_stderr(err):
        code = kit(*args)
    assert len(err.getvalue().strip().splitlines()) == 1
    return code, err.getvalue()


def test_misuse_is_one_line(first: Path, people: Path, tmp_path: Path) -> None:
    kit("rotate", first)
    ann = public(people, "ann")
    new = public(people, "new")
    said = [
        (("init", first, "--name", "x"), "there is a trust policy already"),
        (("init", tmp_path / "t"), "needs --name"),
        (("init", tmp_path / "t", "--name", "x", "--days", "0"), "--days is out of range"),
        (("add", first, "--person", "ann", "--party", "acme", "--public", ann), "key is in the policy already"),
        (("add", first, "--person", "ann", "--party", "lab-a", "--public", new), "person belongs to another party"),
        (("add", first, "--person", "new", "--party", "acme", "--kind", "lab", "--public", new), "kind of the party is not clear"),
        (("add", first, "--person", "new", "--party", "other", "--public", new), "kind of the party is not clear"),
        (("add", first, "--person", "new", "--party", "acme", "--public", people / "none.pem"), "public key cannot be read"),
        (("revoke", first, "--public", new, "--reason", "compromise"), "key is not in the policy"),
        (("revoke", first, "--public", ann, "--reason", "compromise", "--since", "today"), "--since is not a time"),
        (("rotate", first), "there is a draft already"),
        (("rotate", tmp_path / "nowhere"), "trust policy is missing"),
        (("show", people), "no trust policy in this folder"),
        (("sign", tmp_path, "--key", private(people, "rik")), "no draft of a trust policy"),
    ]
    for args, text in said:
        code, line = wrong(*args)
        assert (code, text in line) == (2, True), (args, line)


def test_a_draft_that_breaks_a_rule_is_not_signed(first: Path, people: Path) -> None:
    kit("rotate", first)
    draft = first / trust.DRAFT
    for change, rule in (
        (lambda d: d["rules"].update({"lab-audit/v1": [{"kind": "vendor", "threshold": 1}]}), "policy.role"),
        (lambda d: d["root"].update(threshold=5), "policy.threshold"),
        (lambda d: d.update(version=7), "policy.version"),
    ):
        document = json.loads(draft.read_text())
        change(document)
        draft.write_text(json.dumps(document))
        code, line = wrong("sign", first, "--key", private(people, "rik"))
        assert (code, rule in line) == (2, True), line
        draft.unlink()
        kit("rotate", first)
