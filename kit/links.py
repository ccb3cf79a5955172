"""Links within and between nodes, as tools print them: the matrices of cards that the tools of chips draw, ibstat, ethtool.

No vendor is known here: a matrix is a line of names above lines that begin with them. What fits no known form gives None, and
whoever asked keeps the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

NAME = re.compile(r"[A-Za-z]+[A-Za-z_]*\d+(?:_\d+)?|[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-9a-fA-F]")
NO_LINKS = {"true", "false", "enabled", "disabled", "n/a", "yes", "no"}  # tables of the same form that say other things
FABRIC = {
    "State": "state", "Physical state": "physical_state", "Rate": "rate", "Link layer": "link_layer", "CA type": "type",
    "Firmware version": "firmware",
}  # fmt: skip
CABLE = {"Speed": "speed", "Duplex": "duplex", "Port": "port", "Link detected": "link_detected"}
ADAPTER = ("type", "firmware")
Fields = dict[str, str]


def matrix(text: str) -> Fields | None:
    """`A B` -> kind of link, for each pair of cards; of several tables the first that names kinds; None where there is no table."""
    tables = list(_tables(text))
    if not tables:
        return None
    named = (links for links in tables if all(_names_a_link(kind) for kind in links.values()))
    return next(named, None)


def _tables(text: str) -> Iterator[Fields]:
    header: list[str] = []
    rows: dict[str, list[str]] = {}
    for line in [*text.splitlines(), ""]:
        tokens = line.replace("|", " ").split()
        if tokens and tokens[0] in header and len(tokens) > len(header):
            rows[tokens[0]] = tokens[1:]
            continue
        if rows:
            yield _pairs(header, rows)
            header, rows = [], {}
        header = _header(tokens) or header


def _header(tokens: list[str]) -> list[str]:
    """The names at a line's beginning, where all of its first ones are names."""
    names = []
    for token in tokens:
        if not NAME.fullmatch(token):
            break
        names.append(token)
    return names


def _pairs(header: list[str], rows: dict[str, list[str]]) -> Fields:
    """Between things of the first one's kind: network cards in the same table are left out."""
    cards = [name for name in header if _kind(name) == _kind(header[0]) and name in rows]
    return {f"{a} {b}": rows[a][header.index(b)] for index, a in enumerate(cards) for b in cards[index + 1 :]}


def _kind(name: str) -> str:
    return "address" if ":" in name else name.rstrip("0123456789_")


def _names_a_link(kind: str) -> bool:
    return kind.lower() not in NO_LINKS and not kind.isdigit()


def fabric(text: str) -> dict[str, Fields] | None:
    """`adapter/port` -> what ibstat says of it; identifiers of machines (GUIDs, lids) are left out; None where it names no adapter."""
    found: dict[str, Fields] = {}
    adapter, port, common = "", "", dict[str, str]()
    for line in text.splitlines():
        if match := re.match(r"CA '([^']+)'", line):
            adapter, port, common = match[1], "", {}
        elif adapter and (match := re.match(r"\s+Port (\d+):", line)):
            port = f"{adapter}/{match[1]}"
            found[port] = dict(common)
        elif adapter:
            pair = _pair(line, FABRIC)
            (found[port] if port else common).update(pair if port else {name: pair[name] for name in ADAPTER if name in pair})
    return found or None


def cable(text: str) -> Fields | None:
    """What ethtool says of an interface's link; None where it says nothing of it."""
    found: Fields = {}
    for line in text.splitlines():
        found |= _pair(line, CABLE)
    return found or None


def _pair(line: str, known: Fields) -> Fields:
    name, _, value = line.strip().partition(":")
    return {known[name]: value.strip()} if name in known and value.strip() else {}
