"""Bad scenes of trust policies, as test_chain.py and test_policy.py have them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.adversarial import test_chain, test_policy, trust
from tests.adversarial.kinds import ARGV, AT, FIRST, SECOND, Case
from tests.adversarial.make_vectors import NAME


def two_versions(scene: Path) -> None:
    """Both versions of the policy, the second in force."""
    first = trust.document()
    trust.write(scene / "trust", trust.seal(first), trust.seal(trust.after(first)))


def _first(change: Callable[[trust.Document], Any]) -> Callable[[Path], Any]:
    """Version 1 changed, sealed by its root keys, and the only one."""

    def act(scene: Path) -> None:
        document = trust.document()
        change(document)
        (scene / SECOND).unlink()
        (scene / FIRST).write_bytes(trust.seal(document))

    return act


def _second(name: str) -> Callable[[Path], Any]:
    """A second version as test_chain has it."""

    def act(scene: Path) -> None:
        _, document, signers = test_chain.UNSIGNED[name]
        (scene / SECOND).write_bytes(trust.seal(document, signers))

    return act


def _root_of_one_person(scene: Path) -> None:
    document = trust.document()
    document["keys"][trust.name("root-1", 1)] = trust.entry("root-1", 1)
    document["root"]["keys"].append(trust.name("root-1", 1))
    keys = [trust.key("root-1"), trust.key("root-1", 1)]
    (scene / FIRST).write_bytes(trust.statements.sign(trust.canonical(document), keys, trust.PAYLOAD_TYPE))
    (scene / SECOND).unlink()


def _statement_for_policy(scene: Path) -> None:
    (scene / FIRST).write_bytes(trust.statements.sign(trust.canonical(trust.document()), [trust.key(person) for person in trust.ROOTS]))
    (scene / SECOND).unlink()


def _fork(scene: Path) -> None:
    first = trust.document()
    other = trust.after(first) | {"statusMaxAgeDays": 1}
    trust.write(scene / "other", trust.seal(first), trust.seal(other))


ONE = (NAME, "--policy", FIRST, *AT)
UNUSABLE = {name: (row, test_policy.UNUSABLE[name]) for row, name in (
    (11, "the same key twice"), (11, "a keyid that is not the key's"), (12, "a key of low order"), (12, "a key of order four"),
    (12, "a point off the curve"), (13, "a vendor may sign audits"), (13, "a lab may sign runs"),
)}  # fmt: skip
NOT_ALLOWED = {name: (row, test_policy.REFUSED[name]) for row, name in (
    (13, "a lab's key signs a run"), (14, "a compromised key"), (14, "a compromised key, looked at as of a time before"),
    (14, "a key superseded by another"),
)}  # fmt: skip
POLICIES = (
    *(Case("policy", row, rule, name, _first(change), ONE) for name, (row, (rule, change)) in UNUSABLE.items()),
    *(Case("policy", row, rule, name, _first(change), ONE) for name, (row, (rule, change, _)) in NOT_ALLOWED.items()),
    *(Case("policy", 15, test_chain.UNSIGNED[name][0], name, _second(name)) for name in (
        "by one of two persons", "by old root keys alone", "by new root keys alone", "after another version", "of another policy")),
    Case("policy", 9, "policy.type", "a statement taken for a policy", _statement_for_policy, ONE),
    Case("policy", 11, "policy.root", "two root keys of one person", _root_of_one_person, ONE),
    Case("policy", 14, "policy.window", "a key that has run out", _first(lambda d: d["keys"][test_policy.ANN].update(notAfter="2026-05-01T00:00:00Z")), ONE),
    Case("policy", 15, "policy.rollback", "back to an older version", lambda _: None, ONE, (ARGV["policy"],)),
    Case("policy", 15, "policy.fork", "two policies with one number", _fork, (NAME, "--policy", "other/2.dsse.json", *AT), (ARGV["policy"],)),
)  # fmt: skip
