"""Whom to believe: the run's own key (`self`, integrity only), or a signed trust policy of keys, persons, parties, rules.

Thresholds count parties or persons, never keys or signatures. A run that verifies under its own key but whose key no
policy names has a whole record of unknown origin: `unchecked`. How versions of a policy follow each other: `chain`.
"""

from __future__ import annotations

import datetime
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from verify.data import root, violations
from verify.envelope import PublicKey, algorithm, decode, keyid, load_key
from verify.findings import Finding, Refused, error
from verify.strict import SAFE_INTEGER, loads

SELF = "self"
BOUND = "="  # a rule's party `=challenge.vendor` is the party that the challenge names
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z")


def parse_time(text: str) -> datetime.datetime:
    """An RFC 3339 time in UTC, whole seconds; ValueError for anything else."""
    if _TIME.fullmatch(text) is None:
        raise ValueError(text)
    return datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=datetime.UTC)


def format_time(time: datetime.datetime) -> str:
    """The inverse of `parse_time`."""
    return time.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@cache
def kinds_of(statement: str) -> frozenset[str]:
    """Kinds of parties that may sign a statement like `receipt/v1`, by manifests/predicates.toml."""
    return frozenset((predicates() | notes()).get(statement, ()))


def predicates() -> dict[str, tuple[str, ...]]:
    """Every kind of statement of ours, and the kinds of parties that may sign it."""
    return _signers("predicate")


def notes() -> dict[str, tuple[str, ...]]:
    """Every kind of signed note that a rule may ask for, and the kinds of parties that may sign it."""
    return _signers("note")


@cache
def _signers(table: str) -> dict[str, tuple[str, ...]]:
    with (root() / "manifests/predicates.toml").open("rb") as file:
        listed = tomllib.load(file)[table]
    return {name: tuple(item["signers"]) for name, item in listed.items()}


@dataclass(frozen=True, slots=True)
class Moment:
    """When a signature is judged: at `at`, unless others proved that it was made by `proved`."""

    at: datetime.datetime
    proved: datetime.datetime | None = None


@dataclass(frozen=True, slots=True)
class Revocation:
    """Since when a key is void; after a compromise only what was proved to be older holds."""

    since: datetime.datetime
    reason: str


@dataclass(frozen=True, slots=True)
class Named:
    """A key that a policy names, whose it is, and when it may sign."""

    key: PublicKey
    keyid: str
    person: str
    party: str
    kind: str
    not_before: datetime.datetime
    not_after: datetime.datetime
    revoked: Revocation | None

    def faults(self, when: Moment) -> Iterator[Finding]:
        """Why a signature by this key does not count."""
        time, where = when.proved or when.at, f"key {self.keyid} of {self.person}, {self.party}"
        if not self.not_before <= time <= self.not_after:
            found = f"{format_time(self.not_before)} to {format_time(self.not_after)}"
            yield error("policy.window", where, f"a key valid at {format_time(time)}", found)
        if self.revoked is None:
            return
        shown = when.proved if self.revoked.reason == "compromise" else time
        if shown is None or shown >= self.revoked.since:
            expected = f"a signature proved to be older than {format_time(self.revoked.since)}"
            found = "no proved time" if shown is None else format_time(shown)
            yield error("policy.revoked", where, expected, f"{found}, {self.revoked.reason}")


@dataclass(frozen=True, slots=True)
class Rule:
    """How many distinct parties or persons of one kind, or of one party, must sign."""

    kind: str | None
    party: str | None
    threshold: int
    distinct: str = "party"

    @property
    def bound(self) -> str | None:
        """`challenge.vendor` or `challenge.lab` where the party is the one that a challenge names."""
        return self.party[len(BOUND) :] if self.party and self.party.startswith(BOUND) else None

    def fits(self, named: Named, bound: Mapping[str, str]) -> bool:
        """Whether a signature by this key counts for the rule; `bound` says who the challenge names."""
        if self.party is None:
            return named.kind == self.kind
        return named.party == (bound.get(self.bound) if self.bound else self.party)

    def count(self, signers: Iterable[Named]) -> int:
        """How many of them count: parties, or persons."""
        return len({named.person if self.distinct == "person" else named.party for named in signers})


