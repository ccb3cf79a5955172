"""Chips as data: every shipped file, folders from outside, detection on fake hosts, and tools that misbehave."""

from __future__ import annotations

import importlib.metadata
import re
import time
from pathlib import Path

import pytest

from kit import chip, container, grants, host, launchers
from kit.errors import ENVIRONMENT, MISUSE, KitError
from tests import fakehost
from tests.conftest import ROOT

FAKES = ROOT / "tests/chips"
SHIPPED = sorted(path.parent.name for path in (ROOT / "images").glob("*/chip.toml"))
EXPECTED = [
    "amd",
    "ascend",
    "biren",
    "cambricon",
    "cpu",
    "enflame",
    "hygon",
    "iluvatar",
    "intel",
    "kunlunxin",
    "metax",
    "mthreads",
    "nvidia",
    "thead",
]
FAKE = (FAKES / "fake/chip.toml").read_text(encoding="utf-8")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> chip.Chip:
    monkeypatch.setenv(chip.FOLDERS, str(FAKES))
    return chip.load("fake")


def a_chip(folder: Path, name: str, text: str = FAKE) -> Path:
    (folder / name).mkdir(parents=True)
    (folder / name / "chip.toml").write_text(text.replace('id = "fake"', f'id = "{name}"'), encoding="utf-8")
    return folder


