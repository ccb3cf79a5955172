"""Damages a sealed run again and again, in place and in memory, and asks the command line of verify each time."""

from __future__ import annotations

import contextlib
import io
import pickle
import shutil
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

from tests.fuzz import damage, trees
from verify import cli, data, profile, result, score, statements
from verify.generation import spread
from verify.scoring import attach, baseline

SHARE_OF_TREES = 0.25
OUTCOMES = {0: "accepted", 1: "refused", 2: "could not check"}
MEMORY = Path("/dev/shm")
REMEMBERED = 200  # inputs of a function; the whole run's are among the first


@dataclass
class Tally:
    """How many mutations of each kind ended how; `faults` are those that must not be."""

    seed: int
    kinds: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    cpu_s: float = 0.0
    wall_s: float = 0.0

    @property
    def count(self) -> int:
        return sum(self.kinds.values())

    def __str__(self) -> str:
        ends = ", ".join(f"{self.outcomes[name]:,} {name}" for name in (*OUTCOMES.values(), "traceback"))
        speed = f"{self.cpu_s:.0f} s of CPU, {self.wall_s:.0f} s, {self.count / max(self.cpu_s, 0.001):.0f} a second of CPU"
        return f"seed {self.seed}: {self.count:,} mutations of {len(self.kinds)} kinds: {ends}; {speed}"


def ask(run: Path) -> tuple[str, str]:
    """How the command line ends, and what it printed."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.main([str(run), "--policy", "self"])
    except BaseException:
        return "traceback", traceback.format_exc()
    return OUTCOMES.get(code, f"exit {code}"), out.getvalue() + err.getvalue()


class Patient:
    """A sealed run in memory that can be damaged and made whole again."""

    def __init__(self, whole: Path, folder: Path) -> None:
        self.whole, self.run = whole, folder / whole.name
        self.heal()
        self.files = {path: path.read_bytes() for path in trees.files(self.run)}
        self.before = trees.snapshot(self.run)

    def heal(self) -> None:
        """The whole run anew."""
        shutil.rmtree(self.run, ignore_errors=True)
        aside = self.run.parent / "aside"
        shutil.rmtree(aside) if aside.is_dir() else aside.unlink(missing_ok=True)
        shutil.copytree(self.whole, self.run)

    def damage_bytes(self, rng: Random) -> tuple[str, str, str]:
        """Kind, outcome and text of one mutation of one file's bytes."""
        path = rng.choice(list(self.files))
        kind, changed = damage.any_of(rng, self.files[path])
        path.write_bytes(changed)
        outcome, text = ask(self.run)
        path.write_bytes(self.files[path])
        return f"{kind} {path.relative_to(self.run)}", outcome, text

    def damage_tree(self, rng: Random) -> tuple[str, str, str]:
        """Kind, outcome and text of one mutation of the tree; a mutation that changes nothing is drawn again."""
        while True:
            kind = rng.choice(list(trees.KINDS))
            trees.KINDS[kind](rng, self.run)
            if trees.snapshot(self.run) != self.before:
                break
            self.heal()
        outcome, text = ask(self.run)
        self.heal()
        return kind, outcome, text


def remembered(function: Callable[..., Any], key: Callable[..., object]) -> Callable[..., Any]:
    """The same function of the same input, computed once for each of the first inputs; `key` tells inputs apart."""
    known: dict[object, tuple[Any, Any]] = {}

    def ask(*given: Any) -> Any:
        name = key(*given)
        if name not in known:
            answer = function(*given)
            if len(known) >= REMEMBERED:
                return answer
            known[name] = (answer, given)  # `given` stays alive, so that no other object gets its id
        return known[name][0]

    return ask


@contextlib.contextmanager
def whole_parts_kept() -> Iterator[None]:
    """Profiles and baselines are not what is damaged: each is read once. Of documents and cases that the damage left as they
    were, schemas, intervals and scores are computed once; every other input goes through them.
    """
    with contextlib.ExitStack() as stack:
        for module, name, kept in (
            (profile, "load", cache(profile.load)),
            (baseline, "load", cache(baseline.load)),
            (spread, "interval", remembered(spread.interval, lambda *given: pickle.dumps(given))),
            *((module, "violations", remembered(data.violations, lambda *given: pickle.dumps(given))) for module in (score, statements)),
            (attach, "run", remembered(attach.run, lambda chosen, base, cases: (id(chosen), id(base), pickle.dumps(cases)))),
            (result, "scoring_document", remembered(result.scoring_document, lambda scoring, number: (id(scoring), number))),
        ):
            stack.enter_context(mock.patch.object(module, name, kept))
        yield


def fuzz(whole: Path, count: int, seed: int) -> Tally:
    """Damage the sealed run `whole` `count` times."""
    rng, tally = Random(seed), Tally(seed)
    cpu, wall = time.process_time(), time.perf_counter()
    with whole_parts_kept(), tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        patient = Patient(whole, Path(folder))
        _expect_whole(patient)
        for number in range(count):
            mutate = patient.damage_tree if rng.random() < SHARE_OF_TREES else patient.damage_bytes
            where, outcome, text = mutate(rng)
            tally.kinds[where.split()[0]] += 1
            tally.outcomes[outcome] += 1
            if outcome in {"accepted", "traceback"} or outcome.startswith("exit"):
                tally.faults.append(f"mutation {number} ({where}): {outcome}\n{text}")
        _expect_whole(patient)
    tally.cpu_s, tally.wall_s = time.process_time() - cpu, time.perf_counter() - wall
    return tally


def _expect_whole(patient: Patient) -> None:
    """What is damaged must verify before and after, or refusals show nothing."""
    outcome, text = ask(patient.run)
    assert outcome == "accepted", text
    assert trees.snapshot(patient.run) == patient.before
