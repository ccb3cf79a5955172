"""Scores a result under the profile and the baselines that were named, and keeps the scores with it."""

from __future__ import annotations

from verify import profile
from verify.findings import Unchecked
from verify.result import Result
from verify.scoring import baseline
from verify.scoring.cases import Case
from verify.scoring.engine import Scoring, run

__all__ = ["attach", "known", "score"]


def score(result: Result, chosen: profile.Profile, base: baseline.Baseline | None) -> Scoring:
    """All cases of a result under a profile, against a baseline (None: the profile's own)."""
    cases = [Case(case.id, case.fields, case.state, dict(case.metrics), case.facts, dict(case.series)) for case in result.cases]
    return run(chosen, base or baseline.load(chosen.baseline), cases)


def known(against: list[str]) -> tuple[list[profile.Profile], list[baseline.Baseline]]:
    """The profiles and the packs among these names, or Unchecked."""
    for other in against:
        if other not in {*profile.names(), *baseline.names()}:
            listed = ", ".join([*profile.names(), *baseline.names()])
            raise Unchecked(f"unknown profile or baseline '{other}'", next_step=f"known: {listed}; or give a file: --baseline FILE")
    readings = [profile.load(name) for name in against if name in profile.names()]
    return readings, [baseline.load(name) for name in against if name not in profile.names()]


def attach(
    result: Result, name: str = profile.DEFAULT, against: list[str] | None = None, packs: list[baseline.Baseline] | None = None
) -> None:
    """Score a result and keep it there: first the profile asked for, then every other reading or baseline named beside it."""
    chosen = profile.load(name)
    readings, named = known(against or [])
    given = [*(packs or []), *named]
    first = given[0] if given else None
    result.run["profile"] = chosen.name
    result.scorings = [score(result, chosen, first)]
    result.scorings += [score(result, chosen, pack) for pack in given[1:]]
    result.scorings += [score(result, reading, first) for reading in readings]