def tool(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_the_shipped_chips_are_these() -> None:
    assert set(EXPECTED) <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_chip_is_well_described(name: str) -> None:
    product = chip.load(name)
    assert product.status in chip.STATUSES
    assert re.search("[\u4e00-\u9fff]", product.names["zh"]) or product.names["zh"] == product.names["en"]
    patterns = product.container.get("nodes_per_card", [])
    assert all(("{n}" in pattern) == (product.container["numbering"] == "name") for pattern in patterns)
    if product.container.get("numbering") == "drm":
        assert "pci" in product.detection
    for peak in product.document.get("peaks", []):
        assert peak["unit"] == {"int8": "TOPS", "memory_bandwidth": "GB/s", "memory": "GB", "power": "W"}.get(peak["kind"], "TFLOPS")


@pytest.mark.parametrize("name", [name for name in SHIPPED if name != "cpu"])
def test_cards_are_found_and_chosen(name: str, tmp_path: Path) -> None:
    product = chip.load(name)
    root = fakehost.make(tmp_path, product, (0, 1, 5) if product.container.get("numbering") == "name" else (0, 1, 2))
    found = host.look(product, root)
    assert found.here
    assert [card.number for card in found.cards] == ([0, 1, 5] if product.container.get("numbering") == "name" else [0, 1, 2])
    last = found.cards[-1].number
    given = grants.of(product, host.choose(found, [last]), root=root)
    if product.container["way"] == "nodes":
        assert set(product.container.get("nodes", [])) <= set(given.nodes)
        assert all((root / node[1:]).exists() for node in given.nodes)
        assert not set(found.cards[0].nodes) & set(given.nodes)
    with pytest.raises(KitError, match="there is no card 7") as caught:
        host.choose(found, [7])
    assert "cards here: 0, 1" in str(caught.value)
    with pytest.raises(KitError, match="named twice"):
        host.choose(found, [0, 0])


@pytest.mark.parametrize("name", [name for name in SHIPPED if name != "cpu"])
def test_a_chip_is_taken_for_no_other(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = host.only(fakehost.make(tmp_path / "root", chip.load(name)))
    assert found is not None
    assert found.id == name


def test_two_chips_on_one_host_are_asked_about(tmp_path: Path) -> None:
    for name in ("ascend", "cambricon"):
        fakehost.touch(tmp_path, chip.load(name).detection["nodes"][0])
    with pytest.raises(KitError, match="several chips are here: ascend, cambricon; say which one: --chip ascend"):
        host.only(tmp_path)


def test_a_tool_alone_is_no_chip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for product in map(chip.load, SHIPPED):
        if "tool" in product.detection:
            tool(tmp_path / "bin", product.detection["tool"], "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    found = host.scan(tmp_path)
    assert len(found) > 8
    assert not any(item.here for item in found)
    assert host.only(tmp_path) is None


def test_network_and_display_devices_of_a_vendor_are_no_cards(tmp_path: Path) -> None:
    for order, (name, kind) in enumerate([("ascend", "030000"), ("ascend", "020000"), ("thead", "010802"), ("intel", "030000")]):
        fakehost.add_pci(tmp_path, f"0000:0{order}:00.0", chip.load(name).detection["pci"]["vendor"], kind)
    assert [item.chip.id for item in host.scan(tmp_path) if item.here] == []


def test_missing_chip_is_an_environment_error(tmp_path: Path) -> None:
    with pytest.raises(KitError, match="no accelerator of chip 'ascend' is here") as caught:
        host.require(host.look(chip.load("ascend"), tmp_path))
    assert caught.value.exit_code == ENVIRONMENT
    host.require(host.look(chip.load("cpu"), tmp_path))


def test_a_folder_of_chips_adds_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(chip.FOLDERS, str(a_chip(tmp_path, "newchip")))
    assert chip.load("newchip").folder == tmp_path / "newchip"
    monkeypatch.setenv(chip.FOLDERS, str(tmp_path / "nowhere"))
    with pytest.raises(KitError, match="folder of chips does not exist"):
        chip.chips()


def test_a_package_adds_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_chip(tmp_path / "chips", "plugged")
    (tmp_path / "outoftree.py").write_text("import pathlib\nCHIPS = pathlib.Path(__file__).parent / 'chips'\n")
    info = tmp_path / "outoftree-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outoftree\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[chipassay.chips]\nplugged = outoftree:CHIPS\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    assert chip.load("plugged").names["en"] == "Fake chip"
    (info / "entry_points.txt").write_text("[chipassay.chips]\nplugged = outoftree:NOTHING\n")
    with pytest.raises(KitError, match="plug-in of chips cannot be loaded") as caught:
        chip.chips()
    assert caught.value.exit_code == MISUSE


def test_a_chip_described_twice_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(chip.FOLDERS, str(a_chip(tmp_path, "cpu")))
    with pytest.raises(KitError, match="chip 'cpu' is described twice"):
        chip.chips()


BAD = {
    "unknown key": (
        'stack = "none"',
        'stakc = "none"',
        "unknown key 'stakc'; did you mean 'stack'?|unknown key 'stakc'.*did you mean 'stack'",
    ),
    "relative node": ('nodes = ["/dev/fakectl"]', 'nodes = ["fakectl"]', "does not match"),
    "no source": ('source = "torch on the processor"\npackage', "package", "key 'source' is missing"),
    "another id": ('id = "fake"', 'id = "other"', "chip is named 'other'"),
    "status": ('status = "proven"', 'status = "certain"', "'certain' is not allowed"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_chip_file_is_one_line(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new, said = BAD[case]
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake/chip.toml").write_text(FAKE.replace(old, new), encoding="utf-8")
    monkeypatch.setenv(chip.FOLDERS, str(tmp_path))
    with pytest.raises(KitError, match=said) as caught:
        chip.load("fake")
    assert "\n" not in str(caught.value)


def test_tool_that_hangs_is_left(tmp_path: Path) -> None:
    tool(tmp_path, "slow-smi", "exec sleep 60")
    begin = time.monotonic()
    answer = host.ask([str(tmp_path / "slow-smi")], limit_s=0.5)
    assert answer.fault == "no answer within 0.5 s"
    assert time.monotonic() - begin < 10


def test_unknown_table_is_kept_raw_and_said(tmp_path: Path, fake: chip.Chip) -> None:
    tool(tmp_path, "fake-smi", "echo '| GPU | Name |'")
    answer = host.ask([str(tmp_path / "fake-smi"), "--list"])
    found, fault = host.rows(answer, fake.detection["columns"])
    assert (found, answer.text) == ([], "| GPU | Name |\n")
    assert fault == "1 values where 4 were asked for: | GPU | Name |"


def test_tool_that_fails_or_is_missing(tmp_path: Path) -> None:
    tool(tmp_path, "bad-smi", "echo no driver >&2; exit 9")
    assert host.ask([str(tmp_path / "bad-smi")]).fault == "exit code 9: no driver"
    assert host.ask([str(tmp_path / "none")]).fault == "No such file or directory"
    assert host.rows(host.ask([str(tmp_path / "none")]), ["a"]) == ([], "No such file or directory")


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("launcher", launchers.LAUNCHERS)
def test_no_shipped_chip_is_privileged(name: str, launcher: str, tmp_path: Path) -> None:
    product = chip.load(name)
    root = fakehost.make(tmp_path, product)
    given = grants.of(product, host.look(product, root).cards, launchers.way(product, launcher), root)
    try:
        made = launchers.LAUNCHERS[launcher](product, given, TASK)
    except KitError:
        assert (launcher, "kubernetes" in product.document) == ("kubernetes", False)
        return
    assert "privileged" not in str(made)
    assert "ALL" in str(made) or launcher not in {"docker", "podman", "kubernetes"}


TASK = launchers.Task("name", "image", Path("/worker"), Path("/folder"))


@pytest.mark.parametrize("launcher", ["docker", "podman", "kubernetes"])
def test_a_chip_that_asks_for_it_is_privileged_and_that_is_sealed(launcher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = FAKE.replace('way = "nodes"', 'way = "nodes"\nprivileged = true')
    monkeypatch.setenv(chip.FOLDERS, str(a_chip(tmp_path, "bold", text)))
    product = chip.load("bold")
    given = grants.of(product, ())
    assert "privileged" in str(launchers.LAUNCHERS[launcher](product, given, TASK))
    assert given.sealed()["privileged"] is True
    assert container.request(given, TASK)["privileged"] is True


def test_api_request_says_what_the_command_line_says(tmp_path: Path) -> None:
    for name in SHIPPED:
        product = chip.load(name)
        root = fakehost.make(tmp_path / name, product)
        given = grants.of(product, host.look(product, root).cards, root=root)
        request, line = container.request(given, TASK), launchers.docker(product, given, TASK)
        for node in request["devices"]:
            assert node.split(":")[0] in line
        assert request["runtime"] == (line[line.index("--runtime") + 1] if "--runtime" in line else None)
        assert bool(request["device_requests"]) == ("--gpus" in line)
        assert all(f"{mount['Source']}:{mount['Target']}:{'ro' if mount['ReadOnly'] else 'rw'}" in line for mount in request["mounts"])
        assert request["cap_add"] == [line[index + 1] for index, word in enumerate(line) if word == "--cap-add"]


def test_package_without_autoload_is_named_to_the_worker() -> None:
    lacking = [name for name in SHIPPED if not chip.load(name).torch.get("autoload", True)]
    assert lacking
    for name in lacking:
        assert chip.load(name).worker_environment()[chip.IMPORT] == chip.load(name).torch["package"]


def test_the_worker_is_told_what_the_chip_lacks() -> None:
    for name in chip.chips():
        lacks = chip.load(name).section("supports").get("lacks", [])
        assert chip.load(name).worker_environment().get(chip.LACKS) == (",".join(lacks) or None)
    assert chip.load("ascend").worker_environment()[chip.LACKS] == "float64"
