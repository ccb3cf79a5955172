"""A run that answers a challenge: bound by digest, seeded by its nonce, sealed by the vendor that it names."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kit import challenge as asking
from kit import plan, statements
from kit.errors import KitError
from tests.adversarial import builder, trust
from tests.adversarial.builder import PRETRAIN, TEXT, Bench
from tests.adversarial.samples import challenge_predicate
from verify import challenge
from verify.replay import replay

NONCE = "00112233445566778899aabbccddeeff"
PLAN = plan.resolve(builder.source(), "tests")


def sealed(*signers: str, **changes: Any) -> bytes:
    payload = statements.payload("challenge/v1", {"plan.json": PLAN.sha256()}, challenge_predicate(**{"nonce": NONCE} | changes))
    return statements.sign(payload, [trust.key(person) for person in signers or ("lea",)])


def built(folder: Path, data: bytes, edit: Callable[[Bench], Any] = lambda _: None) -> Path:
    def answer(bench: Bench) -> None:
        bench.answer(data)
        edit(bench)

    return builder.build(folder, answer)


def broken(run: Path, given: Path | str = "self") -> set[str]:
    return {finding.rule for finding in replay(run, given, trust.AT).findings if finding.severity == "error"}


@pytest.fixture
def given(tmp_path: Path) -> Path:
    def change(document: dict[str, Any]) -> dict[str, Any]:
        document["rules"]["vendor-run/v1"] = [{"party": "=challenge.vendor", "threshold": 1}]
        return document

    return trust.write(tmp_path / "trust", trust.seal(change(trust.document())))


def test_a_run_that_answers_a_challenge(tmp_path: Path, given: Path) -> None:
    run = built(tmp_path, sealed())
    assert broken(run) == set()
    outcome = replay(run, given, trust.AT)
    assert (outcome.verdict, outcome.run["origin"]) == ("verified", "acme")


def test_without_a_challenge_such_a_policy_can_say_nothing(tmp_path: Path, given: Path) -> None:
    assert replay(builder.build(tmp_path), given, trust.AT).verdict == "unchecked"


def test_a_seed_is_the_head_of_an_hmac() -> None:
    expected = hmac.new(bytes.fromhex(NONCE), PRETRAIN.encode(), hashlib.sha256).hexdigest()[:8]
    assert f"{challenge.seed(NONCE, PRETRAIN):08x}" == expected
    assert challenge.seed(NONCE, TEXT) != challenge.seed(NONCE, PRETRAIN)


ATTACKS: dict[str, tuple[str, Callable[[Bench], Any]]] = {
    "the plan's seed instead of the challenge's": ("case.handed", lambda b: b.handed[TEXT].pop("seed")),
    "events of another seed": ("text_generation.facts", lambda b: b.kind("model")[0].update(seed=7)),
    "the challenge thrown away": ("case.handed", lambda b: setattr(b, "challenge", None)),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_old_run_does_not_fit(name: str, tmp_path: Path) -> None:
    rule, edit = ATTACKS[name]
    assert rule in broken(built(tmp_path, sealed(), edit))


def test_an_old_run_with_a_new_challenge(tmp_path: Path) -> None:
    run = builder.build(tmp_path)
    (run / "evidence" / challenge.FILE).write_bytes(sealed())
    assert {"challenge.bound", "case.handed", "tree.extra"} <= broken(run)


def test_a_challenge_exchanged_for_another(tmp_path: Path) -> None:
    run = built(tmp_path, sealed())
    (run / "evidence" / challenge.FILE).write_bytes(sealed(nonce="ff" * 16))
    assert "challenge.bound" in broken(run)


def test_the_statement_names_the_challenge(tmp_path: Path) -> None:
    run = built(tmp_path, sealed())
    builder.reseal(run, lambda statement: statement["predicate"].update(challenge=None))
    assert broken(run) == {"challenge.bound", "run_key.bound"}


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (sealed("ann"), "policy.role"),
        (sealed("stranger"), "policy.signer"),
        (sealed("liz"), "challenge.lab"),
        (sealed(vendor="rival"), "challenge.vendor"),
    ],
    ids=["signed by the vendor", "by nobody known", "by another lab", "another vendor's challenge"],
)
def test_whose_challenge_it_is(data: bytes, rule: str, tmp_path: Path, given: Path) -> None:
    assert rule in broken(built(tmp_path, data), given)


def test_another_vendors_tree_sealed_anew(tmp_path: Path, given: Path) -> None:
    assert "challenge.vendor" in broken(built(tmp_path, sealed(vendor="rival")), given)


def test_a_challenge_that_cannot_be_read(tmp_path: Path) -> None:
    run = built(tmp_path, sealed())
    (run / "evidence" / challenge.FILE).write_bytes(b"{}")
    assert "envelope.fields" in broken(run)


MISFITS: dict[str, tuple[str, dict[str, Any], str]] = {
    "another chip": ("another chip", {"chip": "other"}, "cpu"),
    "too late": ("another time", {"notAfter": "2026-05-31T00:00:00Z"}, "cpu"),
    "too early": ("another time", {"notBefore": "2026-06-02T00:00:00Z"}, "cpu"),
}


def asked(folder: Path, **changes: Any) -> asking.Challenge:
    path = folder / "challenge.dsse.json"
    path.write_bytes(sealed(**changes))
    return asking.load(path)


@pytest.mark.parametrize("name", MISFITS)
def test_the_kit_opens_no_run_that_nobody_asked_for(name: str, home: Path) -> None:
    said, changes, chip_id = MISFITS[name]
    with pytest.raises(KitError, match=f"challenge asks for {said}"):
        asking.check(asked(home, **changes), PLAN, chip_id, trust.AT)


def test_the_kit_refuses_another_plan(home: Path) -> None:
    other = plan.resolve(builder.source(steps=4), "tests")
    with pytest.raises(KitError, match="another plan"):
        asking.check(asked(home), other, "cpu", trust.AT)


def test_a_challenge_is_used_once(home: Path) -> None:
    first = asked(home)
    asking.check(first, PLAN, "cpu", trust.AT)
    asking.remember(first, "run-1")
    with pytest.raises(KitError, match=r"challenge was used before \(run run-1\)"):
        asking.check(first, PLAN, "cpu", trust.AT)


def test_a_run_goes_on_with_its_own_challenge_only(home: Path) -> None:
    run = built(home, sealed())
    other = home / "other.json"
    other.write_bytes(sealed(nonce="ff" * 16))
    assert asking.of_run(run, None) == asking.of_run(run, run / "evidence" / challenge.FILE)
    with pytest.raises(KitError, match="opened for another challenge"):
        asking.of_run(run, other)


@pytest.mark.parametrize("text", ["", "{}", "[]", json.dumps({"payload": "", "payloadType": "", "signatures": []})])
def test_a_file_that_is_no_challenge(text: str, home: Path) -> None:
    (home / "x.json").write_text(text)
    with pytest.raises(KitError, match="not a challenge"):
        asking.load(home / "x.json")


def test_worker_takes_the_seed_of_the_challenge() -> None:
    from kit.worker.main import _seeded

    case = {"id": "x", "seed": 7}
    assert _seeded({"case": case, "attempt": 1}) == case
    assert _seeded({"case": case, "attempt": 1, "seed": 8}) == {"id": "x", "seed": 8}
    assert _seeded({"case": {"id": "x"}, "attempt": 1, "seed": 8}) == {"id": "x"}
