"""Golden files: what each launcher is given for each chip, on a host with two of its cards, and card 1 chosen alone for docker."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kit import chip, environment, grants, host, launch, launchers
from kit.errors import KitError
from tests import fakehost
from tests.conftest import ROOT

HERE = Path(__file__).parent / "launch"
TASK = launchers.Task("chipassay-RUN-case-1", "chipassay/CHIP:RECIPE", Path("/cache/worker.pyz"), Path("/runs/RUN/attempt-1"))
SHIPPED = sorted(path.parent.name for path in (ROOT / "images").glob("*/chip.toml"))


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(chip.FOLDERS, str(ROOT / "tests/chips"))
    monkeypatch.setattr(grants, "user", lambda: "1000:1000")
    monkeypatch.setattr(environment, "memory_bytes", lambda: 2**40)


def shown(product: chip.Chip, launcher: str, root: Path, wanted: tuple[int, ...] = ()) -> str:
    cards = host.choose(host.look(product, root), wanted)
    try:
        made = launchers.LAUNCHERS[launcher](product, grants.of(product, cards, launchers.way(product, launcher), root), TASK)
    except KitError as error:
        return f"kit: {error}"
    return launchers.text(made, launch.shown)


@pytest.mark.parametrize("name", [*SHIPPED, "fake"])
def test_golden_of_every_launcher(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    product = chip.load(name)
    root = fakehost.make(tmp_path, product)
    parts = [f"# {launcher}\n{shown(product, launcher, root)}\n" for launcher in launchers.LAUNCHERS]
    if product.detection:
        parts.append(f"# docker, card 1 alone\n{shown(product, 'docker', root, (1,))}\n")
    path, text = HERE / f"{name}.txt", "\n".join(parts)
    if request.config.getoption("--update-golden"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_every_golden_file_has_its_chip() -> None:
    assert sorted(path.stem for path in HERE.glob("*.txt")) == sorted([*SHIPPED, "fake"])


def test_golden_of_every_launcher_on_several_nodes(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The host's network, where to meet, and the number of the node where one is started by itself."""
    product = chip.load("fake")
    given = grants.of(product, host.choose(host.look(product, fakehost.make(tmp_path, product)), ()), root=tmp_path)
    task = replace(TASK, nodes=4, processes=32, endpoint="node-1:29400")
    made = {launcher: launchers.LAUNCHERS[launcher](product, given, task) for launcher in launchers.LAUNCHERS}
    made["docker, node 2"] = launchers.docker(product, given, replace(task, node=2))
    text = "\n".join(f"# {launcher}\n{launchers.text(asked, launch.shown)}\n" for launcher, asked in made.items())
    path = HERE.parent / "launch-nodes.txt"
    if request.config.getoption("--update-golden"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_golden_of_every_launcher_with_weights(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The folder that the case names is given read-only, and where it is."""
    product = chip.load("cpu")
    task = replace(TASK, checkpoints=Path("/fast/RUN/case"), weights=Path("/data/weights/taught"))
    given = grants.of(product, ())
    made = {launcher: launchers.LAUNCHERS[launcher](product, given, task) for launcher in launchers.LAUNCHERS}
    text = "\n".join(f"# {launcher}\n{launchers.text(asked, launch.shown)}\n" for launcher, asked in made.items())
    path = HERE.parent / "launch-weights.txt"
    if request.config.getoption("--update-golden"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")
