"""Sockets and their clock: requests go out when they are due, bytes are kept with the time at which they came, nothing is parsed.

The kernel stamps what arrives (SO_TIMESTAMPNS); how much later this process read it is its own lateness, known read by read. Where
the kernel gives no stamp, the time after the read stands, and lateness is counted from when this process had last looked.
"""

from __future__ import annotations

import contextlib
import gc
import heapq
import select
import socket
import struct
import time
from array import array
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate, repeat
from operator import add, mul, sub

from . import wire

SO_TIMESTAMPNS = 35  # asm-generic/socket.h; the socket module has no name for it
STAMP = struct.Struct("@qq")
NS_PER_S = 10**9
FIRST_BYTES = 262144
READ_BYTES = 65536
SPIN_NS = 2_000_000  # epoll counts in whole milliseconds: the last two before a request is due are waited out looking
GATHER_NS = 1_000_000  # where the kernel stamps, a look each millisecond is as exact as one each chunk, and far cheaper
STEP_NS = 100_000  # the wall clock may not have moved against the monotonic one by more
LITTLE_BYTES = len(wire.LAST_CHUNK)  # a message's end that came in parts is seen where a read has fewer
TAIL_BYTES = 64
NOTE_BYTES = 64
ANSWER_LIMIT_BYTES = 2**28
LOOKS_PER_COUNT = 256  # after so many looks the answers' bytes are counted
EVENT_END = b"\n\n"
SOFT_END = b"data: [DONE]"
OPEN_S = 10

NO_STAMP = bytes(STAMP.size)


@dataclass(frozen=True, slots=True)
class Job:
    """One request: its number, its bytes, and when it is due (ns of the monotonic clock, 0: at once)."""

    request: int
    message: bytes
    due_ns: int = 0


@dataclass(slots=True)
class Raw:
    """What came back, unparsed: read number i ended at byte `ends[i]`, was stamped `stamps[i]` by the kernel and read at `reads[i]`.

    `pieces` are reads that are not in the message yet. `flows`: chunks of a body, the first event of which was seen.
    """

    request: int
    due_ns: int
    send_ns: int = 0
    sent_ns: int = 0
    end_ns: int = 0
    message: bytearray = field(default_factory=bytearray)
    pieces: list[bytes] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    stamps: bytearray = field(default_factory=bytearray)
    reads: list[int] = field(default_factory=list)
    looks: list[int] = field(default_factory=list)
    seen: bool = False
    flows: bool = False
    framing: wire.Framing = field(default_factory=wire.Framing)
    broken: str | None = None

    def settle(self) -> int:
        """Put what was read to the message; its size."""
        self.ends.extend(list(accumulate(map(len, self.pieces), initial=len(self.message)))[1:])
        self.message += b"".join(self.pieces)
        self.pieces.clear()
        return len(self.message)


class Line:
    """One connection, and the request that is under way on it."""

    __slots__ = ("left", "raw", "receive", "socket")

    def __init__(self, made: socket.socket) -> None:
        self.socket, self.receive = made, made.recvmsg
        self.raw: Raw | None = None
        self.left = b""


def connect(host: str, port: int) -> Line:
    """An open connection without delays, stamped by the kernel where it can; raises OSError."""
    made = socket.create_connection((host, port), timeout=OPEN_S)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with contextlib.suppress(OSError):
        made.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    made.setblocking(False)
    return Line(made)


