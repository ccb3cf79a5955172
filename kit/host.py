"""Accelerators of this host, found without torch: PCI devices, device nodes, and the vendor's tool, as each chip.toml says."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit import chip
from kit.errors import ENVIRONMENT, KitError

TOOL_LIMIT_S = 15
TOOL_KEEPS = 65536  # bytes of a tool's answer that are kept raw
ACCELERATORS = ("0302", "12")  # 3D controllers and processing accelerators
PCI = "sys/bus/pci/devices"


@dataclass(frozen=True, slots=True)
class Card:
    """One accelerator: the number by which people choose it, its PCI address, and the nodes that are its own."""

    number: int
    address: str | None
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """What speaks for a chip on this host."""

    chip: chip.Chip
    addresses: tuple[str, ...]
    nodes: tuple[str, ...]
    tool: str | None
    cards: tuple[Card, ...]

    @property
    def here(self) -> bool:
        """A device speaks for it; a tool alone does not, since some vendors ship tools under another's name."""
        return bool(self.addresses or self.nodes)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a vendor's tool said; `fault` tells why it did not."""

    argv: tuple[str, ...]
    text: str
    fault: str | None = None


def look(product: chip.Chip, root: Path = Path("/")) -> Found:
    """What of this chip is on this host."""
    how = product.detection
    addresses = tuple(_addresses(how["pci"], root)) if "pci" in how else ()
    nodes = tuple(node for node in how.get("nodes", []) if (root / node[1:]).exists())
    tool = shutil.which(how["tool"]) if "tool" in how else None
    return Found(product, addresses, nodes, tool, tuple(cards(product, addresses, root)))


def scan(root: Path = Path("/")) -> list[Found]:
    """Every chip of which a device or a tool is here."""
    found = [look(chip.load(name), root) for name in chip.chips()]
    return [item for item in found if item.here or item.tool]


def only(root: Path = Path("/")) -> chip.Chip | None:
    """The one accelerator that is here, None where there is none; KitError where several speak up: the user must choose."""
    here = [item.chip for item in scan(root) if item.here]
    if len(here) > 1:
        raise KitError(
            "accelerators of several chips are here",
            why=", ".join(product.id for product in here),
            next_step=f"say which one: --chip {here[0].id}",
        )
    return here[0] if here else None


def strangers(root: Path = Path("/")) -> list[str]:
    """Accelerators by their PCI class that no chip file names, as `address vendor:device class`."""
    known = {address for name in chip.chips() for address in look(chip.load(name), root).addresses}
    made = []
    for device in sorted((root / PCI).glob("*")):
        kind = hexadecimal(device / "class")
        if kind.startswith(ACCELERATORS) and device.name not in known:
            made.append(f"{device.name} {hexadecimal(device / 'vendor')}:{hexadecimal(device / 'device')} {kind}")
    return made


def _addresses(pci: dict[str, Any], root: Path) -> Iterable[str]:
    for device in sorted((root / PCI).glob("*")):
        vendor, kind = hexadecimal(device / "vendor"), hexadecimal(device / "class")
        if vendor == pci["vendor"] and kind.startswith(tuple(pci["classes"])):
            yield device.name


def hexadecimal(path: Path) -> str:
    """A number of /sys without its 0x; empty where there is none."""
    try:
        return path.read_text(encoding="ascii").strip().removeprefix("0x")
    except (OSError, UnicodeDecodeError):
        return ""


def cards(product: chip.Chip, addresses: Sequence[str], root: Path) -> list[Card]:
    """The cards by number: as their nodes are named, or in the order of their PCI addresses."""
    has = product.container
    patterns = has.get("nodes_per_card", [])
    if has.get("numbering") == "name":
        return [Card(number, None, own_nodes(patterns, n=number)) for number in _numbers(patterns[0], root)]
    made = []
    for number, address in enumerate(addresses):
        names = _drm(root / PCI / address)
        made.append(Card(number, address, own_nodes(patterns, **names) if names else ()))
    return made


