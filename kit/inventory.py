"""What a run stands on: processor, memory, PCI devices, accelerators, links, driver libraries, compiler, engine.

Read from the system and from the vendor's tool; a tool that hangs or prints what nobody knows is kept raw, with a finding.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import shutil
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit import __version__, archive, engine, environment, host, keys, links
from kit.chip import Chip
from kit.errors import KitError
from kit.files import sha256_file, write_atomic
from kit.job import Isolation
from kit.schema import check
from verify import data

SECRET_COLUMNS = {"serial", "uuid"}
SALT = "salt"
LIBRARIES_AT_MOST = 500


@dataclass(frozen=True, slots=True)
class Veil:
    """Hides what names a person or a machine: values become salted hashes, free text is left out. Without salt nothing is hidden."""

    salt: bytes | None = None

    def name(self, value: str) -> str:
        """A serial number, an address or a name; the same value gives the same hash under one salt."""
        return value if self.salt is None else "salted:" + hmac.new(self.salt, value.encode(), hashlib.sha256).hexdigest()[:16]

    def text(self, value: str) -> str:
        """What a tool printed: it may hold anything."""
        return value if self.salt is None else self.name(value)


def veil(*, anonymous: bool) -> Veil:
    """The user's own salt, made on first use and kept beside the key, so that one card has one hash in all runs."""
    if not anonymous:
        return Veil()
    path = keys.config_folder() / SALT
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, secrets.token_bytes(32))
        path.chmod(0o600)
    return Veil(path.read_bytes())


def document(product: Chip, isolation: Isolation, made: archive.Archive, *, anonymous: bool) -> dict[str, Any]:
    """environment.json of a run."""
    hide = veil(anonymous=anonymous)
    return {
        "schemaVersion": 1,
        "host": environment.host(),
        "chip": {
            "id": product.id,
            "status": product.status,
            "parts": product.parts,
            "cards": list(isolation.cards),
            "peaks": product.peaks,
        },
        "kit": {
            "version": __version__,
            "worker": {"sha256": made.sha256},
            "tree": {"sha256": archive.kit_tree_sha256()},
        },
        "isolation": {"kind": isolation.kind, "reason": isolation.reason},
        "image": isolation.image,
        "lock": isolation.lock,
        "patches": isolation.image["patches"] if isolation.image else isolation.patches,
        "grants": isolation.grants,
        "packages": isolation.packages,
        "references": references(),
        "inventory": take(product, isolation.grants.get("mounts", []), hide),
    }


def references() -> list[dict[str, Any]]:
    """The public code bases that the report's software table names, and which suites follow them."""
    path = data.root() / "manifests/references.toml"
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    check(document, "references", str(path))
    return list(document["reference"])


def take(product: Chip, mounts: Iterable[str], hide: Veil, root: Path = Path("/")) -> dict[str, Any]:
    """Everything of environment.json's `inventory`."""
    accelerators, findings = _accelerators(product, hide, root)
    network, unread = _network(root, hide)
    return {
        "processor": processor(root),
        "pci": _pci(root),
        "network": network,
        "accelerators": accelerators,
        "libraries": {path: digest for mount in mounts for path, digest in _libraries(root, mount)},
        "compiler": _first_line(["gcc", "--version"]),
        "engine": _engine(),
        "anonymous": hide.salt is not None,
        "findings": [*findings, *unread],
    }


def processor(root: Path = Path("/")) -> dict[str, Any]:
    """NUMA nodes and how the clock is governed; None where the kernel does not tell."""
    nodes = {path.name: _read(path / "cpulist") for path in sorted((root / "sys/devices/system/node").glob("node[0-9]*"))}
    scaling = root / "sys/devices/system/cpu/cpu0/cpufreq"
    return {"numa": nodes, "governor": _read(scaling / "scaling_governor"), "largest_khz": _read(scaling / "cpuinfo_max_freq")}


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _pci(root: Path) -> list[dict[str, str | None]]:
    """Every PCI device: address, vendor:device, class, NUMA node, and its link as it runs now."""
    return [
        {
            "address": path.name,
            "id": f"{host.hexadecimal(path / 'vendor')}:{host.hexadecimal(path / 'device')}",
            "class": host.hexadecimal(path / "class"),
            "numa_node": _read(path / "numa_node"),
            "link": " x".join(filter(None, [_read(path / "current_link_speed"), _read(path / "current_link_width")])) or None,
        }
        for path in sorted((root / host.PCI).glob("*"))
    ]


