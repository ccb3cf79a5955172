"""A host that is a folder: the /sys and /dev entries that some cards of a chip would have."""

from __future__ import annotations

from pathlib import Path

from kit.chip import Chip


def make(root: Path, product: Chip, numbers: tuple[int, ...] = (0, 1)) -> Path:
    """Cards of a chip by number, with the chip's common nodes and everything that it would mount; the folder is the host's root."""
    has, how = product.container, product.detection
    for path in [*how.get("nodes", []), *has.get("nodes", []), *has.get("nodes_if_present", []), *has.get("mounts", [])]:
        touch(root, path)
    for order, number in enumerate(numbers):
        for pattern in has.get("nodes_per_card", []):
            touch(root, pattern.format(n=number, card=order + 1, render=129 + order))
        if "pci" in how:
            add_pci(root, f"0000:{0x1A + order:02x}:00.0", how["pci"]["vendor"], how["pci"]["classes"][0].ljust(6, "0"), order)
    return root


def touch(root: Path, path: str) -> None:
    (root / path[1:]).parent.mkdir(parents=True, exist_ok=True)
    (root / path[1:]).touch()


def add_pci(root: Path, address: str, vendor: str, kind: str, order: int = 0) -> None:
    """One PCI device, with the display nodes that the kernel would give the order-th of them."""
    device = root / "sys/bus/pci/devices" / address
    for name in (f"card{order + 1}", f"renderD{129 + order}"):
        (device / "drm" / name).mkdir(parents=True)
    (device / "vendor").write_text(f"0x{vendor}\n")
    (device / "class").write_text(f"0x{kind}\n")