@dataclass(frozen=True, slots=True)
class Policy:
    """What to believe; `name` is `self`, `none`, or the policy's own with its version."""

    name: str
    keys: dict[str, Named] = field(default_factory=dict)
    rules: dict[str, tuple[Rule, ...]] = field(default_factory=dict)
    version: int = 0
    sha256: str = ""
    expires: datetime.datetime | None = None
    status_max_age_days: int = 0
    findings: tuple[Finding, ...] = ()

    def named(self, signed: Iterable[str | None]) -> list[Named]:
        """Those of the keyids that the policy names, each once."""
        return [self.keys[name] for name in dict.fromkeys(signed) if name in self.keys]

    def judge(
        self, statement: str, signed: Iterable[str | None], when: Moment, bound: Mapping[str, str] | None = None
    ) -> Iterator[Finding]:
        """Why the valid signatures of `signed` (keyids) do not make this kind of statement believable; nothing where they do.

        A signature that does not count is no fault while enough others do: anybody can add one to an envelope.
        """
        if statement not in self.rules:
            yield error("policy.rule", statement, "a rule of the policy on who signs it", "none")
            return
        signers = self.counted(statement, signed, when)
        short = [fault for rule in self.rules[statement] for fault in _short(rule, statement, signers, bound or {})]
        if short:
            reasons = [fault for named in self.named(signed) for fault in _reasons(named, statement, when)]
            yield from reasons or short

    def counted(self, statement: str, signed: Iterable[str | None], when: Moment) -> list[Named]:
        """Those of the keyids whose signatures count for this kind of statement."""
        return [named for named in self.named(signed) if not any(_reasons(named, statement, when))]


def _reasons(named: Named, statement: str, when: Moment) -> Iterator[Finding]:
    """Why a signature does not count."""
    allowed = kinds_of(statement)
    if named.kind not in allowed:
        where = f"{statement}: key {named.keyid} of {named.party}"
        yield error("policy.role", where, f"a signature by a {' or '.join(sorted(allowed))}", f"one by a {named.kind}")
    yield from named.faults(when)


def _short(rule: Rule, statement: str, signers: list[Named], bound: Mapping[str, str]) -> Iterator[Finding]:
    """What is missing for a rule."""
    count = rule.count(named for named in signers if rule.fits(named, bound))
    if count < rule.threshold:
        who = f"{rule.party or rule.kind}" + (f" ({bound.get(rule.bound, 'nobody')})" if rule.bound else "")
        yield error("policy.threshold", f"{statement}: {who}", f"{rule.threshold} by distinct {rule.distinct}", count)


NOBODY = Policy("none")
OWN = Policy(SELF)


def parse(payload: bytes, where: str) -> tuple[Policy, dict[str, Any]]:
    """The policy in a payload and the document itself, every rule of the loader checked but signatures and order of versions."""
    document = loads(payload, where, largest=SAFE_INTEGER)
    for fault in violations(document, "policy", "policy.schema", where):
        raise Refused(fault.rule, fault.where, fault.expected, fault.found)
    keys = _keys(document, where)
    rules = {name: tuple(_rule(item) for item in items) for name, items in document["rules"].items()}
    for name, items in rules.items():
        _check_rules(name, items, document["parties"], keys, where)
    _check_root(document, keys, where)
    policy = Policy(
        f"{document['name']} {document['version']}",
        keys,
        rules,
        document["version"],
        expires=_when(document["expires"], f"{where}: expires"),
        status_max_age_days=document["statusMaxAgeDays"],
    )
    return policy, document


