"""Whom to believe: the run's own key (`self`, integrity only), or a policy file that names keys, parties and rules.

A run that verifies under its own key but whose key no policy names has a whole record of unknown origin: `unchecked`.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verify.data import violations
from verify.envelope import PublicKey, decode, keyid, load_key
from verify.findings import Finding, Refused, Unchecked, error, warning
from verify.strict import SAFE_INTEGER, loads

SELF = "self"
RUN_RULE = "vendor-run/v1"
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z")


def parse_time(text: str) -> datetime.datetime:
    """An RFC 3339 time in UTC, whole seconds; ValueError for anything else."""
    if _TIME.fullmatch(text) is None:
        raise ValueError(text)
    return datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=datetime.UTC)


@dataclass(frozen=True, slots=True)
class Named:
    """A key that a policy names, whose it is, and when it may sign."""

    key: PublicKey
    party: str
    kind: str
    not_before: datetime.datetime
    not_after: datetime.datetime
    revoked: datetime.datetime | None


@dataclass(frozen=True, slots=True)
class Rule:
    """How many distinct parties of one kind, or of one name, must sign."""

    kind: str | None
    party: str | None
    threshold: int

    def fits(self, named: Named) -> bool:
        """Whether a signature by this key counts for the rule."""
        return named.kind == self.kind if self.party is None else named.party == self.party


@dataclass(frozen=True, slots=True)
class Policy:
    """What to believe; `name` is `self`, `none` or the file."""

    name: str
    keys: dict[str, Named] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()

    def judge(self, signed: Iterable[str], at: datetime.datetime) -> Iterator[Finding]:
        """Findings on the keys (by keyid) that made valid signatures, at the time `at`."""
        if self.name == SELF:
            return
        known = {name: self.keys[name] for name in signed if name in self.keys}
        if not known:
            yield warning("origin.unchecked", "run.dsse.json", "a key that a policy names", "only the run's own key")
            return
        for name, named in known.items():
            yield from _validity(name, named, at)
        for rule in self.rules:
            parties = {named.party for named in known.values() if rule.fits(named)}
            if len(parties) < rule.threshold:
                yield error("policy.threshold", f"{RUN_RULE}: {rule.party or rule.kind}", f"{rule.threshold} parties", f"{len(parties)}")

    def party(self, signed: Iterable[str]) -> str | None:
        """The party that signed, where the policy names it."""
        return next((self.keys[name].party for name in signed if name in self.keys), None)


def _validity(name: str, named: Named, at: datetime.datetime) -> Iterator[Finding]:
    if not named.not_before <= at <= named.not_after:
        yield error(
            "policy.window",
            f"key {name}",
            f"a key valid at {at:%Y-%m-%dT%H:%M:%SZ}",
            f"{named.not_before:%Y-%m-%d} to {named.not_after:%Y-%m-%d}",
        )
    if named.revoked is not None:
        yield error("policy.revoked", f"key {name}", "a key that is not revoked", f"revoked since {named.revoked:%Y-%m-%dT%H:%M:%SZ}")


def load(source: str | Path | None) -> Policy:
    """The policy of `--policy`: `self`, a file, or none. A file that cannot be used raises Unchecked."""
    if source is None:
        return Policy("none")
    if str(source) == SELF:
        return Policy(SELF)
    path = Path(source)
    try:
        return _parse(path.read_bytes(), str(path))
    except OSError as fault:
        raise Unchecked(
            "policy cannot be read", where=str(path), why=fault.strerror or "", next_step="name a policy file, or self"
        ) from None
    except Refused as bad:
        raise Unchecked("policy cannot be used", where=bad.finding.where, why=str(bad), next_step="correct the policy") from None


def _parse(data: bytes, where: str) -> Policy:
    document = loads(data, where, largest=SAFE_INTEGER)
    for fault in violations(document, "policy", "policy.schema", where):
        raise Refused("policy.schema", fault.where, fault.expected, fault.found)
    kinds = {name: party["kind"] for name, party in document["parties"].items()}
    keys: dict[str, Named] = {}
    for label, item in document["keys"].items():
        place = f"{where}: key {label}"
        named = _named(item, kinds, place)
        if keyid(named.key) in keys:
            raise Refused("policy.twin", place, "each key once", "the same key twice")
        keys[keyid(named.key)] = named
    rules = tuple(Rule(rule.get("kind"), rule.get("party"), rule["threshold"]) for rule in document["rules"].get(RUN_RULE, []))
    if not rules:
        raise Refused("policy.schema", f"{where}: rules", f"a rule for {RUN_RULE}", "none")
    for rule in rules:
        possible = {named.party for named in keys.values() if rule.fits(named)}
        if rule.threshold > len(possible):
            raise Refused("policy.threshold", where, f"a threshold of at most {len(possible)} parties", rule.threshold)
    return Policy(where, keys, rules)


def _named(item: dict[str, Any], kinds: dict[str, str], where: str) -> Named:
    key = load_key(decode(item["spki"], where), where)
    if item["party"] not in kinds:
        raise Refused("policy.schema", where, "a party that `parties` lists", item["party"])
    try:
        start, end = parse_time(item["notBefore"]), parse_time(item["notAfter"])
        revoked = None if item["revoked"] is None else parse_time(item["revoked"]["since"])
    except ValueError as bad:
        raise Refused("policy.schema", where, "times like 2026-01-01T00:00:00Z", str(bad)) from None
    if end <= start:
        raise Refused("policy.schema", where, "notBefore earlier than notAfter", item["notAfter"])
    return Named(key, item["party"], kinds[item["party"]], start, end, revoked)