def _network(root: Path, hide: Veil) -> tuple[dict[str, Any], list[str]]:
    """Interfaces with speed in Mbit/s, ports of remote-memory adapters with their rate, and what ethtool and ibstat say of them."""
    found = sorted(path for path in (root / "sys/class/net").glob("*") if path.name != "lo")
    interfaces: dict[str, dict[str, Any]] = {path.name: {"speed_mbit_s": _read(path / "speed")} for path in found}
    ports = sorted((root / "sys/class/infiniband").glob("*/ports/*"))
    fabric: dict[str, dict[str, Any]] = {
        f"{path.parent.parent.name}/{path.name}": {name: _read(path / name) for name in ("state", "rate")} for path in ports
    }
    findings = []
    for name in (path.name for path in found if (path / "device").exists()):
        said, raw, fault = _said(["ethtool", name], links.cable, hide)
        interfaces[name] |= {**(said or {}), **raw}
        findings += fault
    if ports:
        said, raw, fault = _said(["ibstat"], links.fabric, hide)
        for port, facts in (said or {}).items():
            fabric[port] = {**facts, **{name: value for name, value in fabric.get(port, {}).items() if value is not None}}
        findings += fault
        fabric |= {"ibstat": raw} if raw else {}
    return {"interfaces": interfaces, "fabric": fabric}, findings


def _said(argv: list[str], read: Callable[[str], Any], hide: Veil) -> tuple[Any, dict[str, str], list[str]]:
    """What a tool says, read; its own words where it cannot be read; and a finding for either fault."""
    answer = host.ask(argv)
    said = read(answer.text) if answer.text else None
    if said is not None:
        return said, {}, []
    fault = answer.fault or "unknown text"
    return None, {"raw": hide.text(answer.text)} if answer.text else {}, [f"{' '.join(argv)}: {fault}"]


def _accelerators(product: Chip, hide: Veil, root: Path) -> tuple[dict[str, Any], list[str]]:
    found, how = host.look(product, root), product.detection
    made: dict[str, Any] = {
        "addresses": list(found.addresses),
        "nodes": list(found.nodes),
        "numbers": [card.number for card in found.cards],
        "tool": how.get("tool"),
        "cards": [],
        "raw": None,
        "topology": None,
    }
    if "query" not in how:
        return made, []
    answer = host.ask(how["query"])
    cards, fault = host.rows(answer, how["columns"]) if "columns" in how else ([], answer.fault)
    made["cards"] = [{name: hide.name(value) if name in SECRET_COLUMNS else value for name, value in card.items()} for card in cards]
    made["raw"] = None if cards or not answer.text else hide.text(answer.text)
    findings = [f"{' '.join(how['query'])}: {fault}"] if fault else []
    if "topology" in how:
        said = host.ask(how["topology"])
        made["topology"] = hide.text(said.text) if said.text else None
        made["links"] = links.matrix(said.text) if said.text else None
        fault = said.fault or (None if made["links"] is not None else "unknown table")
        findings += [f"{' '.join(how['topology'])}: {fault}"] if fault else []
    return made, findings


def _libraries(root: Path, mount: str) -> Iterable[tuple[str, str]]:
    """SHA-256 of the driver's libraries and files that a container would see."""
    place = root / mount[1:]
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file() and not path.is_symlink())
    for path in files[:LIBRARIES_AT_MOST]:
        yield f"/{path.relative_to(root)}", sha256_file(path)


def _first_line(argv: list[str]) -> str | None:
    if shutil.which(argv[0]) is None:
        return None
    return next(iter(host.ask(argv).text.splitlines()), None)


def _engine() -> dict[str, str] | None:
    try:
        said = engine.connect().version()
    except KitError:
        return None
    parts = [f"{part['Name']} {part['Version']}" for part in said.get("Components", [])]
    return {"version": str(said["Version"]), "components": ", ".join(parts)}