def own_nodes(patterns: Iterable[str], **slots: object) -> tuple[str, ...]:
    """The nodes of one card."""
    return tuple(pattern.format_map(slots) for pattern in patterns)


def planned_nodes(patterns: Iterable[str], number: int) -> tuple[str, ...]:
    """The nodes that a card would have on a host of its own: the kernel's display numbers start at 0 and 128."""
    return own_nodes(patterns, n=number, card=number, render=128 + number)


def _numbers(pattern: str, root: Path) -> list[int]:
    """The {n} of the nodes that are there."""
    folder, _, prefix = pattern.removesuffix("{n}").rpartition("/")
    expression = re.compile(re.escape(prefix) + r"(\d+)")
    return sorted(int(match[1]) for path in (root / folder[1:]).glob("*") if (match := expression.fullmatch(path.name)))


def _drm(device: Path) -> dict[str, str]:
    """The kernel's numbers of a device's display nodes."""
    names = [path.name for path in (device / "drm").glob("*")]
    card = next((name.removeprefix("card") for name in names if name.startswith("card")), None)
    render = next((name.removeprefix("renderD") for name in names if name.startswith("renderD")), None)
    return {"card": card, "render": render} if card and render else {}


def choose(found: Found, wanted: Sequence[int]) -> tuple[Card, ...]:
    """The cards of these numbers, all without numbers; KitError for a number that no card has."""
    known = {card.number: card for card in found.cards}
    missing = [number for number in wanted if number not in known]
    if missing:
        raise KitError(
            f"there is no card {', '.join(map(str, missing))}",
            where=found.chip.id,
            why=f"cards here: {', '.join(map(str, known)) or 'none'}",
            next_step="choose among them with --cards",
        )
    if len(set(wanted)) != len(wanted):
        raise KitError("a card is named twice", where=f"--cards {','.join(map(str, wanted))}", next_step="name each card once")
    return tuple(known[number] for number in wanted) if wanted else found.cards


def require(found: Found) -> None:
    """KitError (exit 3) where a chip that can be recognised is not here."""
    if found.chip.detection and not found.here:
        how = found.chip.detection
        looked = [*([f"PCI vendor {how['pci']['vendor']}"] if "pci" in how else []), *how.get("nodes", [])]
        raise KitError(
            f"no accelerator of chip '{found.chip.id}' is here",
            why=f"neither {' nor '.join(looked)}" if len(looked) > 1 else f"no {' '.join(looked) or 'sign of it'}",
            next_step="see: python -m kit doctor",
            exit_code=ENVIRONMENT,
        )


def ask(argv: Sequence[str], limit_s: float = TOOL_LIMIT_S) -> Answer:
    """What a tool says, within a time limit; a tool that hangs, fails or is missing gives an answer with a fault."""
    try:
        done = subprocess.run(list(argv), check=False, capture_output=True, stdin=subprocess.DEVNULL, timeout=limit_s)
    except subprocess.TimeoutExpired:
        return Answer(tuple(argv), "", f"no answer within {limit_s:g} s")
    except OSError as error:
        return Answer(tuple(argv), "", error.strerror or str(error))
    text = done.stdout[:TOOL_KEEPS].decode("utf-8", "replace")
    complaint = " ".join(done.stderr.decode("utf-8", "replace").split())[:300]
    return Answer(tuple(argv), text, f"exit code {done.returncode}: {complaint}" if done.returncode else None)


def rows(answer: Answer, columns: Sequence[str]) -> tuple[list[dict[str, str]], str | None]:
    """The cards in a tool's comma-separated answer, or none of them and what does not fit."""
    if answer.fault:
        return [], answer.fault
    made = []
    for line in filter(None, map(str.strip, answer.text.splitlines())):
        values = [value.strip() for value in line.split(",")]
        if len(values) != len(columns):
            return [], f"{len(values)} values where {len(columns)} were asked for: {line[:80]}"
        made.append(dict(zip(columns, values, strict=True)))
    return made, None if made else "no line"
