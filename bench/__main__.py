"""`python -m bench [NAME ...]` runs the named benchmarks, all of them by default; `python -m bench replay --help` has options."""

from __future__ import annotations

import sys

from bench import audit, client, container, recording, replay, report, streaming, supervision

BENCHES = {
    "audit": audit.main,
    "client": client.main,
    "recording": recording.main,
    "replay": replay.main,
    "report": report.main,
    "streaming": streaming.main,
    "container": container.main,
    "supervision": supervision.main,
}
NAMED_ONLY = {"supervision"}  # needs torch
WITH_OPTIONS = {"client", "replay"}


def main(argv: list[str]) -> int:
    names, options = argv, []
    if argv[:1] and argv[0] in WITH_OPTIONS:
        names, options = argv[:1], argv[1:]
    unknown = [name for name in names if name not in BENCHES]
    if unknown:
        print(f"bench: unknown benchmark '{unknown[0]}'; known: {', '.join(BENCHES)}", file=sys.stderr)
        return 2
    for name in names or [name for name in BENCHES if name not in NAMED_ONLY]:
        print(f"== {name}", flush=True)
        BENCHES[name](*([options] if name in WITH_OPTIONS else []))
    return 0


sys.exit(main(sys.argv[1:]))
