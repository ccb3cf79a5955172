"""Plays a whole audit with the lab's own commands on made-up runs, so that tests can break it in one place.

`play(folder)` gives a run and an audit that verify. The runner that "re-runs" cases is fake: it writes events whose
durations are the vendor's times a factor; everything else is the code that a lab uses.
"""

from __future__ import annotations

import copy
import dataclasses
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kit import plan, seal
from kit.lab import issue, publish, rerun
from kit.lab.office import Desk
from tests.adversarial import builder, trust
from tests.adversarial.builder import PRETRAIN, TEXT, Bench, Event

CASES = (*(f"pretrain-{number}" for number in range(6)), *(f"text-{number}" for number in range(4)))
VENDOR, LAB = "acme", "lab-a"
Factors = Mapping[str, float]


def source() -> dict[str, Any]:
    """The builder's two cases, six and four times."""
    made = builder.source(3)
    first, second = (dict(case) for case in made["case"])
    made["case"] = [first | {"id": name} for name in CASES[:6]] + [second | {"id": name} for name in CASES[6:]]
    return made


def scaled(events: list[Event], case: str, factor: float, shift: int) -> list[Event]:
    """The same events, everything lasting `factor` times as long, at another time of day."""
    times = ("t", "begin_ns")
    made = [copy.deepcopy(event) | {name: round(event[name] * factor) for name in times if name in event} for event in events]
    return [event | {"case": case, "wall_ns": event["wall_ns"] + shift} if event["e"] == "case_start" else event for event in made]


class AuditBench(Bench):
    """A run of the ten cases; `factors` slows single cases down, a case that `left` names is not run."""

    def __init__(self, folder: Path, cases: tuple[str, ...], factors: Factors, asked: bytes | None, failing: tuple[str, ...] = ()) -> None:
        super().__init__(folder, 3)
        self.plan = plan.resolve(source(), "tests")
        self.run = folder / f"tiny-cpu-20261124T000000Z-{secrets.token_hex(3)}"
        self.evidence = self.run / "evidence"
        shift = secrets.randbelow(10**9)
        old = self.events
        self.events = {
            name: {
                file: scaled(events, name, factors.get(name, 1.0), shift)
                for file, events in old[PRETRAIN if name.startswith("pretrain") else TEXT].items()
            }
            for name in cases
        }
        self.handed = {case["id"]: {"case": case, "attempt": 1} for case in self.plan.cases}
        self.states = {name: ("failed", "tests") if name in failing else ("done", None) for name in cases}
        if asked is not None:
            self.answer(asked)

    def answer(self, sealed: bytes) -> None:
        """As the builder does, for the cases that are run."""
        self.plan.document["cases"], everything = [case for case in self.plan.cases if case["id"] in self.events], self.plan.cases
        super().answer(sealed)
        self.plan.document["cases"] = everything


def sealed(bench: AuditBench, key: Ed25519PrivateKey) -> Path:
    """Seal a run with a key."""
    with patch.object(builder, "KEY", key):
        log = bench.write()
        try:
            seal.seal(bench.run, bench.plan, log, key)
        finally:
            log.close()
    return bench.run


def vendor_run(folder: Path, asked: bytes | None, factors: Factors | None = None, failing: tuple[str, ...] = ()) -> Path:
    """The vendor's run of all cases."""
    folder.mkdir(parents=True, exist_ok=True)
    return sealed(AuditBench(folder, CASES, factors or {}, asked, failing), trust.key("ann"))


def asked_of(desk: Desk) -> bytes:
    """The challenge as the vendor gets it."""
    return (desk.audit / "challenge.dsse.json").read_bytes()


@dataclasses.dataclass
class Office:
    """A lab at work: its folder, its policy, its two persons, and how fast its machine is."""

    folder: Path
    policy: Path
    factors: Callable[[rerun.Task], Factors] = lambda _: {}
    failing: tuple[str, ...] = ()
    keys: tuple[Ed25519PrivateKey, ...] = (trust.key("lea"), trust.key("leo"))
    made: list[rerun.Task] = dataclasses.field(default_factory=list)
    stamp: Callable[[Path], Path | None] = lambda _: None

    @property
    def lab(self) -> Path:
        return self.folder / "lab"

    def execute(self, task: rerun.Task, opened: Callable[[Path], None]) -> Path:
        """The fake runner."""
        self.made.append(task)
        bench = AuditBench(task.out, task.due.cases, self.factors(task), asked_of(task.desk), self.failing)
        opened(bench.run)
        return sealed(bench, self.keys[0])

    def challenge(self, **changes: Any) -> Desk:
        ask = issue.Ask(
            plan=str(_plan_file(self.folder)), chip="cpu", vendor=VENDOR, party=LAB, folder=self.lab, policy=str(self.policy),
            tolerances="provisional", strata=("pretrain:pretrain-[01]=2", "pretrain=2", "text_generation=2"), run_days=30, audit_days=60,
            max_attempts=3, images=(), kits=(),
        )  # fmt: skip
        return issue.challenge(dataclasses.replace(ask, **changes), self.keys[0])

    def receipt(self, run: Path) -> Path:
        return issue.receipt(self.lab, run, self.keys[0], str(self.policy), self.stamp(run))

    def reveal(self, run: Path) -> list[str]:
        return issue.reveal(self.lab, run, self.keys[0])[1]

    def audit(self, run: Path, chosen: tuple[str, ...] = ()) -> tuple[Desk, dict[str, Any]]:
        return rerun.perform(self.lab, run, self.keys, str(self.policy), chosen, self.execute, lambda _: None)

    def publish(self, run: Path, target: Path) -> Path:
        return publish.publish(self.lab, run, target, (*self.keys, trust.key("pia")), str(self.policy), None)


def _plan_file(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "plan.json"
    path.write_bytes(plan.resolve(source(), "tests").to_bytes())
    return path


def office(folder: Path, **more: Any) -> Office:
    """A lab with a policy whose keys hold for long."""
    document = trust.document() | {"expires": "2099-01-01T00:00:00Z"}
    for entry in document["keys"].values():
        entry["notAfter"] = "2099-01-01T00:00:00Z"
    return Office(folder, trust.write(folder / "trust", trust.seal(document)), **more)


@dataclasses.dataclass(frozen=True, slots=True)
class Played:
    """An audit that was played to its end."""

    office: Office
    desk: Desk
    run: Path
    said: dict[str, Any]

    @property
    def audit(self) -> Path:
        return self.desk.audit


def play(folder: Path, *, choose: int = 0, vendor: Factors | None = None, vendor_failing: tuple[str, ...] = (), **more: Any) -> Played:
    """Challenge, run, receipt, reveal, audit; `choose` cases outside the sample are added by choice."""
    lab = office(folder, **more)
    asked = lab.challenge()
    run = vendor_run(folder / "vendor", asked_of(asked), vendor, vendor_failing)
    lab.receipt(run)
    drawn = lab.reveal(run)
    desk, said = lab.audit(run, tuple(name for name in CASES if name not in (*drawn, *vendor_failing))[:choose])
    return Played(lab, desk, run, said)
