"""Server-sent events (WHATWG HTML, section 9.2.6) out of a whole body: the data of each, and where it ended."""

from __future__ import annotations

from collections.abc import Iterator

SIMPLE = b"data: "


def events(payload: bytes) -> Iterator[tuple[bytes, int]]:
    """(data, offset just behind the blank line that ended it) of every event; what follows the last blank line is no event."""
    return _lines(payload) if b"\r" in payload else _plain(payload)


def _plain(payload: bytes) -> Iterator[tuple[bytes, int]]:
    """Bodies without carriage returns, as every server of note writes them."""
    at, find = 0, payload.find
    while (end := find(b"\n\n", at)) >= 0:
        if payload.startswith(SIMPLE, at) and find(b"\n", at, end) < 0:
            yield payload[at + 6 : end], end + 2
        elif (data := _data(payload[at:end].split(b"\n"))) is not None:
            yield data, end + 2
        at = end + 2


def _lines(payload: bytes) -> Iterator[tuple[bytes, int]]:
    """Any of the three line ends."""
    held: list[bytes] = []
    at = 0
    for line in payload.splitlines(keepends=True):
        at += len(line)
        text = line.rstrip(b"\r\n")
        if text == line:
            return
        if text:
            held.append(text)
            continue
        data = _data(held)
        held = []
        if data is not None:
            yield data, at


def _data(lines: list[bytes]) -> bytes | None:
    """The joined data fields of one event, None where it has none (comments, ids, retries)."""
    values = [line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:") or line == b"data"]
    return b"\n".join(values) if values else None
