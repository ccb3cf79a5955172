"""The score table of a fresh run, as `verify` computes it, and the list of what a dry run would do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tabulate import tabulate

from kit.files import write_atomic
from kit.progress import duration
from verify import table
from verify.replay import replay
from verify.scoring.attach import attach

VERDICT_EXIT = {"verified": 0, "refused": 1, "unchecked": 2}


def show_scores(run: Path, result_path: Path, *, as_json: bool) -> int:
    """Replay the sealed run under its own key, write the result beside it, print it; exit code of the verdict.

    A case that failed or was interrupted makes the exit code 1 even where the record itself is verified.
    """
    outcome = replay(run, "self")
    attach(outcome)
    document = outcome.document()
    write_atomic(result_path, json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True).encode() + b"\n")
    if as_json:
        print(json.dumps(document | {"paths": {"run": str(run), "result": str(result_path)}}, sort_keys=True))
    else:
        print(table.render(document))
        print(f"result {result_path}\ncheck  python -m verify {run} --policy self")
    broken = any(case["state"] in {"failed", "interrupted"} for case in document["cases"])
    return max(VERDICT_EXIT[document["verdict"]], int(broken))


def print_dry_run(rows: list[dict[str, Any]], *, as_json: bool) -> int:
    """Cases, where they would run, how long, and the exact command lines."""
    if as_json:
        print(json.dumps({"cases": rows}, sort_keys=True))
        return 0
    print(
        tabulate(
            [(row["case"], row["suite"], row["isolation"], row["image"] or "-", _estimate(row)) for row in rows],
            headers=("case", "suite", "isolation", "image", "estimate"),
            tablefmt="simple",
        )
    )
    for row in rows:
        print(f"\n{row['case']}:\n  {row['command']}")
    return 0


def _estimate(row: dict[str, Any]) -> str:
    if row["estimate_s"] is None:
        return f"unknown, at most {duration(row['time_limit_s'])}"
    return f"about {duration(row['estimate_s'])}"
