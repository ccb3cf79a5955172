"""Versions of a trust policy: rotation by both thresholds, in order, never back, never expired, never two of one number."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.adversarial import trust
from tests.adversarial.trust import AT, ROOTS, Document
from verify import chain
from verify.cli import main
from verify.findings import Refused, Unchecked
from verify.strict import canonical

FIRST = trust.seal(trust.document())


def second(change: Callable[[Document], Any] = lambda _: None) -> Document:
    document = trust.after(trust.document())
    change(document)
    return document


def handed_over() -> Document:
    """Version 2 has root keys of two other persons."""
    return second(lambda d: d.update(root={"threshold": 2, "keys": [trust.name("liz"), trust.name("pia")]}))


def test_rotation_to_new_root_keys(tmp_path: Path) -> None:
    path = trust.write(tmp_path, FIRST, trust.seal(handed_over(), ["root-1", "root-3", "liz", "pia"]))
    assert chain.load(path, AT).version == 2
    assert chain.load(tmp_path, AT).name == "tests 2"


UNSIGNED: dict[str, tuple[str, Document, list[str]]] = {
    "by one of two persons": ("policy.root", second(), ["root-1"]),
    "by old root keys alone": ("policy.root", handed_over(), ["root-1", "root-2"]),
    "by new root keys alone": ("policy.root", handed_over(), ["liz", "pia"]),
    "by one old and two new": ("policy.root", handed_over(), ["root-1", "liz", "pia"]),
    "by keys that are no root keys": ("policy.root", second(), ["ann", "lea", "leo"]),
    "a version skipped": ("policy.version", second(lambda d: d.update(version=3)), [*ROOTS]),
    "after another version": ("policy.version", second(lambda d: d.update(previous={"sha256": "0" * 64})), [*ROOTS]),
    "of another policy": ("policy.version", second(lambda d: d.update(name="other")), [*ROOTS]),
}


@pytest.mark.parametrize("name", UNSIGNED)
def test_rotation_that_is_refused(name: str, tmp_path: Path) -> None:
    rule, document, signers = UNSIGNED[name]
    trust.write(tmp_path, FIRST)
    path = tmp_path / f"{document['version']}.dsse.json"
    path.write_bytes(trust.seal(document, signers))
    if document["version"] == 3:
        (tmp_path / "2.dsse.json").write_bytes(trust.seal(second(), ROOTS))
    with pytest.raises(Refused) as stop:
        chain.load(path, AT)
    assert stop.value.finding.rule == rule


def test_two_root_keys_of_one_person_make_one_signature(tmp_path: Path) -> None:
    document = trust.document()
    document["keys"][trust.name("root-1", 1)] = trust.entry("root-1", 1)
    document["root"]["keys"].append(trust.name("root-1", 1))
    sealed = trust.statements.sign(canonical(document), [trust.key("root-1"), trust.key("root-1", 1)], chain.PAYLOAD_TYPE)
    with pytest.raises(Refused, match=r"policy\.root"):
        chain.load(trust.write(tmp_path, sealed), AT)


def test_a_revoked_root_key_does_not_count(tmp_path: Path) -> None:
    document = trust.document()
    document["keys"][trust.name("root-1")]["revoked"] = {"since": "2026-03-01T00:00:00Z", "reason": "compromise"}
    with pytest.raises(Refused, match=r"policy\.root"):
        chain.load(trust.write(tmp_path, trust.seal(document, ["root-1", "root-2"])), AT)


def test_a_root_key_revoked_by_the_next_version_does_not_count_for_it(tmp_path: Path) -> None:
    document = second(lambda d: d["keys"][trust.name("root-1")].update(revoked={"since": "2026-03-01T00:00:00Z", "reason": "compromise"}))
    trust.write(tmp_path, FIRST, trust.seal(document, ["root-1", "root-2"]))
    with pytest.raises(Refused, match=r"policy\.root"):
        chain.load(tmp_path, AT)
    trust.write(tmp_path, FIRST, trust.seal(document, ["root-2", "root-3"]))
    assert chain.load(tmp_path, AT).version == 2


def test_one_changed_byte_of_the_payload(tmp_path: Path) -> None:
    sealed = json.loads(FIRST)
    sealed["payload"] = base64.b64encode(base64.b64decode(sealed["payload"]).replace(b'"threshold":2', b'"threshold":1')).decode()
    with pytest.raises(Refused, match=r"policy\.root"):
        chain.load(trust.write(tmp_path, canonical(sealed)), AT)


def test_a_statement_is_no_policy(tmp_path: Path) -> None:
    sealed = trust.statements.sign(canonical(trust.document()), [trust.key(person) for person in ROOTS])
    with pytest.raises(Refused, match=r"policy\.type"):
        chain.load(trust.write(tmp_path, sealed), AT)


def test_a_plain_file_is_no_policy(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"envelope\.fields"):
        chain.load(trust.write(tmp_path, canonical(trust.document())), AT)


def test_going_back_to_an_older_version(tmp_path: Path) -> None:
    path = trust.write(tmp_path, FIRST, trust.seal(second()))
    assert chain.load(path, AT).version == 2
    with pytest.raises(Refused, match=r"policy\.rollback"):
        chain.load(tmp_path / "1.dsse.json", AT)
    assert chain.load(path, AT).findings == ()


def test_two_policies_with_one_number(tmp_path: Path) -> None:
    chain.load(trust.write(tmp_path, FIRST, trust.seal(second())), AT)
    other = second(lambda d: d.update(statusMaxAgeDays=1))
    with pytest.raises(Refused, match=r"policy\.fork"):
        chain.load(trust.write(tmp_path, FIRST, trust.seal(other)), AT)
    third = trust.after(other)
    with pytest.raises(Refused, match=r"policy\.fork"):
        chain.load(trust.write(tmp_path, FIRST, trust.seal(other), trust.seal(third)), AT)


def test_another_signature_makes_no_other_policy(tmp_path: Path) -> None:
    chain.load(trust.write(tmp_path, FIRST), AT)
    assert chain.load(trust.write(tmp_path, trust.seal(trust.document(), ROOTS)), AT).findings == ()


@pytest.mark.parametrize("missing", [1, 2])
def test_a_version_that_is_missing(missing: int, tmp_path: Path) -> None:
    document = second()
    path = trust.write(tmp_path, FIRST, trust.seal(document), trust.seal(trust.after(document)))
    (tmp_path / f"{missing}.dsse.json").unlink()
    with pytest.raises(Unchecked, match="trust policy is missing"):
        chain.load(path, AT)


def test_an_expired_policy(tmp_path: Path) -> None:
    path = trust.write(tmp_path, FIRST)
    with pytest.raises(Unchecked, match=r"policy\.expired"):
        chain.load(path, AT.replace(year=2027, month=2))


def test_a_store_that_is_damaged_is_not_taken_for_an_empty_one(tmp_path: Path, state: Path) -> None:
    path = trust.write(tmp_path, FIRST)
    chain.load(path, AT)
    for damage in ("", "{}", '{"policies": {"x": {}}}', '{"policies": []}'):
        (state / "trust.json").write_text(damage)
        with pytest.raises(Unchecked, match="store cannot be read"):
            chain.load(path, AT)


def test_a_store_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr(chain, "store_path", lambda: tmp_path / "missing/trust.json")
    monkeypatch.setattr(chain, "_write", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    found = chain.load(trust.write(tmp_path / "trust", FIRST), AT).findings
    assert [finding.rule for finding in found] == ["policy.first", "policy.store"]


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda folder: trust.write(folder, trust.seal(trust.document(), ["root-1"])), 1),
        (lambda folder: folder / "nothing.json", 2),
        (lambda folder: folder, 2),
    ],
)
def test_exit_code_of_a_policy_that_cannot_be_used(make: Any, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.adversarial import builder

    (tmp_path / "trust").mkdir()
    assert main([str(builder.build(tmp_path)), "--policy", str(make(tmp_path / "trust"))]) == code
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
