"""The sample of an audit: neither the lab nor the vendor can choose it, and anybody can draw it again.

The lab commits to a secret r before the run; the vendor signs the run before it learns r. The seed hangs on both, and
within each stratum the sample is the first k case ids in the order of HMAC-SHA256(seed, case id), which openssl and sort
give as well (docs/audit.md).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

RULE = "hmac-sha256/v1"
SECRET_BYTES = 32
_REVEAL = b"chipassay/reveal/v1\x00"
_SAMPLE = b"chipassay/sample/v1\x00"


@dataclass(frozen=True, slots=True)
class Stratum:
    """`k` cases are drawn from those of a suite that it names, or (`cases` None) from all that no other stratum names."""

    suite: str
    k: int
    cases: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """A case that may be drawn."""

    id: str
    suite: str


def commitment(secret: bytes) -> str:
    """What a challenge says of its secret of 32 bytes: hex SHA-256 under a name of its own."""
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a secret has {SECRET_BYTES} bytes, not {len(secret)}")
    return hashlib.sha256(_REVEAL + secret).hexdigest()


def seed(secret: bytes, run_sha256: str, challenge_sha256: str) -> bytes:
    """32 bytes from the secret and the payload digests (hex) of the vendor's statement and of the challenge."""
    return hashlib.sha256(_SAMPLE + secret + bytes.fromhex(run_sha256) + bytes.fromhex(challenge_sha256)).digest()


def order(key: bytes, ids: Iterable[str]) -> list[str]:
    """Case ids by HMAC-SHA256(key, id), smallest first."""
    return sorted(ids, key=lambda name: (hmac.digest(key, name.encode(), "sha256"), name))


def parse(strata: Iterable[dict[str, Any]]) -> tuple[Stratum, ...]:
    """Strata as a challenge writes them."""
    return tuple(Stratum(one["suite"], one["k"], None if one["cases"] is None else frozenset(one["cases"])) for one in strata)


def faults(strata: Sequence[Stratum], plan: Iterable[Member]) -> list[str]:
    """What keeps strata from covering a plan: each case in exactly one of them, each suite with a rest of its own."""
    members = list(plan)
    found = []
    for suite in sorted({member.suite for member in members} | {one.suite for one in strata}):
        ids = {member.id for member in members if member.suite == suite}
        own = [one for one in strata if one.suite == suite]
        named = [name for one in own for name in one.cases or ()]
        if sum(one.cases is None for one in own) != 1:
            found.append(f"suite {suite} needs exactly one stratum without a list of cases")
        if len(set(named)) != len(named):
            found.append(f"suite {suite} has a case in two strata")
        if unknown := sorted(set(named) - ids):
            found.append(f"suite {suite} has no case {unknown[0]}")
    return found


def draw(key: bytes, strata: Sequence[Stratum], members: Iterable[Member]) -> list[str]:
    """Ids of the sample, stratum by stratum, each in drawing order; a stratum smaller than its k is taken whole."""
    listed = list(members)
    drawn: list[str] = []
    for stratum in strata:
        named = {name for one in strata if one.suite == stratum.suite for name in one.cases or ()}
        ids = [member.id for member in listed if member.suite == stratum.suite]
        mine = [name for name in ids if (name in stratum.cases if stratum.cases is not None else name not in named)]
        drawn += order(key, mine)[: stratum.k]
    return drawn
