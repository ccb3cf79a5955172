"""Whether a run answers a challenge: its plan, its chip, its time, what it ran with, how often it tried."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from verify import sample, score
from verify.files import Evidence
from verify.findings import Finding, error
from verify.policy import Policy
from verify.sample import Member
from verify.statements import Statement
from verify.tolerance import Table


def run_faults(made: Statement, run: Statement) -> Iterator[Finding]:
    """What a vendor's statement says that the challenge did not ask for."""
    asked, said = made.predicate, run.predicate
    if said.get("challenge") != {"sha256": made.sha256}:
        yield error("challenge.run", "run: challenge", made.sha256, said.get("challenge"))
    if made.subject["plan.json"] != said["plan"]["sha256"]:
        yield error("challenge.plan", "run: plan", made.subject["plan.json"], said["plan"]["sha256"])
    if asked["chip"] != said["chip"]:
        yield error("challenge.chip", "run: chip", asked["chip"], said["chip"])
    if not asked["notBefore"] <= said["started"] <= said["finished"] <= asked["notAfter"]:
        window = f"{asked['notBefore']} to {asked['notAfter']}"
        yield error("challenge.window", "run: started, finished", f"within {window}", f"{said['started']} to {said['finished']}")
    image, kit = said["image"] and said["image"]["config"], said["kit"]["tree"]["sha256"]
    for what, allowed, found in (("image", asked["allowed"]["images"], image), ("kit", asked["allowed"]["kits"], kit)):
        if allowed and found not in allowed:
            yield error("challenge.allowed", f"run: {what}", f"one of {allowed}", found)


def evidence_faults(made: Statement, run: Statement, folder: Path, table: Table) -> Iterator[Finding]:
    """Attempts within bounds; strata that cover the plan, a tolerance for every suite in it, a claim for every case done."""
    evidence, most = Evidence(folder / "evidence"), made.predicate["maxAttempts"]
    for case in score.document(evidence, "cases.json", "cases")["cases"]:
        if len(case["attempts"]) > most:
            yield error("challenge.attempts", case["id"], f"at most {most} attempts", len(case["attempts"]))
    members = [Member(case["id"], case["suite"]) for case in score.document(evidence, "plan.json", "resolved_plan")["cases"]]
    yield from plan_faults(made, members, table)
    claimed = {(claim["case"], claim["metric"]) for claim in run.predicate["claims"]}
    done = {case["id"] for case in run.predicate["cases"] if case["state"] == "done"}
    for member in members:
        audited = {row.metric for row in table.rows_of(member.id, member.suite) if row.in_mean}
        if member.id in done and not any((member.id, metric) in claimed for metric in audited):
            yield error("challenge.claims", f"case {member.id}", f"a claim of one of {sorted(audited)}", "none")


def plan_faults(made: Statement, members: list[Member], table: Table) -> Iterator[Finding]:
    """Whether strata and tolerances of a challenge cover a plan."""
    for fault in sample.faults(sample.parse(made.predicate["sampling"]["strata"]), members):
        yield error("challenge.strata", "challenge: strata", "each case in one stratum, each suite with a rest", fault)
    for member in members:
        if not any(row.in_mean for row in table.rows_of(member.id, member.suite)):
            yield error(
                "challenge.tolerances", f"case {member.id}", f"a tolerance for suite {member.suite} that counts in the mean", "none"
            )


def policy_faults(made: Statement, trust: Policy) -> Iterator[Finding]:
    """The challenge was made under this policy, or under an earlier version of it."""
    asked = made.predicate["policy"]
    if trust.version == 0:
        return
    if asked is None or asked["version"] > trust.version or (asked["version"] == trust.version and asked["sha256"] != trust.sha256):
        yield error(
            "challenge.policy", "challenge: policy", f"version {trust.version} with payload {trust.sha256}, or an earlier one", asked
        )


def received_in_time(made: Statement, receipt: Statement) -> Iterator[Finding]:
    """A receipt is issued while the challenge runs; times are the lab's, RFC 3339 in UTC, and sort as text."""
    asked, time = made.predicate, receipt.predicate["received"]
    if not asked["notBefore"] <= time <= asked["auditBy"]:
        yield error("receipt.time", "receipt: received", f"{asked['notBefore']} to {asked['auditBy']}", time)