def alive(line: Line) -> bool:
    """Whether the other side still holds the connection and has sent nothing unasked."""
    try:
        line.socket.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No garbage collection within."""
    was = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was:
            gc.enable()


class Exchange:
    """Jobs over lines until every one has its answer or is broken; a line that is free takes the next job that is due."""

    def __init__(self, lines: list[Line], jobs: list[Job], stall_s: float, watched: int = -1) -> None:
        self.free = deque(lines)
        self.lines = {line.socket.fileno(): line for line in lines}
        self.waiting = deque(sorted(jobs, key=lambda job: job.due_ns))
        self.done: list[Raw] = []
        self.stalls: list[tuple[int, int]] = []
        self.stall_ns = round(stall_s * NS_PER_S)
        self.under_way = 0
        self.stamped = False
        self.looks = 0
        self.watched = watched
        self.epoll = select.epoll()
        self.buffer = bytearray(FIRST_BYTES)
        self.view = memoryview(self.buffer)

    def run(self) -> list[Raw]:
        """Every job's answer, in the order in which they ended; what is left in `lines` can be used again."""
        for handle in self.lines:
            self.epoll.register(handle, select.EPOLLIN)
        if self.watched >= 0:
            self.epoll.register(self.watched, select.EPOLLHUP)
        try:
            while self.waiting or self.under_way:
                self._send_due()
                self._look()
        finally:
            self.epoll.close()
        return self.done

    def _send_due(self) -> None:
        while self.waiting and self.free and self.waiting[0].due_ns <= time.monotonic_ns():
            line, job = self.free.popleft(), self.waiting.popleft()
            handle = line.socket.fileno()
            line.raw, line.left = Raw(job.request, job.due_ns), job.message
            self.under_way += 1
            line.raw.send_ns = time.monotonic_ns()
            self._write(line)
            heapq.heappush(self.stalls, (line.raw.send_ns + self.stall_ns, handle))
        if not self.lines:
            now = time.monotonic_ns()
            self.done += [Raw(job.request, job.due_ns, end_ns=now, broken="no connection to the server is left") for job in self.waiting]
            self.waiting.clear()

    def _write(self, line: Line) -> None:
        raw = line.raw
        assert raw is not None
        waited = raw.sent_ns > 0
        try:
            line.left = line.left[line.socket.send(line.left) :]
        except BlockingIOError:
            pass
        except OSError as error:
            self._end(line, f"the connection broke while the request was sent: {error.strerror}")
            return
        raw.sent_ns = time.monotonic_ns()
        if line.left or waited:
            self.epoll.modify(line.socket.fileno(), select.EPOLLIN | (select.EPOLLOUT if line.left else 0))

    def _look(self) -> None:
        """Wait until something has come, a request is due, or one has stalled; read whatever there is."""
        begin = time.monotonic_ns()
        if self.stamped and not (self.waiting and self.free and self.waiting[0].due_ns < begin + GATHER_NS + SPIN_NS):
            time.sleep(GATHER_NS / NS_PER_S)
            self.stamped = False
        found = self.epoll.poll(self._patience_s(begin))
        looked = time.monotonic_ns()
        self._take(found, begin if looked - begin < STEP_NS else looked)
        self.looks += 1
        if self.looks % LOOKS_PER_COUNT == 0:
            self._count()
        while self.stalls and self.stalls[0][0] <= looked:
            self._stalled(looked, heapq.heappop(self.stalls)[1])

    def _take(self, found: list[tuple[int, int]], since: int) -> None:
        """Read whatever there is; the next event of a stream, which is nearly all that ever comes, with as little ado as can be."""
        lines, now, notes = self.lines, time.monotonic_ns, None
        for handle, event in found:
            line = lines.get(handle)
            raw = line.raw if line else None
            if line is None or raw is None or not raw.flows or event != select.EPOLLIN:
                self._tend(handle, event, since)
                continue
            try:
                data, notes, _, _ = line.receive(READ_BYTES, NOTE_BYTES)
            except OSError as error:
                self._failed(line, error)
                continue
            raw.reads.append(now())
            raw.looks.append(since)
            raw.stamps += notes[0][2] if notes else NO_STAMP
            raw.pieces.append(data)
            if len(data) < LITTLE_BYTES or data.endswith(wire.END_OF_HEAD):
                self._whole(line, raw)
        if notes is not None:
            self.stamped = bool(notes)

    def _tend(self, handle: int, event: int, since: int) -> None:
        """All that is no next event of a stream."""
        if handle == self.watched:
            raise SystemExit(1)
        line = self.lines[handle]
        if line.left and event & select.EPOLLOUT:
            self._write(line)
        if handle in self.lines and event & ~select.EPOLLOUT:
            self._read(line, since)

    def _count(self) -> None:
        """End what is too long."""
        for line in list(self.lines.values()):
            raw = line.raw
            most = len(raw.message) + len(raw.pieces) * READ_BYTES if raw else 0
            if raw is not None and most > ANSWER_LIMIT_BYTES and raw.settle() > ANSWER_LIMIT_BYTES:
                self._end(line, f"the answer is longer than {ANSWER_LIMIT_BYTES} bytes")

    def _patience_s(self, now: int) -> float:
        until = self.stalls[0][0] if self.stalls else now + NS_PER_S
        if self.waiting and self.free:
            until = min(until, self.waiting[0].due_ns - SPIN_NS)
        return max(0, until - now) / NS_PER_S

    def _read(self, line: Line, since: int) -> None:
        raw = line.raw
        try:
            place = self.view if raw is None or raw.seen else self._first(line, raw)
            size, notes, _, _ = line.socket.recvmsg_into([place], NOTE_BYTES)
        except OSError as error:
            self._failed(line, error)
            return
        now = time.monotonic_ns()
        if raw is None or not size:
            self._closed(line)
            return
        raw.pieces.append(bytes(self.view[:size]))
        raw.reads.append(now)
        raw.looks.append(since)
        raw.stamps += notes[0][2] if notes else NO_STAMP
        self.stamped = bool(notes)
        self._whole(line, raw)

    def _failed(self, line: Line, error: OSError) -> None:
        """A read came to nothing: there was nothing yet, or the connection broke."""
        if not isinstance(error, BlockingIOError):
            self._end(line, f"the connection broke: {error.strerror}")

    def _first(self, line: Line, raw: Raw) -> memoryview:
        """Room for what there is of the first event and no more: the kernel stamps a read with its last segment, maybe a later event's."""
        size = line.socket.recv_into(self.view, 0, socket.MSG_PEEK)
        end = self.buffer.find(EVENT_END, 0, size)
        if end < 0:
            return self.view[: max(size, 1)]
        raw.seen = True
        return self.view[: end + len(EVENT_END)]

    def _whole(self, line: Line, raw: Raw) -> None:
        """End the request where its message ends: seen at its tail for a stream, else by its framing."""
        if not raw.pieces[-1]:
            del raw.pieces[-1], raw.reads[-1], raw.looks[-1], raw.stamps[-STAMP.size :]
            self._closed(line)
            return
        total, message = raw.settle(), raw.message
        if message.endswith(wire.LAST_CHUNK) and SOFT_END in message[-TAIL_BYTES:]:
            self._end(line, None)
            return
        try:
            end = raw.framing.advance(message)
        except wire.Malformed:
            self._end(line, "the answer cannot be read")
            return
        if end is not None:
            self._end(line, None if end == total else "bytes came behind the end of the answer")
        elif total > ANSWER_LIMIT_BYTES:
            self._end(line, f"the answer is longer than {ANSWER_LIMIT_BYTES} bytes")
        elif raw.framing.head:
            raw.flows = raw.seen and raw.framing.head.chunked

    def _closed(self, line: Line) -> None:
        """The server closed, or spoke unasked: a body without a length ends so, anything else is broken off."""
        raw = line.raw
        end = None
        if raw is not None:
            raw.settle()
            with contextlib.suppress(wire.Malformed):
                end = raw.framing.advance(raw.message, closed=True)
        self._end(line, "the server closed the connection" if end is None else None, gone=True)

    def _end(self, line: Line, broken: str | None, *, gone: bool = False) -> None:
        raw, line.raw, line.left = line.raw, None, b""
        if raw is not None:
            raw.settle()
            raw.end_ns, raw.broken = time.monotonic_ns(), broken
            self.done.append(raw)
            self.under_way -= 1
            gone = gone or broken is not None or not _keeps(raw)
        if not gone:
            self.free.append(line)
            return
        del self.lines[line.socket.fileno()]
        line.socket.close()
        if line in self.free:
            self.free.remove(line)

    def _stalled(self, now: int, handle: int) -> None:
        """Give the request up if it has said nothing for too long, else ask again later."""
        line = self.lines.get(handle)
        if line is None or line.raw is None:
            return
        last = line.raw.reads[-1] if line.raw.reads else line.raw.send_ns
        if last + self.stall_ns <= now:
            self._end(line, f"nothing came for {self.stall_ns / NS_PER_S:g} s")
        else:
            heapq.heappush(self.stalls, (last + self.stall_ns, handle))


