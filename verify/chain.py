"""Versions of a trust policy, rotated as TUF rotates its root: N+1 is signed by the thresholds of both N and N+1.

A policy is a DSSE envelope; version 1 shows who signs it by itself, so it is trusted because somebody compared its
fingerprint (the SHA-256 of its payload) with a published one. The highest version seen of each policy is remembered, so
that an older or another one is refused.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import itertools
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from verify import envelope, policy
from verify.files import Evidence
from verify.findings import Finding, Refused, Unchecked, notice, warning
from verify.policy import Policy
from verify.strict import loads

PAYLOAD_TYPE = "application/vnd.chipassay.trust-policy+json"
MAX_VERSIONS = 1000
_NUMBERED = re.compile(r"([1-9][0-9]{0,3})\.dsse\.json")


@dataclasses.dataclass(frozen=True, slots=True)
class Version:
    """One version of a policy whose own root keys have signed it."""

    policy: Policy
    document: dict[str, Any]
    sealed: envelope.Envelope
    sha256: str

    def signed_by_root_of(self, other: Version) -> int:
        """How many persons holding root keys of `other` signed this version."""
        keys = other.policy.keys
        signed = envelope.signers(self.sealed, [keys[name].key for name in other.document["root"]["keys"]])
        return len(policy.root_persons(other.document, keys, signed))


def open_version(data: bytes, where: str) -> Version:
    """A version in its envelope, or Refused; it must be signed by its own root threshold."""
    sealed = envelope.parse(data, where)
    if sealed.payload_type != PAYLOAD_TYPE:
        raise Refused("policy.type", where, PAYLOAD_TYPE, sealed.payload_type)
    made, document = policy.parse(sealed.payload, where)
    digest = hashlib.sha256(sealed.payload).hexdigest()
    version = Version(dataclasses.replace(made, sha256=digest), document, sealed, digest)
    _check_signed(version, version, where)
    return version


def _check_signed(new: Version, root: Version, where: str) -> None:
    needed, found = root.document["root"]["threshold"], new.signed_by_root_of(root)
    if found < needed:
        number = root.document["version"]
        raise Refused("policy.root", where, f"signatures of {needed} persons with root keys of version {number}", found)


def follow(old: Version, new: Version, where: str) -> None:
    """Refuse `new` unless it is the next version after `old`, signed by old's threshold."""
    check_order(old, new.document, where)
    _check_signed(new, old, where)


def check_order(old: Version, new: dict[str, Any], where: str) -> None:
    """Refuse a document that is not the next version after `old`."""
    expected = (old.document["name"], old.document["version"] + 1, {"sha256": old.sha256})
    found = tuple(new[name] for name in ("name", "version", "previous"))
    if found != expected:
        raise Refused("policy.version", where, f"name, version, previous = {expected}", found)


def read_chain(path: Path) -> list[Version]:
    """All versions up to the policy at `path` (a file, or a folder whose highest <n>.dsse.json counts), oldest first."""
    folder, name = (path, newest(path).name) if path.is_dir() else (path.parent, path.name)
    last = _open(folder, name)
    number = last.document["version"]
    if number > MAX_VERSIONS:
        raise Refused("policy.version", str(path), f"at most {MAX_VERSIONS} versions", number)
    chain = [_open(folder, f"{n}.dsse.json") for n in range(1, number)] + [last]
    first = chain[0]
    if (first.document["version"], first.document["previous"]) != (1, None):
        found = (first.document["version"], first.document["previous"])
        raise Refused("policy.version", str(path), "version 1 without `previous`", found)
    for old, new in itertools.pairwise(chain):
        follow(old, new, f"{path}: version {new.document['version']}")
    return chain


def newest(folder: Path) -> Path:
    """The file of the highest version in a folder, or Unchecked."""
    numbers = [int(match[1]) for name in os.listdir(folder) if (match := _NUMBERED.fullmatch(name))]
    if not numbers:
        raise Unchecked("no trust policy in this folder", where=str(folder), next_step="see manifests/trust/README.md")
    return folder / f"{max(numbers)}.dsse.json"


def _open(folder: Path, name: str) -> Version:
    where = str(folder / name)
    try:
        return open_version(Evidence(folder).read(name, envelope.MAX_BYTES), where)
    except Refused as bad:
        if bad.finding.rule == "file.missing":
            raise Unchecked(
                "trust policy is missing", where=where, why="each version is trusted by the one before", next_step="put every version there"
            ) from None
        raise


def load(source: str | Path | None, at: datetime.datetime) -> Policy:
    """The policy of `--policy`: `self`, none, or a signed policy that has not expired at `at` and is no older than any seen."""
    if source is None:
        return policy.NOBODY
    if str(source) == policy.SELF:
        return policy.OWN
    path = Path(source)
    try:
        chain = read_chain(path)
    except OSError as fault:
        raise Unchecked("policy cannot be read", where=str(path), why=fault.strerror or "", next_step="name a policy, or self") from None
    last = chain[-1].policy
    if last.expires is not None and at > last.expires:
        raise Unchecked(
            "policy.expired: trust policy has expired",
            where=str(path),
            why=f"{policy.format_time(last.expires)} is over at {policy.format_time(at)}",
            next_step="get its next version",
        )
    return dataclasses.replace(last, findings=tuple(_remember(chain, str(path))))


def store_path() -> Path:
    """trust.json under $CHIPASSAY_STATE, else under chipassay in $XDG_STATE_HOME or ~/.local/state."""
    if own := os.environ.get("CHIPASSAY_STATE"):
        return Path(own) / "trust.json"
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "chipassay/trust.json"


def _seen(store: Path) -> dict[str, Any]:
    try:
        seen = loads(store.read_bytes(), str(store))["policies"]
        return {str(key): {"version": int(item["version"]), "sha256": str(item["sha256"])} for key, item in seen.items()}
    except FileNotFoundError:
        return {}
    except (OSError, Refused, KeyError, TypeError, ValueError, AttributeError):
        why = "it holds the versions of trust policies seen so far"
        raise Unchecked("store cannot be read", where=str(store), why=why, next_step="restore it, or remove it knowingly") from None


def _remember(chain: list[Version], where: str) -> list[Finding]:
    """Refuse a policy older than one seen; keep the version of a newer one. A first use is worth a notice."""
    store, anchor, last = store_path(), chain[0].sha256, chain[-1]
    seen = _seen(store)
    known, number = seen.get(anchor), last.document["version"]
    if known and number < known["version"]:
        raise Refused("policy.rollback", where, f"version {known['version']} or later, which was seen before", f"version {number}")
    if known and (other := chain[known["version"] - 1].sha256) != known["sha256"]:
        raise Refused("policy.fork", where, f"version {known['version']} with payload {known['sha256']}", other)
    if known and number == known["version"]:
        return []
    found = [] if known else [notice("policy.first", where, "a fingerprint compared with a published one", f"first use of {anchor}")]
    try:
        _write(store, seen | {anchor: {"version": number, "sha256": last.sha256}})
    except OSError as fault:
        found.append(warning("policy.store", str(store), "a store that remembers the highest version seen", fault.strerror or "none"))
    return found


def _write(store: Path, seen: dict[str, Any]) -> None:
    store.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"schemaVersion": 1, "policies": seen}, indent=1, sort_keys=True) + "\n"
    handle, temporary = tempfile.mkstemp(dir=store.parent, prefix=".trust-")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    Path(temporary).replace(store)