def _keys(document: dict[str, Any], where: str) -> dict[str, Named]:
    keys: dict[str, Named] = {}
    for label, item in document["keys"].items():
        place = f"{where}: key {label}"
        named = _named(document, item, place)
        if named.keyid in keys:
            raise Refused("policy.twin", place, "each key once", f"the same key as {named.person}'s")
        keys[named.keyid] = named
    for label, item in document["keys"].items():
        if label not in keys:
            raise Refused("policy.keyid", f"{where}: key {label}", "the SHA-256 of the key's SubjectPublicKeyInfo", item["spki"])
    return keys


def _named(document: dict[str, Any], item: dict[str, Any], where: str) -> Named:
    key = load_key(decode(item["spki"], where), where)
    if algorithm(key) != item["alg"]:
        raise Refused("policy.algorithm", where, f"a key for {item['alg']}", algorithm(key))
    person = document["persons"].get(item["person"])
    if person is None:
        raise Refused("policy.person", where, "a person that `persons` lists", item["person"])
    party = document["parties"].get(person["party"])
    if party is None:
        raise Refused("policy.party", f"{where}: {item['person']}", "a party that `parties` lists", person["party"])
    start, end = _when(item["notBefore"], where), _when(item["notAfter"], where)
    if end <= start:
        raise Refused("policy.times", where, "notBefore earlier than notAfter", f"{item['notBefore']} to {item['notAfter']}")
    revoked = item["revoked"] and Revocation(_when(item["revoked"]["since"], where), item["revoked"]["reason"])
    return Named(key, keyid(key), item["person"], person["party"], party["kind"], start, end, revoked)


def _when(text: str, where: str) -> datetime.datetime:
    try:
        return parse_time(text)
    except ValueError:
        raise Refused("policy.times", where, "a time like 2026-01-01T00:00:00Z", text) from None


def _rule(item: dict[str, Any]) -> Rule:
    return Rule(item.get("kind"), item.get("party"), item["threshold"], item.get("distinct", "party"))


def _check_rules(name: str, rules: tuple[Rule, ...], parties: dict[str, Any], keys: dict[str, Named], where: str) -> None:
    """A rule is on a statement that exists, asks for a kind of party that may sign it, and can be met."""
    place, allowed = f"{where}: rules {name}", kinds_of(name)
    if not allowed:
        raise Refused("policy.rule", place, f"one of {', '.join(predicates())}", name)
    for rule in rules:
        if rule.party and not rule.bound and rule.party not in parties:
            raise Refused("policy.party", place, "a party that `parties` lists", rule.party)
        kind = rule.kind or (rule.bound or "").rpartition(".")[2] or parties[rule.party or ""]["kind"]
        if kind not in allowed:
            raise Refused("policy.role", place, f"a {' or '.join(sorted(allowed))}", kind)
        possible = _possible(rule, kind, keys)
        if rule.threshold > possible:
            raise Refused("policy.threshold", place, f"a threshold of at most {possible}, as many as could sign", rule.threshold)


def _possible(rule: Rule, kind: str, keys: dict[str, Named]) -> int:
    """How many could sign: of the party that can most, where a challenge names it."""
    if rule.bound is None:
        return rule.count(named for named in keys.values() if rule.fits(named, {}))
    parties = {named.party for named in keys.values() if named.kind == kind}
    return max((rule.count(n for n in keys.values() if rule.fits(n, {rule.bound: party})) for party in parties), default=0)


def _check_root(document: dict[str, Any], keys: dict[str, Named], where: str) -> None:
    place = f"{where}: root"
    for name in document["root"]["keys"]:
        if name not in keys:
            raise Refused("policy.root", place, "keys that `keys` lists", name)
    persons = len(root_persons(document, keys, document["root"]["keys"]))
    if document["root"]["threshold"] > persons:
        raise Refused("policy.threshold", place, f"a threshold of at most {persons} persons", document["root"]["threshold"])


def root_persons(document: dict[str, Any], keys: dict[str, Named], signed: Iterable[str | None]) -> set[str]:
    """Persons whose root keys, not revoked in this version, are among `signed`."""
    allowed = set(document["root"]["keys"])
    return {keys[name].person for name in signed if name is not None and name in allowed and keys[name].revoked is None}