def _keeps(raw: Raw) -> bool:
    found = raw.framing.head or wire.head(raw.message)
    return found is not None and found.keeps


def offset_ns() -> int:
    """Wall clock minus monotonic clock, the best of some tries."""
    best, found = NS_PER_S, 0
    for _ in range(5):
        before, wall, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        if after - before < best:
            best, found = after - before, wall - (before + after) // 2
    return found


def times(raw: Raw, offset: int | None) -> tuple[list[int], list[int], bool]:
    """(times in ns of the monotonic clock, lateness in ns) of all reads, and whether all times are the kernel's.

    `offset` is None where kernel stamps cannot be used.
    """
    if offset is None:
        return raw.reads, list(map(sub, raw.reads, raw.looks)), False
    parts = array("q", bytes(raw.stamps))
    arrived = list(map(add, map(mul, parts[::2], repeat(NS_PER_S)), map(sub, parts[1::2], repeat(offset))))
    late = list(map(sub, raw.reads, arrived))
    if arrived and min(arrived) >= raw.send_ns and min(late) >= 0:
        return arrived, late, True
    usable = [raw.send_ns <= came <= read for came, read in zip(arrived, raw.reads, strict=True)]
    mixed = zip(usable, arrived, raw.reads, raw.looks, strict=True)
    pairs = [(came, read - came) if kernel else (read, read - look) for kernel, came, read, look in mixed]
    return [time_ns for time_ns, _ in pairs], [late_ns for _, late_ns in pairs], 0 not in parts[::2]
