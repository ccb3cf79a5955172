"""Plans: TOML in, a list of cases with every value given out.

A plan file is checked against its schema, its matrices and grids are expanded, each case is checked against its suite's schema,
and the whole becomes canonical JSON: that is what a run seals. No value is filled in by code but `section`, which the
suite decides, `nodes`, which is 1 where a case is silent, `allowed_patches`, which is empty where the file is, and what a
case names: the shape of its model, the values of its curve.
"""

from __future__ import annotations

import fnmatch
import hashlib
import itertools
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit import curves, layout, models
from kit.errors import KitError
from kit.schema import check, closest
from verify import metrics
from verify.data import root, suites_own
from verify.findings import Unchecked
from verify.strict import canonical

SECTIONS = ("specifications", "training", "finetuning", "inference")
SHARED_SECTION = "specifications"  # runs with whichever section is asked for first: verify takes its numbers as ceilings
Case = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """A resolved plan: `document` is what gets sealed."""

    document: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.document["name"])

    @property
    def cases(self) -> list[Case]:
        return list(self.document["cases"])

    @property
    def official(self) -> bool:
        return bool(self.document["official"])

    @property
    def allowed_patches(self) -> list[str]:
        """Globs of paths below site-packages that a vendor's patches may touch."""
        return list(self.document["allowed_patches"])

    @property
    def container_required(self) -> bool:
        return bool(self.document["isolation"] == "required")

    def to_bytes(self) -> bytes:
        """Canonical JSON with a final newline, as written to evidence/plan.json."""
        return canonical(self.document) + b"\n"

    def sha256(self) -> str:
        return hashlib.sha256(self.to_bytes()).hexdigest()


def shipped_plans() -> list[str]:
    """Names of the plans in manifests/plans."""
    return sorted(path.stem for path in (root() / "manifests/plans").glob("*.toml"))


def load(name_or_path: str) -> Plan:
    """Resolve a shipped plan by name, or any plan file by its path; a .json file is a plan that was resolved before."""
    path = _find(name_or_path)
    if path.suffix == ".json":
        return _resolved(path)
    try:
        source = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise KitError("plan is not valid TOML", where=str(path), why=str(error), next_step="correct the file") from error
    except OSError as error:
        step = "name a file that can be read, or a shipped plan"
        raise KitError("plan cannot be read", where=str(path), why=error.strerror or str(error), next_step=step) from error
    return resolve(source, where=str(path))


def _resolved(path: Path) -> Plan:
    try:
        made = from_run(path)
    except ValueError as error:
        raise KitError("plan cannot be read", where=str(path), why=str(error), next_step="name a plan.json that the kit wrote") from error
    check(made.document, "resolved_plan", str(path))
    return made


def _find(name_or_path: str) -> Path:
    shipped = root() / "manifests/plans" / f"{name_or_path}.toml"
    if "/" not in name_or_path and not name_or_path.endswith((".toml", ".json")):
        if shipped.is_file():
            return shipped
        raise KitError(f"unknown plan '{name_or_path}'", next_step=closest(name_or_path, shipped_plans()))
    path = Path(name_or_path)
    if not path.is_file():
        raise KitError("plan file does not exist", where=str(path), next_step=f"shipped plans: {', '.join(shipped_plans())}")
    return path


def resolve(source: dict[str, Any], where: str) -> Plan:
    """Check a plan document, expand its matrices, and check every case against its suite's schema."""
    check(source, "plan", where)
    cases = [case for raw in source["case"] for case in _expand(raw, where)]
    for case in cases:
        check(suites_own(case), f"cases/{case['suite']}", f"{where}: case {case['id']}")
        _check_steps(case, where)
        layout.check(case, f"{where}: case {case['id']}")
        _check_operation(case, where)
    _check_unique([str(case["id"]) for case in cases], where)
    document = {"allowed_patches": []} | {key: value for key, value in source.items() if key != "case"} | {"cases": cases}
    return Plan(document)


def from_run(path: Path) -> Plan:
    """The resolved plan that a run was opened with."""
    from verify.strict import loads

    return Plan(loads(path.read_bytes()))


def _expand(raw: dict[str, Any], where: str) -> Iterator[Case]:
    suite, known = raw["suite"], _suites()
    if suite not in known:
        raise KitError(f"unknown suite '{suite}'", where=f"{where}: case {raw['id']}", next_step=closest(suite, known))
    section = metrics.load(suite).SECTION
    fixed = {key: value for key, value in raw.items() if key not in {"matrix", "grid"}}
    for chosen in _choices(raw, where):
        case = {"nodes": 1} | fixed | chosen | {"section": section, "id": _fill(raw["id"], chosen, where)}
        yield case | _named(case, where)


