"""A made-up result with every row of report 0.2.1: numbers that nobody measured, through the real scoring code.

For tests and benchmarks of reports only. Its run and chip are named `synthetic`, so that no page made of it can be taken for a result.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from verify import metrics, profile
from verify.findings import Finding, warning
from verify.metrics import Metric
from verify.result import Result
from verify.score import CaseResult
from verify.scoring.attach import attach
from verify.scoring.baseline import Baseline, Cell, load

RUN = "report-0.2.1-synthetic-20261124T000000Z-abcdef"
EXTRA = {"loss_variance": "nat^2", "tgs_trimmed": "tokens/(s*card)", "tgs_real": "tokens/(s*card)"}


def fields(table: profile.Table, select: dict[str, Any], suite: str, name: str, cards: int) -> dict[str, Any]:
    """Fields of a case that fits a selector of a table."""
    made: dict[str, Any] = {"id": name, "suite": suite, "cards": cards} | table.least
    for path, value in select.items():
        place = made
        *outer, last = path.split(".")
        for step in outer:
            place = place.setdefault(step, {})
        place[last] = value[0] if isinstance(value, list) else value
    return made


def number(seed: str, low: int = 10, high: int = 1000) -> Fraction:
    """A fixed number for a name."""
    import hashlib

    return Fraction(low * 1000 + int(hashlib.sha256(seed.encode()).hexdigest()[:8], 16) % ((high - low) * 1000), 1000)


def measured(table: profile.Table, row: profile.Row, metric: str, unit: str) -> Fraction:
    """The made-up value of one metric of one row."""
    if metric == "first_token_latency_mean_ms":
        return 40 * row.label["concurrency"] * Fraction(row.label["input_tokens"], 256)
    if metric == "throughput" and table.id == "text_generation":
        return 30 * row.label["concurrency"] - Fraction(row.label["concurrency"] ** 2, 10) + Fraction(row.label["output_tokens"], 100)
    if metric in {"crashes", "loss_variance"}:
        return Fraction(0) if metric == "crashes" else Fraction(1, 8)
    if metric == "loss_last":
        return Fraction("0.94") if "alpaca" in row.id else Fraction("1.36")
    if metric == "longest_fault_free_h":
        return Fraction(72)
    return number(f"{table.id}/{row.id}/{metric}{unit}")


def column(table: profile.Table, row: profile.Row, part: profile.Part) -> CaseResult:
    """A case that is done and fits a column with a case of its own."""
    value = Metric(measured(table, row, part.metric, part.unit), part.unit, "synthetic")
    made = fields(
        table, row.select | part.select, row.select["suite"], f"{table.id}-{row.id}-{part.id}", row.cards or row.label.get("cards", 8)
    )
    return CaseResult(
        made["id"],
        made["suite"],
        "done",
        table.section,
        table.part,
        {part.of: value},
        fields=made,
        facts={"weights": "file", "rehearsal": "no"},
    )


def case(table: profile.Table, row: profile.Row) -> CaseResult:
    """A case that is done and fits the row."""
    suite = row.select["suite"]
    name = f"{table.id}-{row.id}"
    wanted = {part.metric: part.unit for part in table.parts if not part.select} | {
        row.metric or shown["metric"]: shown["unit"] for shown in table.shown
    }
    if suite in {"pretrain", "finetuning"} and "tgs" in wanted:
        wanted |= {"tgs_trimmed": EXTRA["tgs_trimmed"]}
    values = {
        metric: Metric(
            found := measured(table, row, metric, unit),
            unit or row.label["unit"],
            "synthetic",
            found * Fraction(98, 100),
            found * Fraction(103, 100),
        )
        for metric, unit in wanted.items()
        if metric != "perplexity" and not (suite == "stability" and metric == "loss_variance" and "65b" in row.id)
    }
    if suite == "checkpoint":
        for pace in ("save_gb_per_s", "raw_write_gb_per_s", "load_gb_per_s", "raw_read_gb_per_s"):
            values[pace] = Metric(number(f"{name}{pace}", 1, 9), "GB/s", "synthetic")
    steps = [Fraction(6 - 5 * min(step, 60) // 60) + number(f"{name}{step}", 0, 1) / 4 for step in range(120)]
    series = {}
    if suite in {"pretrain", "finetuning", "stability"}:
        series = {
            "step_time_s": metrics.series([1 + number(f"t{name}{step}", 0, 1) / 10 + (step < 10) for step in range(120)], "s", 10),
            "loss": metrics.series(steps, "nat/token", 10),
        }
    section = {"base": None}.get(table.section, table.section)
    return CaseResult(name, suite, "done", section, table.part if section else None, values,
                      fields=fields(table, row.select, suite, name, row.cards or row.label.get("cards", 8)), facts={"weights": "file", "rehearsal": "no"}, series=series)  # fmt: skip


def cases(chosen: profile.Profile) -> list[CaseResult]:
    """One case for each row, and column of a row, that a case fills."""
    rows = [(table, row) for table in chosen.tables if not table.tiers for row in table.rows]
    return [case(table, row) for table, row in rows] + [
        column(table, row, part) for table, row in rows for part in table.parts if part.select
    ]


def pack(chosen: profile.Profile, share: Fraction = Fraction(11, 10)) -> Baseline:
    """A made-up baseline with every cell: the synthetic values times `share`."""
    real = load(chosen.baseline)
    cells = {}
    for table in chosen.tables:
        for row in table.rows:
            for metric, unit in {part.metric: part.unit for part in table.parts if not part.optional}.items() | {
                shown["metric"]: shown["unit"] for shown in table.shown
            }.items():
                if not table.tiers:
                    key = f"{table.id}/{row.id}/{metric}"
                    cells[key] = Cell(key, measured(table, row, metric, unit) * share, unit, "measured", "synthetic", None)
    return Baseline("synthetic", {"en": "synthetic", "zh": "合成数据"}, "made up", "0" * 64, real.document, cells, real.curves)


def result(
    findings: list[Finding] | None = None, *, full_baseline: bool = False, name: str = RUN, against: list[str] | None = None
) -> Result:
    """A scored result with every row."""
    chosen = profile.load(profile.DEFAULT)
    made = Result(
        cases=cases(chosen),
        findings=findings if findings is not None else [warning("synthetic", name, "a measured run", "made-up numbers")],
    )
    made.run = {
        "run": name, "plan": "report-0.2.1", "chip": "synthetic", "isolation": "container", "kit": "0.1.0", "signer": "0" * 64, "origin": "self",
        "image": {"reference": "chipassay/synthetic:0", "manifest": "sha256:" + "1" * 64, "config": "sha256:" + "2" * 64, "platform": "linux/amd64"},
        "started": "2026-11-24T00:00:00Z", "finished": "2026-11-27T00:00:00Z",
    }  # fmt: skip
    attach(made, profile.DEFAULT, against, [pack(chosen)] if full_baseline else None)
    return made
