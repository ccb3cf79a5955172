"""`python -m tests.fuzz`: the long form, with its counts and its seconds."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.adversarial import builder
from tests.fuzz import parsers, runs


def main() -> int:
    """Damage sealed runs, then feed every parser; 1 where anything was accepted or crashed."""
    options = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    options.add_argument("what", nargs="?", choices=["runs", "parsers"], help="default: both")
    options.add_argument("--count", type=int, default=100_000, help="mutations of a sealed run (default: %(default)s)")
    options.add_argument("--minutes", type=float, default=30.0, help="minutes of CPU for all parsers together (default: %(default)s)")
    options.add_argument("--match", default="", metavar="TEXT", help="only parsers with this in their names")
    options.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    options.add_argument("--run", type=Path, help="sealed run to damage (default: a small one made for tests)")
    given = options.parse_args()
    if given.count < 1 or not given.minutes > 0:
        options.error("nothing would be tried: give --count of 1 or more and --minutes above 0")
    if not parsers.names(given.match):
        options.error(f"no parser has '{given.match}' in its name; known: {', '.join(parsers.names())}")
    if given.run and not (given.run / "run.dsse.json").is_file():
        options.error(f"no sealed run to damage: {given.run}; name a run's folder, or leave --run out")
    faults: list[str] = []
    if given.what != "parsers":
        faults += _runs(given)
    if given.what != "runs":
        tallies = parsers.fuzz(given.minutes * 60, given.seed, given.match)
        print(f"parsers: {sum(t.count for t in tallies):,} inputs, {sum(t.cpu_s for t in tallies) / 60:.1f} minutes of CPU")
        faults += [fault for tally in tallies for fault in tally.faults]
    for fault in faults[:20]:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


def _runs(given: argparse.Namespace) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        tally = runs.fuzz(given.run or builder.build(Path(folder)), given.count, given.seed)
    print(tally, *(f"  {count:>7,} {kind}" for kind, count in sorted(tally.kinds.items())), sep="\n", flush=True)
    return tally.faults


sys.exit(main())
