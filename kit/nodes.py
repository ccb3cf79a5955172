"""Cases on several nodes: the kit runs on the first and starts one worker on each, through the site's own remote command.

`nodes` of a case says how many; `processes` are those of all nodes together. The run folder and the cache lie on storage that all
nodes see under one path (docs/design/many-cards.md). When one worker ends badly the others are ended too.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from kit import storage
from kit.errors import KitError
from kit.job import Job, NodeCommand, Outcome, Runner, timed_out

DEFAULT_REMOTE = "ssh -o BatchMode=yes {host} {command}"
DEFAULT_PORT = 29400
SETTLE_S = 5  # after the first worker ended badly: long enough for the others to say why
TERM_GRACE_S = 10
REFUSED = 78  # of a worker: its node may not take part, and trying again is of no use
AGAIN_S = 5  # before a node that was lost is tried again
POLL_S = 0.2
LINE = re.compile(r"(\S+)\s+slots=(\d+)")


@dataclass(frozen=True, slots=True)
class Site:
    """The nodes, by name and slots, this one first; how a command gets to another one; where ranks meet (`address:port`)."""

    hosts: tuple[tuple[str, int], ...] = ()
    remote: str = DEFAULT_REMOTE
    endpoint: str = ""

    @property
    def once(self) -> bool:
        """Whether the command is given once for all nodes, as to srun or DeepSpeed's launcher: its template names no {host}."""
        return "{host}" not in self.remote

    @property
    def rendezvous(self) -> str:
        """Given, or the first node's name with the usual port."""
        address = self.endpoint or (self.hosts[0][0] if self.hosts else "NODE0")
        return address if re.search(r":\d+$", address) else f"{address}:{DEFAULT_PORT}"

    def carried(self, node: int, command: Sequence[str]) -> list[str]:
        """The command as this node starts it on another: put where the template says {command}, as one shell text, else behind it."""
        if node == 0 and not self.once:
            return list(command)
        parts = shlex.split(self.remote)
        if not self.once:
            parts = [part.replace("{host}", self.hosts[node][0]) for part in parts]
        if "{command}" not in parts:
            return [*parts, *command]
        return [shlex.join(command) if part == "{command}" else part for part in parts]


ALONE = Site()


