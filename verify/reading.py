"""Reads every file of the evidence once, several at a time: hashes it, and condenses events on the way.

A task is one file, since its SHA-256 can only be taken from its start to its end. Answers come in the order of the
tasks, whichever process was first, so that nothing depends on how many there are.
"""

from __future__ import annotations

import gc
import os
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, cast

from verify import metrics
from verify.events import Attempt, Event, check_end, check_follows, check_order, check_start
from verify.files import Evidence, Seen, Source
from verify.findings import Finding, Refused
from verify.lines import Lines

WORKERS = 4  # each holds some 40 MB; more would not keep the whole below 300 MB
SERIAL_BYTES = 16 * 2**20  # below this, starting processes costs more than it saves
AHEAD = 2  # tasks under way for each process, so that none waits for the parent


@dataclass(frozen=True, slots=True)
class Segment:
    """One file of events: which rank's, which in its series, and whose case."""

    attempt: Attempt
    case: dict[str, Any]
    rank: int
    index: int


@dataclass(frozen=True, slots=True)
class Task:
    """One file to be hashed, and to be read as events where it is a segment."""

    path: str
    segment: Segment | None = None
    fast: bool = True
    stops: tuple[int, ...] = ()


@dataclass(slots=True)
class Answer:
    """What a file was: as hashed, what its events came down to, its first and last event, why it was refused."""

    path: str
    seen: Seen | None = None
    parts: list[Any] = field(default_factory=list)
    first: Event | None = None
    last: Event | None = None
    refused: Finding | None = None


@cache
def _suite(name: str, fast: bool) -> tuple[metrics.Suite, Lines]:
    suite = metrics.load(name)
    return suite, Lines(suite.EVENTS, fast=fast)


def read(top: Path, task: Task) -> Answer:
    """Read one file to its end, whatever is wrong with its lines."""
    answer = Answer(task.path)
    try:
        with Source(top, task.path, task.stops) as source:
            if task.segment is not None:
                _events(source, task, task.segment, answer)
            answer.seen = source.end()
    except Refused as bad:
        answer.refused = bad.finding
    return answer


def _events(source: Source, task: Task, segment: Segment, answer: Answer) -> None:
    suite, lines = _suite(segment.attempt.suite, task.fast)
    number = 1
    try:
        for block in source.blocks():
            events = lines.events(block, task.path, number)
            _check_order(events, answer, number)
            answer.parts.append(suite.condense(segment.case, segment.rank, events))
            answer.last = events[-1]
            number += len(events)
    except Refused as bad:
        answer.refused = bad.finding


def _check_order(events: list[Event], answer: Answer, number: int) -> None:
    if answer.last is not None:
        check_follows(answer.last, events[0], f"{answer.path}:{number}")
    answer.first = answer.first or events[0]
    check_order(events, answer.path, number)


def answers(evidence: Evidence, tasks: list[Task]) -> Iterator[Answer]:
    """The answer to each task, in order; in this process where there is little to read or only one core."""
    workers = _workers(evidence.top, tasks)
    return _parallel(evidence.top, tasks, workers) if workers > 1 else (read(evidence.top, task) for task in tasks)


def _workers(top: Path, tasks: list[Task]) -> int:
    sizes = [_size(top / task.path) for task in tasks]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, WORKERS, len(tasks)) if sum(sizes) > SERIAL_BYTES else 1


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _parallel(top: Path, tasks: list[Task], workers: int) -> Iterator[Answer]:
    from concurrent.futures import Future, ProcessPoolExecutor
    from multiprocessing import get_context

    waiting: deque[Future[Answer]] = deque()
    with ProcessPoolExecutor(workers, mp_context=get_context("fork"), initializer=gc.disable) as pool:
        try:
            for task in tasks:
                waiting.append(pool.submit(read, top, task))
                if len(waiting) > workers * AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


class Reading:
    """Goes through the segments of one case after the other, while those that follow are read already."""

    def __init__(self, evidence: Evidence, tasks: Iterable[list[Task]]) -> None:
        self._evidence = evidence
        self._answers = answers(evidence, [task for case in tasks for task in case])
        self._left = 0

    def blocks(self, tasks: list[Task]) -> Iterator[tuple[int, Any]]:
        """(rank, what `condense` made of a block) in the order of the next case's tasks; Refused by the first rule that is broken."""
        last: dict[int, Event | None] = {task.segment.rank: None for task in tasks if task.segment}
        self._left = len(tasks)
        for task in tasks:
            answer, segment = self._next(), cast("Segment", task.segment)
            if answer.first is not None:
                _check_joint(last[segment.rank], answer.first, segment, task.path)
            if answer.refused is not None:
                raise answer.refused.refusal()
            yield from ((segment.rank, part) for part in answer.parts)
            last[segment.rank] = answer.last or last[segment.rank]
        for rank, event in last.items():
            check_end(event, f"{segment.attempt.folder}: rank {rank}")

    def skip(self) -> None:
        """Have the case's other segments hashed, too."""
        while self._left:
            self._next()

    def _next(self) -> Answer:
        answer = next(self._answers)
        self._left -= 1
        if answer.seen is not None:
            self._evidence.note(answer.path, answer.seen)
        return answer


def _check_joint(last: Event | None, first: Event, segment: Segment, path: str) -> None:
    if last is None:
        check_start(first, segment.attempt, segment.rank, f"{path}:1")
    else:
        check_follows(last, first, f"{path}:1")
