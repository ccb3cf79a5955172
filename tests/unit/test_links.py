"""Links within and between nodes out of tools' words: captured samples (samples/README.md), and what no sample is."""

from __future__ import annotations

from pathlib import Path

import pytest

from kit import chip, inventory, links
from kit.report import body
from tests import fakehost
from tests.unit.test_inventory import LIST, fake, smi, validated

SAMPLES = Path(__file__).parent / "samples"
__all__ = ["fake"]


def sample(name: str) -> str:
    return (SAMPLES / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("topology-nvidia.txt", {"GPU0 GPU1": "NV12"}),
        ("topology-rocm.txt", {f"GPU{a} GPU{b}": "PCIE" for a in range(4) for b in range(a + 1, 4)}),
        ("topology-addresses.txt", {"0000:0c:00.0 0000:22:00.0": "XGMI"}),
        ("topology-unknown.txt", None),
        ("ethtool.txt", None),
    ],
)
def test_matrices_of_cards(name: str, expected: dict[str, str] | None) -> None:
    assert links.matrix(sample(name)) == expected


def test_a_capture_of_eight_cards_cut_after_five() -> None:
    found = links.matrix(sample("topology-metax.txt"))
    assert found is not None
    assert (len(found), found["GPU0 GPU3"], found["GPU0 GPU4"]) == (10, "MX", "NODE")


def test_one_card_has_no_links_and_its_table_is_known() -> None:
    assert links.matrix("\tGPU0\tCPU Affinity\tNUMA Affinity\nGPU0\t X \t0-15\t0\n") == {}


def test_a_matrix_cut_short_tells_the_pairs_that_it_has() -> None:
    """The second row lacks a value: it is no row, and nothing is made up for it."""
    assert links.matrix("  NPU0 NPU1 NPU2\nNPU0 X HCCS PIX\nNPU1 HCCS X\n") == {}


def test_tables_of_numbers_alone_name_no_link() -> None:
    assert links.matrix("  GPU0 GPU1\nGPU0 0 40\nGPU1 40 0\n") is None


def test_ports_of_remote_memory_without_identifiers_of_the_machine() -> None:
    found = links.fabric(sample("ibstat.txt"))
    common = {"type": "MT4099", "firmware": "2.42.5000", "link_layer": "InfiniBand"}
    assert found == {
        "mlx4_0/1": common | {"state": "Down", "physical_state": "Disabled", "rate": "10"},
        "mlx4_0/2": common | {"state": "Active", "physical_state": "LinkUp", "rate": "56"},
    }
    assert links.fabric("ibpanic: stat of IB device 'mlx5_8' failed\n") is None


def test_a_cable() -> None:
    assert links.cable(sample("ethtool.txt")) == {"speed": "Unknown!", "duplex": "Unknown! (255)", "port": "Other", "link_detected": "yes"}
    assert links.cable("Settings for x:\nNo data available\n") is None


def tools(folder: Path, **says: str) -> None:
    for name, text in says.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
        (folder / name).write_text(f'#!/bin/sh\nwhile IFS= read -r l; do echo "$l"; done < {folder}/{name}.txt\n')
        (folder / name).chmod(0o755)


def wired(root: Path) -> Path:
    """A host with a network card, a bridge that is none, and an adapter of one port."""
    (root / "sys/class/net/eth0/device").mkdir(parents=True)
    (root / "sys/class/net/br0").mkdir()
    (root / "sys/class/infiniband/mlx4_0/ports/1").mkdir(parents=True)
    (root / "sys/class/infiniband/mlx4_0/ports/1/rate").write_text("10 Gb/sec (4X)\n")
    return root


def test_an_inventory_asks_the_tools(fake: chip.Chip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi(tmp_path, monkeypatch, f"{LIST}\n")
    tools(tmp_path / "bin", ethtool=sample("ethtool.txt"), ibstat=sample("ibstat.txt"))
    made = inventory.take(fake, [], inventory.Veil(), wired(fakehost.make(tmp_path / "root", fake)))
    validated(made)
    assert made["network"]["interfaces"]["eth0"]["link_detected"] == "yes"
    assert made["network"]["interfaces"]["br0"] == {"speed_mbit_s": None}
    assert made["network"]["fabric"]["mlx4_0/1"]["rate"] == "10 Gb/sec (4X)"
    assert made["network"]["fabric"]["mlx4_0/2"]["rate"] == "56"
    assert made["findings"] == ["fake-smi --topology: unknown table"]
    assert (made["accelerators"]["links"], made["accelerators"]["topology"]) == (None, "card links\n")
    assert list(body._inter(made["network"]["fabric"])) == [
        "mlx4_0/1: MT4099, InfiniBand, 10 Gb/sec (4X), Down",
        "mlx4_0/2: MT4099, InfiniBand, 56, Active",
    ]


def test_what_tools_say_without_being_understood_is_kept_with_a_finding(
    fake: chip.Chip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smi(tmp_path, monkeypatch, f"{LIST}\n")
    tools(tmp_path / "bin", ethtool="a new form\n", ibstat="another new form\n")
    root = wired(fakehost.make(tmp_path / "root", fake))
    made = inventory.take(fake, [], inventory.Veil(), root)
    validated(made)
    assert made["network"]["interfaces"]["eth0"]["raw"] == "a new form\n"
    assert made["network"]["fabric"]["ibstat"] == {"raw": "another new form\n"}
    assert made["findings"][1:] == ["ethtool eth0: unknown text", "ibstat: unknown text"]
    hidden = inventory.take(fake, [], inventory.Veil(b"salt"), root)
    assert "new form" not in str(hidden)


def test_tools_that_are_not_here_are_findings(fake: chip.Chip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi(tmp_path, monkeypatch, f"{LIST}\n")
    made = inventory.take(fake, [], inventory.Veil(), wired(fakehost.make(tmp_path / "root", fake)))
    assert made["findings"][1:] == ["ethtool eth0: No such file or directory", "ibstat: No such file or directory"]


def test_links_are_counted_in_the_report() -> None:
    found = links.matrix(sample("topology-rocm.txt"))
    assert body._intra({"links": found, "topology": "text"}) == "6 x PCIE"
    assert body._intra({"links": None, "topology": "text"}) == "text"
    assert body._intra({}) is None
