"""`kit lab calibrate`: repeats of a plan on one machine become a tolerance table with measured CVs."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

from kit.errors import FAILED, KitError
from kit.files import writable, write_atomic
from kit.lab.issue import load_table
from verify import calibration, labruns, tolerance
from verify.labruns import Replayed
from verify.tolerance import Row, Table

HEAD = """# Written by `kit lab calibrate`. CVs are upper ends of 95 % intervals (verify/calibration.py).
schemaVersion = 1
name = "{name}"
provisional = false
source = "{count} runs of plan {plan} on chip {chip}, host {host}"

[test]
factor = {factor}
reruns = {reruns}
alpha = {alpha}
quantile = {quantile}
source = "as table {base}"
"""
ROW = """
[[row]]
suite = "{row.suite}"
metric = "{row.metric}"
case = "{row.case}"
better = "{row.better}"
cv = {row.cv}
repeats = {repeats}
in_mean = {in_mean}
source = "{repeats} repeats, measured CV {measured}"
"""


def calibrate(runs: Sequence[Path], base: str, target: Path) -> Path:
    """Replay at least five sealed runs of the same plan, chip and host, and write the table that they give."""
    if target.exists():
        raise KitError("file exists", where=str(target), next_step="name another; a table that a challenge names is never changed")
    writable(target, "table", "name a file with --out FILE")
    if len(set(runs)) < calibration.LEAST:
        raise KitError(f"{len(set(runs))} runs are too few", where="kit lab calibrate", next_step=f"give at least {calibration.LEAST}")
    read = [labruns.replayed(run, run.name) for run in dict.fromkeys(runs)]
    _check(read, runs)
    table = tolerance.parse(load_table(base), base)
    values = [labruns.vendor_values(one) for one in read]
    suites = {case: suite for case, suite in read[0].suites.items() if all(one.states[case] == "done" for one in read)}
    text = render(target.stem, read, table, calibration.rows(table, values, suites))
    tolerance.parse(text.encode(), str(target))
    write_atomic(target, text.encode())
    return target


def _check(read: Sequence[Replayed], runs: Sequence[Path]) -> None:
    for one, path in zip(read, dict.fromkeys(runs), strict=True):
        if one.findings:
            raise KitError("run is refused", where=str(path), why=str(one.findings[0]), exit_code=FAILED)
        said, first = one.statement.predicate, read[0].statement.predicate
        if (said["plan"], said["chip"], one.host) != (first["plan"], first["chip"], read[0].host):
            raise KitError("run has another plan, chip or host", where=str(path), next_step="repeat one plan on one machine")
    if len({one.statement.sha256 for one in read}) != len(read):
        raise KitError("the same run twice", where="kit lab calibrate", next_step="each run counts once")


def render(name: str, read: Sequence[Replayed], table: Table, rows: Sequence[tuple[Row, Decimal]]) -> str:
    """The table as TOML."""
    said = read[0].statement.predicate
    head = HEAD.format(
        name=name, count=len(read), plan=said["plan"]["name"], chip=said["chip"], host=read[0].host[:16], base=table.name,
        factor=table.factor, reruns=table.reruns, alpha=table.alpha, quantile=table.quantile,
    )  # fmt: skip
    parts = [ROW.format(row=row, repeats=len(read), in_mean=str(row.in_mean).lower(), measured=f"{measured:.5f}") for row, measured in rows]
    return head + "".join(parts)