def _suites() -> tuple[str, ...]:
    try:
        return metrics.suites()
    except Unchecked as fault:
        raise KitError(str(fault)) from None


def _named(case: Case, where: str) -> dict[str, Any]:
    """What a case only names: the shape of its model, the values of its curve."""
    place, found = f"{where}: case {case['id']}", {}
    if "model" in case:
        found["model"] = models.resolve(case["model"], place)
    if "curve" in case:
        found["curve"] = curves.resolve(case["curve"], place, Path(where).parent)
    return found


def _choices(raw: dict[str, Any], where: str) -> Iterator[dict[str, Any]]:
    """Every combination of the matrix's keys and the grid's axes, the last one turning fastest; the first has `first` besides."""
    grid = raw.get("grid", {})
    axes = [[{key: value} for value in values] for key, values in raw.get("matrix", {}).items()]
    for axis in grid.get("axes", []):
        if any(len(row) != len(axis["fields"]) for row in axis["values"]):
            raise KitError(
                f"a row of the grid's axis {axis['fields']} has more or fewer values than that",
                where=f"{where}: case {raw['id']}",
                next_step="give each row one value a field",
            )
        axes.append([dict(zip(axis["fields"], row, strict=True)) for row in axis["values"]])
    for number, parts in enumerate(itertools.product(*axes)):
        chosen = {key: value for part in parts for key, value in part.items()}
        yield chosen | (grid.get("first", {}) if number == 0 else {})


def _fill(template: str, values: dict[str, Any], where: str) -> str:
    try:
        return template.format(**values)
    except (KeyError, IndexError, ValueError) as error:
        raise KitError(f"case id '{template}' names a key that the matrix lacks", where=where, next_step=f"use {sorted(values)}") from error


def _check_unique(ids: list[str], where: str) -> None:
    seen: set[str] = set()
    for name in ids:
        if name.lower() in seen:
            raise KitError(f"case id '{name}' occurs twice", where=where, next_step="make ids unique, ignoring case")
        seen.add(name.lower())


def _check_steps(case: Case, where: str) -> None:
    """Latents can be sampled only at steps that there are."""
    if max(case.get("latents_at", [0])) > case.get("steps", 0):
        raise KitError(
            f"latents_at names a step beyond the case's {case['steps']} steps",
            where=f"{where}: case {case['id']}",
            next_step="name steps from 1 to steps",
        )


def _check_operation(case: Case, where: str) -> None:
    """A collective must divide its elements among the ranks; a peer must be a rank, on the node that ruling 17 asks for."""
    if case.get("operation") == "all_to_all" and case["elements"] % case["processes"]:
        raise KitError(
            f"{case['elements']} elements do not divide among {case['processes']} ranks",
            where=f"{where}: case {case['id']}",
            next_step="choose a multiple of processes",
        )
    if "peer" not in case:
        return
    per_node = case["processes"] // case["nodes"]
    fits = range(per_node, case["processes"]) if case["nodes"] > 1 else range(1, case["processes"])
    if case["peer"] not in fits:
        raise KitError(
            f"peer {case['peer']} does not fit {case['processes']} processes on nodes = {case['nodes']}",
            where=f"{where}: case {case['id']}",
            next_step=f"choose a rank from {fits.start} to {fits.stop - 1}: on one node the peer is there, on several on another"
            if len(fits)
            else "pt2pt needs two ranks",
        )


def select(plan: Plan, suites: Sequence[str], globs: Sequence[str], section: str | None, only: Sequence[str] = ()) -> list[Case]:
    """The cases that a command asks for, in plan order; a filter that fits no case at all is a misuse."""
    known = {case["suite"] for case in plan.cases}
    for suite in suites:
        if suite not in known:
            raise KitError(f"unknown suite '{suite}'", where=f"plan {plan.name}", next_step=closest(suite, known))
    chosen = [case for case in plan.cases if not suites or case["suite"] in suites]
    ids = [case["id"] for case in chosen]
    for glob in globs:
        if not fnmatch.filter(ids, glob):
            raise KitError(f"no case fits '{glob}'", where=f"plan {plan.name}", next_step=closest(glob, ids))
    chosen = [case for case in chosen if not globs or any(fnmatch.fnmatchcase(case["id"], glob) for glob in globs)]
    if only:
        chosen = [case for case in chosen if case["id"] in only]
    return [case for case in chosen if section is None or case["section"] in {section, SHARED_SECTION}]
