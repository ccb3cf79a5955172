"""`kit baseline`: makes packs from sealed runs, shows one, and sets two side by side; verify computes what is in them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tabulate import tabulate

from kit.errors import KitError
from kit.files import make_folder, write_atomic
from verify import given
from verify.findings import Unchecked
from verify.profile import NAME
from verify.replay import SUMS, replay
from verify.result import Result
from verify.scoring import baseline, make


def create(runs: list[Path], name: str, out: Path, trust: str | None) -> int:
    """Write OUT/NAME/baseline.json from runs that verify; refuses the first that does not."""
    if NAME.fullmatch(name) is None:
        raise KitError("name of a baseline is not allowed", where=name, next_step="use small letters, digits, dots and hyphens")
    try:
        given.trust(trust)
    except Unchecked as fault:
        raise KitError(str(fault)) from None
    results = [_replayed(run, trust) for run in runs]
    if len({result.run["run"] for result in results}) != len(results):
        raise KitError("a run is named twice", next_step="name each run once")
    try:
        document = make.pack(results, name, [_origin(run, result) for run, result in zip(runs, results, strict=True)])
    except Unchecked as fault:
        raise KitError(str(fault)) from None
    path = out / name / baseline.FILE
    make_folder(path.parent, "folder of the baseline", "name a folder with --out DIR")
    write_atomic(path, _bytes(document))
    print(path)
    return 0


def _replayed(run: Path, trust: str | None) -> Result:
    try:
        result = replay(run, trust or "self")
    except Unchecked as fault:
        raise KitError(str(fault)) from None
    if result.verdict == "refused":
        first = next(finding for finding in result.findings if finding.severity == "error")
        raise KitError("run is refused", where=str(run), why=str(first), next_step="a baseline is made of verified runs only", exit_code=1)
    return result


def _origin(run: Path, result: Result) -> dict[str, Any]:
    facts = {name: str(result.run[name]) for name in ("run", "plan", "chip", "kit", "isolation", "signer", "started", "finished")}
    return facts | {"sums_sha256": hashlib.sha256((run / SUMS).read_bytes()).hexdigest()}


def _bytes(document: dict[str, Any]) -> bytes:
    """One cell a line, so that a difference of two packs can be read."""
    head = json.dumps({key: value for key, value in document.items() if key != "cells"}, ensure_ascii=False, indent=1)
    cells = ",\n".join("  " + json.dumps(cell, ensure_ascii=False) for cell in document["cells"])
    return f'{head[:-2]},\n "cells": [\n{cells}\n ]\n}}\n'.encode()


def _load(name: str) -> baseline.Baseline:
    try:
        return baseline.read(Path(name)) if name.endswith(".json") else baseline.load(name)
    except Unchecked as fault:
        raise KitError(str(fault)) from None


def show(name: str, *, empty: bool) -> int:
    """The cells of a pack with status and source; empty ones on request."""
    pack = _load(name)
    cells = [cell for cell in pack.cells.values() if empty or cell.value is not None]
    rows = [(cell.key, _text(cell), cell.unit, _spread(cell), cell.status, cell.source) for cell in cells]
    print(f"{pack.name}: {pack.title['en']}\nsource {pack.source}\nsha256 {pack.sha256}\n")
    print(tabulate(rows, headers=("cell", "value", "unit", "spread", "status", "source"), tablefmt="simple", disable_numparse=True))
    print(f"\n{sum(cell.value is not None for cell in pack.cells.values())} of {len(pack.cells)} cells have a value")
    return 0


def diff(first: str, second: str) -> int:
    """Two packs side by side: their values, second / first, and what only one of them has; exit code 1 where they differ."""
    packs = [_load(name) for name in (first, second)]
    keys = sorted(packs[0].cells.keys() | packs[1].cells.keys())
    rows = []
    for key in keys:
        one, two = (pack.cells.get(key) for pack in packs)
        if (one.value if one else None) != (two.value if two else None):
            rows.append((key, _text(one), _text(two), _ratio(one, two), (one or two).unit))  # type: ignore[union-attr]
    if not rows:
        print(f"{packs[0].name} and {packs[1].name} hold the same values")
        return 0
    headers = ("cell", packs[0].name, packs[1].name, "second / first", "unit")
    print(tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True))
    return 1


def _text(cell: baseline.Cell | None) -> str:
    return "-" if cell is None or cell.value is None else f"{float(cell.value):.6g}"


def _ratio(one: baseline.Cell | None, two: baseline.Cell | None) -> str:
    if one is None or two is None or not one.value or two.value is None:
        return "-"
    return f"{float(two.value / one.value):.4g}"


def _spread(cell: baseline.Cell) -> str:
    return "-" if not cell.spread else f"{cell.spread['min']} .. {cell.spread['max']} ({cell.spread['runs']} runs)"
