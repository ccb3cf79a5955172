"""`python -m bench [NAME ...]`: runs the named benchmarks, all of them by default."""

from __future__ import annotations

import sys

from bench import container, recording, replay, report

BENCHES = {"recording": recording.main, "replay": replay.main, "report": report.main, "container": container.main}


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in BENCHES]
    if unknown:
        print(f"bench: unknown benchmark '{unknown[0]}'; known: {', '.join(BENCHES)}", file=sys.stderr)
        return 2
    for name in names or BENCHES:
        print(f"== {name}", flush=True)
        BENCHES[name]()
    return 0


sys.exit(main(sys.argv[1:]))
