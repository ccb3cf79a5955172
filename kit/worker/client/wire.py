"""HTTP/1.1 messages (RFC 9112) as bytes: requests to send, and where the payload lies in what came back."""

from __future__ import annotations

from dataclasses import dataclass

HEAD_LIMIT_BYTES = 65536
CHUNK_LINE_LIMIT_BYTES = 4096
SIZE_DIGITS = 8
END_OF_LINE = b"\r\n"
END_OF_HEAD = b"\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
NO_BODY = (204, 304)


class Malformed(Exception):
    """What came is not HTTP/1.1; the message says what and where."""


@dataclass(frozen=True, slots=True)
class Head:
    """Status and headers of a response; its body begins `size` bytes into the message."""

    status: int
    headers: dict[str, str]
    size: int

    @property
    def chunked(self) -> bool:
        """Whether the body comes in chunks."""
        return self.headers.get("transfer-encoding", "").lower().rpartition(",")[2].strip() == "chunked"

    @property
    def length(self) -> int | None:
        """Bytes of the body where the head says them; raises Malformed."""
        text = self.headers.get("content-length")
        if text is None:
            return 0 if self.status in NO_BODY else None
        if not (text.isascii() and text.isdigit()):
            raise Malformed(f"content-length is '{text[:40]}', not a number")
        return int(text)

    @property
    def keeps(self) -> bool:
        """Whether the connection stays open for another request."""
        return "close" not in self.headers.get("connection", "").lower()


def request(method: str, path: str, host: str, body: bytes = b"", headers: tuple[tuple[str, str], ...] = ()) -> bytes:
    """A whole request on a connection that stays open."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "User-Agent: chipassay", "Accept: text/event-stream, application/json"]
    lines += [f"{name}: {value}" for name, value in headers]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def head(message: bytes | bytearray) -> Head | None:
    """The response's head, None while it is not whole; raises Malformed."""
    size = message.find(END_OF_HEAD, 0, HEAD_LIMIT_BYTES)
    if size < 0:
        if len(message) >= HEAD_LIMIT_BYTES or not b"HTTP/1.".startswith(bytes(message[:7])):
            raise Malformed(f"no HTTP/1.1 head; it begins {bytes(message[:40])!r}")
        return None
    first, *rest = bytes(message[:size]).decode("latin-1").split("\r\n")
    version, _, status = first.partition(" ")
    if version not in ("HTTP/1.1", "HTTP/1.0") or not (status[:3].isascii() and status[:3].isdigit() and len(status[:3]) == 3):
        raise Malformed(f"status line is '{first[:60]}'")
    headers: dict[str, str] = {}
    for line in rest:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise Malformed(f"header line without a name: '{line[:60]}'")
        headers[name.strip().lower()] = value.strip()
    if version == "HTTP/1.0" and "connection" not in headers:
        headers["connection"] = "close"
    return Head(int(status[:3]), headers, size + len(END_OF_HEAD))


class Framing:
    """Where a message's payload lies: `spans` of (begin, end), and the message's `end` once it is known. It goes on where it stopped."""

    def __init__(self) -> None:
        self.head: Head | None = None
        self.spans: list[tuple[int, int]] = []
        self.end: int | None = None
        self._at = 0

    def advance(self, message: bytes | bytearray, *, closed: bool = False) -> int | None:
        """The message's end where it has come; `closed`: the other side will say no more. Raises Malformed."""
        if self.head is None:
            self.head = head(message)
            if self.head is None:
                return None
            self._at = self.head.size
        if self.end is None:
            self.end = self._chunks(message) if self.head.chunked else self._plain(self.head, message, closed=closed)
        return self.end

    def _plain(self, found: Head, message: bytes | bytearray, *, closed: bool) -> int | None:
        """A body of a known length, or one that ends with the connection."""
        length = found.length
        total = len(message)
        end = total if length is None else found.size + length
        self.spans = [(found.size, min(end, total))]
        return end if total >= end and (closed or length is not None) else None

    def _chunks(self, message: bytes | bytearray) -> int | None:
        """Chunk by chunk; a chunk counts once it is whole."""
        while (found := chunk(message, self._at)) is not None:
            if found[0] == found[1]:
                return after_trailers(message, found[0])
            self.spans.append(found)
            self._at = found[1] + len(END_OF_LINE)
        return None


def chunk(message: bytes | bytearray, at: int) -> tuple[int, int] | None:
    """Where the payload of the chunk at byte `at` lies (RFC 9112 section 7.1), empty in the last one; None while it is not whole.

    Raises Malformed.
    """
    line_end = message.find(END_OF_LINE, at, at + CHUNK_LINE_LIMIT_BYTES)
    if line_end < 0:
        if len(message) - at >= CHUNK_LINE_LIMIT_BYTES:
            raise Malformed(f"no chunk size at byte {at}")
        return None
    size = _size(message[at:line_end], at)
    begin, end = line_end + 2, line_end + 2 + size
    if size == 0:
        return begin, begin
    if len(message) < end + 2:
        return None
    if message[end : end + 2] != END_OF_LINE:
        raise Malformed(f"the chunk at byte {at} says {size} bytes and does not end there")
    return begin, end


def _size(line: bytes | bytearray, at: int) -> int:
    digits = bytes(line).partition(b";")[0].strip()
    if not digits or len(digits) > SIZE_DIGITS or digits.strip(b"0123456789abcdefABCDEF"):
        raise Malformed(f"chunk size at byte {at} is {digits[:20]!r}")
    return int(digits, 16)


def after_trailers(message: bytes | bytearray, at: int) -> int | None:
    """Where the message ends whose last chunk has its line behind it at `at`; None where that has not come. Trailers are passed over."""
    while True:
        end = message.find(END_OF_LINE, at)
        if end < 0:
            return None
        if end == at:
            return end + 2
        at = end + 2
