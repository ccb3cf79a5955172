"""How much a metric scatters from run to run: repeats of one plan on one machine become rows of a tolerance table.

A CV from few repeats is itself uncertain, so the row gets the upper end of its one-sided 95 % confidence interval:
CV * sqrt((n - 1) / chi-square quantile at 0.05 with n - 1 degrees of freedom), rounded up to four decimals.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_CEILING, Decimal

from verify.decision import EXACT, total_of
from verify.rerun import Values
from verify.tolerance import Row, Table

# Degrees of freedom -> quantile of the chi-square distribution at 0.05 (any table of it; tests compute them again).
CHI_SQUARE = {4: "0.7107", 5: "1.1455", 6: "1.6354", 7: "2.1673", 8: "2.7326", 9: "3.3251", 14: "6.5706", 19: "10.1170", 29: "17.7084"}
LEAST = min(CHI_SQUARE) + 1
STEP = Decimal("0.0001")
LARGEST = Decimal("0.5")


def cv(values: Sequence[Decimal]) -> Decimal:
    """Sample standard deviation over mean of at least two positive values, at 50 digits."""
    count = Decimal(len(values))
    mean = EXACT.divide(total_of(values), count)
    squares = total_of(EXACT.power(EXACT.subtract(value, mean), 2) for value in values)
    return EXACT.divide(EXACT.sqrt(EXACT.divide(squares, count - 1)), mean)


def upper(measured: Decimal, repeats: int) -> Decimal:
    """Upper end of the 95 % interval of a CV that `repeats` runs gave, at least one step of the table."""
    freedom = max(known for known in CHI_SQUARE if known < repeats)
    factor = EXACT.sqrt(EXACT.divide(Decimal(freedom), Decimal(CHI_SQUARE[freedom])))
    return max(EXACT.multiply(measured, factor).quantize(STEP, ROUND_CEILING), STEP)


def rows(table: Table, runs: Sequence[Values], suites: dict[str, str]) -> list[tuple[Row, Decimal]]:
    """For each case and audited metric that all runs have: its row with the new CV, and the CV as it was measured."""
    found = []
    for case, suite in suites.items():
        for row in table.rows_of(case, suite):
            values = [Decimal(run[case, row.metric]) for run in runs if (case, row.metric) in run]
            if len(values) == len(runs) and all(value > 0 for value in values):
                measured = cv(values)
                allowed = min(upper(measured, len(values)), LARGEST)
                found.append((Row(suite, row.metric, case, row.better, allowed, row.in_mean), measured))
    return found
