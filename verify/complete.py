"""Completeness: every case of the plan is accounted for, with every attempt that the run log saw."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from verify.findings import Finding, error
from verify.runlog import Log

Document = dict[str, Any]


def state_of(attempts: list[Document]) -> str:
    """`done` once any attempt is done, else the last attempt's state, else `not_run`."""
    if any(attempt["state"] == "done" for attempt in attempts):
        return "done"
    return str(attempts[-1]["state"]) if attempts else "not_run"


def cases(plan: Document, states: Document) -> Iterator[Finding]:
    """cases.json lists exactly the plan's cases, in its order; each state follows from the attempts."""
    expected = [(case["id"], case["suite"]) for case in plan["cases"]]
    found = [(case["id"], case["suite"]) for case in states["cases"]]
    if expected != found:
        yield error("cases.plan", "cases.json", f"the plan's cases, in order: {expected}", found)
    if len({name.lower() for name, _ in expected}) != len(expected):
        yield error("cases.plan", "plan.json", "each case id once, ignoring case", expected)
    for case in states["cases"]:
        if case["state"] != state_of(case["attempts"]):
            yield error("cases.state", f"cases.json: {case['id']}", state_of(case["attempts"]), case["state"])


def attempts(states: Document, log: Log) -> Iterator[Finding]:
    """cases.json tells every attempt as the run log does."""
    logged = log.attempts()
    listed = {case["id"]: case["attempts"] for case in states["cases"]}
    for name in sorted(logged.keys() | listed.keys()):
        if logged.get(name, []) != listed.get(name, []):
            yield error("cases.attempts", f"cases.json: {name}", logged.get(name, []), listed.get(name, "no such case"))


def stated(states: Document, listed: list[Document]) -> Iterator[Finding]:
    """The statement's cases are those of cases.json."""
    expected = [{"id": case["id"], "state": case["state"]} for case in states["cases"]]
    if expected != listed:
        yield error("cases.statement", "statement cases", expected, listed)
