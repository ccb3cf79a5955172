"""environment.json's inventory: from a fake host and a fake tool, with a schema, and with names hidden."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kit import chip, inventory
from kit.schema import check
from tests import fakehost
from tests.conftest import ROOT
from verify import metrics

LIST = "0, Fake one, SN-17, 1.2\n1, Fake one, SN-18, 1.2"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> chip.Chip:
    monkeypatch.setenv(chip.FOLDERS, str(ROOT / "tests/chips"))
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/engine.sock")
    return chip.load("fake")


def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "says").write_text(says)
    (folder / "fake-smi").write_text(
        f'#!/bin/sh\n[ "$1" = --topology ] && {{ echo card links; exit 0; }}\nwhile read -r l; do echo "$l"; done < {folder}/says\n'
    )
    (folder / "fake-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def validated(made: dict[str, object]) -> None:
    schema = json.loads((ROOT / "manifests/schemas/environment.schema.json").read_text(encoding="utf-8"))
    empty = dict.fromkeys(schema["required"])
    hexes = {"sha256": "0" * 64}
    document = empty | {"schemaVersion": 1, "host": {}, "chip": {"id": "fake"}, "patches": [], "inventory": made}
    document |= {"kit": {"version": "1", "worker": hexes, "tree": hexes}, "isolation": {"kind": "none", "reason": None}}
    check(document, "environment", "environment.json")


def test_cards_links_and_libraries(fake: chip.Chip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi(tmp_path, monkeypatch, f"{LIST}\n")
    root = fakehost.make(tmp_path / "root", fake)
    (root / "driver").mkdir()
    (root / "driver/libx.so").write_bytes(b"x")
    made = inventory.take(fake, ["/driver", "/missing"], inventory.Veil(), root)
    validated(made)
    assert made["accelerators"]["cards"][1] == {"index": "1", "name": "Fake one", "serial": "SN-18", "driver": "1.2"}
    assert (made["accelerators"]["topology"], made["accelerators"]["raw"], made["findings"]) == (
        "card links\n",
        None,
        ["fake-smi --topology: unknown table"],
    )
    assert [device["id"] for device in made["pci"]] == ["f00d:", "f00d:"]
    assert list(made["libraries"]) == ["/driver/libx.so"]
    assert made["engine"] is None


def test_unknown_table_is_raw_with_a_finding(fake: chip.Chip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi(tmp_path, monkeypatch, "| a table |\n")
    made = inventory.take(fake, [], inventory.Veil(), fakehost.make(tmp_path / "root", fake))
    validated(made)
    assert (made["accelerators"]["raw"], made["accelerators"]["cards"]) == ("| a table |\n", [])
    assert made["findings"][0] == "fake-smi --list: 1 values where 4 were asked for: | a table |"


def test_missing_tool_is_a_finding(fake: chip.Chip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    made = inventory.take(fake, [], inventory.Veil(), tmp_path)
    assert made["findings"] == ["fake-smi --list: No such file or directory", "fake-smi --topology: No such file or directory"]


def test_names_are_hidden_by_one_option(fake: chip.Chip, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi(home, monkeypatch, f"{LIST}\n")
    root = fakehost.make(home / "root", fake)
    (root / "sys/class/net/eth0").mkdir(parents=True)
    (root / "sys/class/net/eth0/address").write_text("02:11:22:33:44:55\n")
    hide = inventory.veil(anonymous=True)
    made = inventory.take(fake, [], hide, root)
    validated(made)
    text = json.dumps(made)
    assert not any(word in text for word in ("SN-17", "SN-18", "02:11:22:33:44:55", "card links"))
    assert made["accelerators"]["cards"][0]["serial"] == inventory.veil(anonymous=True).name("SN-17")
    assert made["accelerators"]["cards"][0]["serial"] != made["accelerators"]["cards"][1]["serial"]
    assert (home / "config/salt").stat().st_mode & 0o777 == 0o600
    assert "SN-17" in json.dumps(inventory.take(fake, [], inventory.veil(anonymous=False), root))


def test_every_suite_names_the_code_base_that_it_follows() -> None:
    """The report's software table: its five rows, and no suite that is there (base specifications apart) without one."""
    found = inventory.references()
    assert [one["name"] for one in found][:5] == ["InternLM", "Bert-Pytorch", "Alpaca-Lora", "LLaMa", "Stable-Diffusion"]
    followed = {suite for one in found for suite in one["suites"]}
    assert set(metrics.suites()) - {"specifications"} <= followed
    schema = json.loads((ROOT / "manifests/schemas/environment.schema.json").read_text(encoding="utf-8"))
    assert schema["properties"]["references"]["items"]["required"] == sorted(found[0], key=list(found[0]).index)
