"""Mutation testing of verify/ by mutmut: changes of the code that its own tests must notice.

`python -m tests.mutation` makes every mutant, leaves out those that change nothing but the wording of a message, draws a
sample by seed, runs it, and prints counts and the survivors. The wording of a finding (where, expected, found) is for
people; no test pins it, and no verdict hangs on it.
"""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

MUTANTS = Path("mutants/verify")
# Calls, and how many of their arguments decide something; the rest is wording for people.
SPEAKERS = {"error": 1, "warning": 1, "notice": 1, "Refused": 1, "Bad": 1, "Unchecked": 0, "Metric": 2, "wrong": 1}
CORE = (  # what decides whether a run is accepted; formulas and pages have their own tests
    "strict", "envelope", "files", "tree", "merkle", "notes", "runlog", "complete", "statement", "statements", "policy", "chain", "score", "replay", "events", "reading",
    "findings", "inside", "patches",
)  # fmt: skip
KILLED, SURVIVED, UNTESTED, SLOW = (1, 3), (0,), (5, 33), (24, 36, 152, 255, -24)  # exit codes as mutmut keeps them
ENDS = {
    code: name for name, codes in (("killed", KILLED), ("survived", SURVIVED), ("untested", UNTESTED), ("timeout", SLOW)) for code in codes
}


class _Silent(ast.NodeTransformer):
    """Takes away what findings and errors say beyond their rule."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        kept = SPEAKERS.get(getattr(node.func, "id", getattr(node.func, "attr", "")))
        if kept is not None:
            node.args, node.keywords = node.args[:kept], []
        return node


def _body(function: ast.AST) -> str:
    silent = _Silent().visit(function)
    silent.name = "f"
    return ast.dump(silent)


def meaningful(path: Path) -> list[str]:
    """Names of the mutants in a mutated module that change more than wording."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    listed = json.loads(path.with_name(path.name + ".meta").read_text(encoding="utf-8"))["exit_code_by_key"]
    originals = {name: _body(node) for name, node in functions.items() if name.endswith("__mutmut_orig")}
    return [name for name in listed if _differs(name.rpartition(".")[2], functions, originals)]


def _differs(name: str, functions: dict[str, ast.FunctionDef | ast.AsyncFunctionDef], originals: dict[str, str]) -> bool:
    return _body(functions[name]) != originals[name.rpartition("__mutmut_")[0] + "__mutmut_orig"]


def _mutmut(*names: str) -> None:
    subprocess.run([sys.executable, "-m", "mutmut", "run", "--max-children", "1", *names], check=False, stdout=sys.stderr)


def _ends() -> dict[str, int | None]:
    return {
        name: code
        for path in sorted(MUTANTS.rglob("*.meta"))
        for name, code in json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"].items()
    }


def main() -> int:
    """1 where a mutant of the sample survived."""
    options = argparse.ArgumentParser(prog="python -m tests.mutation", description="Mutation testing of verify/.")
    options.add_argument("--count", type=int, default=60, help="mutants to draw; 0: all (default: %(default)s)")
    options.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    options.add_argument("--module", nargs="*", default=CORE, help="globs of modules, like runlog metrics/* (default: those that decide)")
    given = options.parse_args()
    if given.count < 0:
        options.error("--count is below 0; give how many to draw, or 0 for all")
    for glob in given.module:
        if not any(Path("verify").glob(f"{glob}.py")):
            options.error(f"no module of verify/ fits '{glob}'; name one like runlog or metrics/*")
    _mutmut("none of them")  # makes the mutants and times the tests
    known = _ends()
    paths = sorted({path for glob in given.module for path in MUTANTS.glob(f"{glob}.py")})
    chosen = [name for path in paths if path.with_name(path.name + ".meta").exists() for name in meaningful(path)]
    sample = sorted(Random(given.seed).sample(chosen, min(given.count or len(chosen), len(chosen))))
    print(
        f"{len(known):,} mutants, {len(chosen):,} of the chosen modules change more than wording, {len(sample)} drawn with seed {given.seed}",
        flush=True,
    )
    _mutmut(*sample)
    return _say({name: code for name, code in _ends().items() if name in set(sample)})


def _say(ends: dict[str, int | None]) -> int:
    named = {name: ENDS.get(code, "not checked" if code is None else f"exit {code}") for name, code in ends.items()}
    print(", ".join(f"{count} {name}" for name, count in sorted(Counter(named.values()).items())))
    for name, end in sorted(named.items()):
        if end != "killed":
            print(f"{end}: {name}")
    return int("survived" in named.values())


if __name__ == "__main__":
    sys.exit(main())
