"""What a mock server is asked to be."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from . import faults

COUNTS = ("ids", "names", "running", "usage", "nothing")


@dataclass(frozen=True)
class Settings:
    """Times in milliseconds; `refuses` are fields of a request that are answered with 400."""

    port: int = 0
    cpu: int = -1
    seed: int = 1024
    model: str = "mock"
    first_ms: float = 100
    spread_ms: float = 0
    step_ms: float = 15
    together: bool = True
    flat: bool = False
    tokens_per_chunk: int = 1
    counts: str = "ids"
    refuses: tuple[str, ...] = ()
    text_only: bool = False
    answers: str = ""
    fault: str = ""
    fault_from: int = 0
    fault_after: int = 2


def read(argv: list[str]) -> Settings:
    """From a command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.mockserver", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0: any free one; the port is printed as the first line")
    parser.add_argument("--cpu", type=int, default=-1, help="processor to stay on")
    parser.add_argument("--seed", type=int, default=1024, help="seed of delays and token ids")
    parser.add_argument("--model", default="mock")
    parser.add_argument("--first-ms", type=float, default=100, help="from a request's arrival to its first token")
    parser.add_argument("--spread-ms", type=float, default=0, help="seeded, evenly spread addition to the first delay")
    parser.add_argument("--step-ms", type=float, default=15, help="from one chunk to the next")
    parser.add_argument("--apart", dest="together", action="store_false", help="each request by its own steps, not all at the same beat")
    parser.add_argument("--flat", action="store_true", help="everything after the first delay as fast as the socket takes it")
    parser.add_argument("--tokens-per-chunk", type=int, default=1)
    parser.add_argument("--counts", choices=COUNTS, default="ids", help="how it can tell the tokens of a chunk")
    parser.add_argument("--refuses", nargs="*", default=(), help="fields of a request answered with 400")
    parser.add_argument("--text-only", action="store_true", help="takes no token ids as prompt")
    parser.add_argument(
        "--answers", default="", help="JSON file: a list of [prompt, ids], what to go on with after prompts known beforehand"
    )
    parser.add_argument("--fault", choices=("", *faults.FAULTS), default="")
    parser.add_argument("--fault-from", type=int, default=0, help="number of the first completion that goes wrong")
    parser.add_argument("--fault-after", type=int, default=2, help="chunks before it goes wrong")
    found = vars(parser.parse_args(argv))
    return Settings(**{**found, "refuses": tuple(found["refuses"])})
