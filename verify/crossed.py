"""What cases of one run say of each other, and the run's environment of them: results and weights that cannot both be true."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from verify.findings import Finding, error
from verify.score import CaseResult


def check(cases: Iterable[CaseResult], environment: Mapping[str, Any]) -> Iterator[Finding]:
    """Errors where a case has the results of another model or seed, or other weights than the run was given under their name."""
    first: dict[str, tuple[str, str]] = {}
    granted: Mapping[str, str] = (environment.get("grants") or {}).get("weights") or {}
    for case in cases:
        if case.traits is None:
            continue
        for digest, made_of in case.traits.outcomes.items():
            other, theirs = first.setdefault(digest, (case.id, made_of))
            if theirs != made_of:
                yield error("cases.copied", case.id, f"results of {made_of}", f"those of {other}: {theirs}")
        name, found = case.fields.get("weights"), case.traits.weights_sha256
        if found is not None and granted.get(str(name), found) != found:
            yield error("cases.weights", case.id, f"weights '{name}' as the run was given them, {granted[str(name)][:12]}", found[:12])
