from __future__ import annotations

import os
import sys

from .server import Server
from .settings import read


def main(argv: list[str]) -> None:
    settings = read(argv)
    if settings.cpu >= 0:
        os.sched_setaffinity(0, {settings.cpu})
    server = Server(settings)
    print(server.port, flush=True)
    server.serve()


main(sys.argv[1:])
