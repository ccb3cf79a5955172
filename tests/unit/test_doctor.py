"""Doctor: both languages say everything, each state of a card has a next step, a draft that fits the schema."""

from __future__ import annotations

import json
import re
import string
from pathlib import Path

import pytest

from kit import chip, doctor, host
from kit.errors import KitError
from tests import fakehost
from tests.conftest import ROOT

SLOTS = string.Formatter()


@pytest.fixture
def fake(home: Path, monkeypatch: pytest.MonkeyPatch) -> chip.Chip:
    monkeypatch.setenv(chip.FOLDERS, str(ROOT / "tests/chips"))
    monkeypatch.setenv("PATH", str(home))
    return chip.load("fake")


def at(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """Let doctor look at a host that is a folder."""
    scan, strangers = host.scan, host.strangers
    monkeypatch.setattr(host, "scan", lambda: scan(root))
    monkeypatch.setattr(host, "strangers", lambda: strangers(root))


def cards(language: str = "en") -> list[tuple[str, str, str, str]]:
    return doctor._cards(doctor.speaker(language), language)


def test_every_text_is_there_in_both_languages_with_the_same_slots() -> None:
    for key, texts in doctor._words().items():
        assert set(texts) == set(doctor.LANGUAGES), key
        if key != "head":
            slots = [{name for _, name, _, _ in SLOTS.parse(texts[language]) if name} for language in doctor.LANGUAGES]
            assert slots[0] == slots[1], key
            assert re.search("[\u4e00-\u9fff]", texts["zh"]) or texts["zh"].startswith("python"), key


def test_every_text_is_used() -> None:
    source = (ROOT / "kit/doctor.py").read_text(encoding="utf-8")
    built = {f"{name}_next" for name in ("base", "builder")}
    assert [key for key in doctor._words() if f'"{key}"' not in source and key not in built] == []


def test_card_with_everything(fake: chip.Chip, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "fake-smi").write_text("#!/bin/sh\n")
    (home / "fake-smi").chmod(0o755)
    at(monkeypatch, fakehost.make(home / "root", fake))
    [(_, state, found, following)] = cards()
    assert (state, following) == ("ok", f"python -m kit run --chip fake --chips {ROOT / 'tests/chips'}")
    assert "cards 0, 1; PCI 0000:1a:00.0, 0000:1b:00.0; nodes /dev/fakectl" in found
    assert "虚拟芯片：卡号 0, 1" in cards("zh")[0][2]


def test_card_without_driver_and_without_tool(fake: chip.Chip, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = fakehost.make(home / "root", fake)
    at(monkeypatch, root)
    assert cards()[0][1::2] == ("no tool", "the vendor's tool fake-smi is not on PATH: counters cannot be read")
    (root / "dev/fakectl").unlink()
    assert cards()[0][1::2] == ("no driver", "driver shows no card: load the vendor's kernel module, then look for /dev/fakectl")


def test_several_chips_and_strangers(fake: chip.Chip, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = fakehost.make(home / "root", fake)
    fakehost.touch(root, chip.load("ascend").detection["nodes"][0])
    fakehost.add_pci(root, "0000:90:00.0", "abcd", "120000")
    at(monkeypatch, root)
    states = {row[1]: row for row in cards()}
    assert states["choose"][2:] == ("accelerators of several chips are here: ascend, fake", "say which one: --chip ascend")
    assert "0000:90:00.0 abcd: 120000" in states["unknown"][2]
    assert "--draft-chip" in states["unknown"][3]


def test_draft_fits_and_names_the_stranger(fake: chip.Chip, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakehost.add_pci(home / "root", "0000:90:00.0", "abcd", "120000")
    at(monkeypatch, home / "root")
    path = doctor.draft("newchip", home / "chips")
    monkeypatch.setenv(chip.FOLDERS, str(home / "chips"))
    product = chip.load("newchip")
    assert product.detection["pci"] == {"vendor": "abcd", "classes": ["1200"]}
    assert product.container["nodes_per_card"] == ["/dev/newchip{n}"]
    with pytest.raises(KitError, match="described already"):
        doctor.draft("newchip", home / "chips")
    with pytest.raises(KitError, match="does not match"):
        doctor.draft("New Chip", home / "chips")
    assert not (home / "chips/New Chip").exists()
    assert path.is_file()


def test_language_follows_the_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LC_ALL", "LC_MESSAGES"):
        monkeypatch.delenv(name, raising=False)
    for value, language in {"zh_CN.UTF-8": "zh", "en_US.UTF-8": "en", "C": "en", "": "en"}.items():
        monkeypatch.setenv("LANG", value)
        assert doctor.users_language() == language


def test_facts_are_json(fake: chip.Chip) -> None:
    found = json.loads(json.dumps(doctor.facts("zh")))
    assert {"engine", "base", "builder", "disk", "clock", "key", "chip"} <= {row["check"] for row in found["checks"]}
