"""The form that most events of a server share, learned from one that was read strictly: they differ in text and ids, and in what the
strict reader does not look at (an answer's id, when it was made).

An event of the form is taken without a parser, and says what the strict reader would have said: everything else is the same byte for
byte, the text is a JSON string without escapes, the ids are JSON numbers. Whatever differs is left to the strict reader.
"""

from __future__ import annotations

import json
import re
from typing import Any

PLAIN = rb"[^\x00-\x1f\x22\x5c]*"  # the inside of a JSON string without escapes, if it is UTF-8
NAME = rb"[\x20\x21\x23-\x5b\x5d-\x7e]*"
NUMBER = rb"(?:0|[1-9][0-9]{0,17})"
NUMBERS = NUMBER + rb"(?:, ?" + NUMBER + rb")*"
OTHER_IDS = [3, 141, 59]
HOLES = {  # field: how it is written, what may stand in its place, and another value of it
    "text": (re.compile(rb'"text" ?: ?"(' + PLAIN + rb')"'), rb"(" + PLAIN + rb")", b"another"),
    "token_ids": (re.compile(rb'"token_ids" ?: ?\[(' + NUMBERS + rb")\]"), rb"(" + NUMBERS + rb")", b"3, 141, 59"),
    "id": (re.compile(rb'"id" ?: ?"(' + NAME + rb')"'), NAME, b"another"),
    "created": (re.compile(rb'"created" ?: ?(' + NUMBER + rb")\b"), NUMBER, b"27"),
}


def learn(data: bytes, found: dict[str, Any]) -> re.Pattern[bytes] | None:
    """What matches a chunk with one event of this form: its groups are the chunk's size, the text and the ids. `found` is what `data`
    say; None where that is not one choice with text and, after it, ids.
    """
    choices = found.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or found.get("usage") is not None or choices[0].get("finish_reason"):
        return None
    other = found | {"choices": [choices[0] | {"text": "another", "token_ids": OTHER_IDS}]}
    other |= {name: value for name, value in (("id", "another"), ("created", 27)) if name in found}
    holes = sorted((match.span(1), name) for name, (written, _, _) in HOLES.items() for match in written.finditer(data))
    names = [name for _, name in holes]
    if not {"text", "token_ids"} <= set(names) or names.index("text") > names.index("token_ids"):
        return None
    pattern, made, at = rb"([0-9a-fA-F]{1,8})\r\ndata: ", b"", 0
    for (begin, end), name in holes:
        _, place, value = HOLES[name]
        pattern += re.escape(data[at:begin]) + place
        made += data[at:begin] + value
        at = end
    pattern += re.escape(data[at:]) + rb"\n\n\r\n"
    return re.compile(pattern) if _says(made + data[at:], other) and len(names) == len(set(names)) else None


def _says(data: bytes, wanted: dict[str, Any]) -> bool:
    """Whether the fields are where they were taken to be."""
    try:
        return bool(json.loads(data) == wanted)
    except ValueError:
        return False


def decodes(text: bytes) -> bool:
    """Whether it is UTF-8."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
