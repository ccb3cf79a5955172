"""What a rule says about a run, and the two ways of stopping: refused (exit 1) and could not check (exit 2).

Text that comes out of a run is shown on one line, cut, and with every control character escaped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Severity = Literal["error", "warning", "notice"]
SHOWN = 200
MOST = 20  # findings of one rule and severity that are kept one by one
ELSEWHERE = "and elsewhere"


def show(value: object) -> str:
    """Any value as one printable line of at most 200 characters."""
    text = value if isinstance(value, str) else repr(value)
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text[: SHOWN + 1])
    return safe if len(safe) <= SHOWN else safe[: SHOWN - 3] + "..."


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a rule has to say: where, what was expected, what was found."""

    rule: str
    severity: Severity
    where: str
    expected: str
    found: str

    def to_dict(self) -> dict[str, Any]:
        """The finding as it stands in result.json."""
        return asdict(self)

    def refusal(self) -> Refused:
        """The finding as something to raise."""
        return Refused(self.rule, self.where, self.expected, self.found)

    def __str__(self) -> str:
        return f"{self.rule} ({self.where}): expected {self.expected}, found {self.found}"


def error(rule: str, where: str, expected: object, found: object) -> Finding:
    """A finding that refuses the run."""
    return Finding(rule, "error", show(where), show(expected), show(found))


def warning(rule: str, where: str, expected: object, found: object) -> Finding:
    """A finding that a reader must see and that refuses nothing."""
    return Finding(rule, "warning", show(where), show(expected), show(found))


def notice(rule: str, where: str, expected: object, found: object) -> Finding:
    """A finding worth knowing."""
    return Finding(rule, "notice", show(where), show(expected), show(found))


@dataclass(slots=True)
class Kept:
    """Findings, of each rule and severity the first 20 and how many more there were: a run of bad events fills no memory and no page."""

    first: list[Finding] = field(default_factory=list)
    counts: Counter[tuple[str, Severity]] = field(default_factory=Counter)

    def add(self, finding: Finding) -> None:
        """Keep it, or count it; what others counted before is kept as they said it."""
        if finding.where == ELSEWHERE:
            self.first.append(finding)
            return
        self.counts[finding.rule, finding.severity] += 1
        if self.counts[finding.rule, finding.severity] <= MOST:
            self.first.append(finding)

    def __iter__(self) -> Iterator[Finding]:
        yield from self.first
        for (rule, severity), count in self.counts.items():
            if count > MOST:
                yield Finding(rule, severity, ELSEWHERE, f"the first {MOST} such findings stand above", f"{count - MOST} more")


def capped(found: Iterable[Finding]) -> Iterator[Finding]:
    """The findings as `Kept` keeps them; a Refused on the way is the last word."""
    kept = Kept()
    try:
        for finding in found:
            kept.add(finding)
    except Refused:
        yield from kept
        raise
    yield from kept


class Refused(ValueError):
    """Input that breaks a rule; carries the finding (exit 1)."""

    def __init__(self, rule: str, where: str, expected: object, found: object) -> None:
        self.finding = error(rule, where, expected, found)
        super().__init__(str(self.finding))


class Unchecked(Exception):
    """What was asked for could not be checked at all (exit 2)."""

    def __init__(self, what: str, where: str = "", why: str = "", next_step: str = "") -> None:
        line = show(what)
        line += f" ({show(where)})" if where else ""
        line += f": {show(why)}" if why else ""
        line += f"; {show(next_step)}" if next_step else ""
        super().__init__(line)