def read(path: Path | None, remote: str | None, endpoint: str | None) -> Site:
    """The site of a hostfile as DeepSpeed reads it, `name slots=8` a line; KitError where a line is none."""
    if path is None:
        return Site((), remote or DEFAULT_REMOTE, endpoint or "")
    try:
        lines = [line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise KitError(
            "hostfile cannot be read", where=str(path), why=str(error), next_step="name a file with lines like: node1 slots=8"
        ) from error
    hosts = []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        match = LINE.fullmatch(line)
        if match is None or match[1].startswith("-"):
            raise KitError(
                "hostfile has a line that is none", where=f"{path}:{number}", why=repr(line[:60]), next_step="write: node1 slots=8"
            )
        hosts.append((match[1], int(match[2])))
    if len({name for name, _ in hosts}) != len(hosts) or not hosts:
        raise KitError("hostfile names no node, or one twice", where=str(path), next_step="name each node once, this one first")
    return Site(tuple(hosts), remote or DEFAULT_REMOTE, endpoint or "")


def missing(case: dict[str, object], site: Site, cards: int | None) -> str | None:
    """Why a case cannot run on these nodes, or None; `cards` are those of this node, None where the chip has no cards to count."""
    nodes, wanted = int(str(case.get("nodes", 1))), int(str(case["cards"]))
    if nodes > 1 and len(site.hosts) < nodes and not site.once:
        return f"needs {nodes} nodes, {len(site.hosts)} are named: give --hosts FILE, or --remote TEMPLATE (docs/design/many-cards.md)"
    each = -(-wanted // nodes)
    here = min([cards, *(slots for _, slots in site.hosts[:nodes])] if nodes > 1 and cards is not None else [cards or each])
    return None if each <= here else f"needs {each} cards on {'each node' if nodes > 1 else 'this node'}, {here} are here"


class NodesRunner:
    """Runs cases of several nodes over a site, and all others as the inner runner does."""

    def __init__(self, inner: Runner, site: Site) -> None:
        self.inner, self.site = inner, site
        self.isolation = replace(inner.isolation)

    def command(self, job: Job) -> list[str]:
        return self.inner.command(job)

    def node_command(self, job: Job, node: int | None, endpoint: str) -> NodeCommand:
        """As the inner runner has it, carried to its node, or to all of them (None)."""
        made = self.inner.node_command(job, node, endpoint)
        start, clean = (self.site.carried(node or 0, command) if command else [] for command in (made.start, made.clean))
        return NodeCommand(start, clean)

    def commands(self, job: Job) -> list[NodeCommand]:
        """One for each node, or one for all."""
        nodes: list[int | None] = [None] if self.site.once else list(range(job.nodes))
        return [self.node_command(job, node, self.site.rendezvous) for node in nodes]

    def run(self, job: Job, tick: Callable[[], None]) -> Outcome:
        if job.nodes == 1:
            return self.inner.run(job, tick)
        commands = self.commands(job)
        with contextlib.ExitStack() as files:
            started = [_start(job, node, command.start, files) for node, command in enumerate(commands)]
            back = _Back(started, commands, job, files) if storage.continues(job.case) else None
            try:
                return _follow(started, job, tick, back)
            finally:
                _end(started)
                _clean(commands)

    def stop_leftovers(self, run_name: str) -> None:
        self.inner.stop_leftovers(run_name)


def log_names(node: int) -> tuple[str, str]:
    """Files that hold what a node's worker said and complained of."""
    return ("stdout.log", "stderr.log") if node == 0 else (f"node-{node:04}.stdout.log", f"node-{node:04}.stderr.log")


def _start(job: Job, node: int, command: list[str], files: contextlib.ExitStack) -> subprocess.Popen[bytes]:
    """A worker dies with its standard input, of which the kit holds the other end."""
    out, err = (_opened(files, job.folder / name) for name in log_names(node))
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=err, start_new_session=True)


def _opened(files: contextlib.ExitStack, path: Path) -> BinaryIO:
    return files.enter_context(path.open("ab"))


@dataclass(slots=True)
class _Back:
    """Brings back nodes that were lost, for as long as the first one goes on: a supervised training waits for them."""

    started: list[subprocess.Popen[bytes]]
    commands: list[NodeCommand]
    job: Job
    files: contextlib.ExitStack
    due: dict[int, float] = field(default_factory=dict)  # by node: when to try

    def bring(self) -> None:
        """Start again those that ended badly a while ago."""
        for node, process in enumerate(self.started):
            if node and process.poll() and time.monotonic() >= self.due.setdefault(node, time.monotonic() + AGAIN_S):
                del self.due[node]
                _clean([self.commands[node]])
                self.started[node] = _start(self.job, node, self.commands[node].start, self.files)


def _follow(started: list[subprocess.Popen[bytes]], job: Job, tick: Callable[[], None], back: _Back | None) -> Outcome:
    limit = time.monotonic() + job.time_limit_s
    while time.monotonic() < limit:
        codes = [process.poll() for process in started]
        if back and codes[0] is None and REFUSED not in codes:
            back.bring()
            codes = [None]
        elif back and codes[0] == 0:
            codes = [code and 0 for code in codes]  # the training is over, whoever was lost meanwhile
        if any(codes):
            time.sleep(SETTLE_S)
            return Outcome(_reason(codes))
        if None not in codes:
            return Outcome(None)
        tick()
        time.sleep(POLL_S)
    return timed_out(job)


def _reason(codes: Sequence[int | None]) -> str:
    node = next(index for index, code in enumerate(codes) if code)
    code = codes[node] or 0
    return f"worker of node {node} was killed by signal {-code}" if code < 0 else f"worker of node {node} exited with {code}"


def _end(started: list[subprocess.Popen[bytes]]) -> None:
    """Close every standard input, ask each process, wait a little, then insist."""
    for process in started:
        if process.stdin:
            with contextlib.suppress(OSError):
                process.stdin.close()
        _signal(process, signal.SIGTERM)
    end = time.monotonic() + TERM_GRACE_S
    for process in started:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=max(0.1, end - time.monotonic()))
        _signal(process, signal.SIGKILL)
        process.wait()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _clean(commands: list[NodeCommand]) -> None:
    """What a runner needs to have removed on each node, such as a container whose client was killed."""
    for command in commands:
        if command.clean:
            with contextlib.suppress(subprocess.TimeoutExpired, OSError):
                subprocess.run(command.clean, check=False, stdin=subprocess.DEVNULL, capture_output=True, timeout=TERM_GRACE_S)
