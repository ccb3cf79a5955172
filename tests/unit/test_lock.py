"""Locks: what they hold, what they may not hold, and that the shipped ones are for everybody."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit import base, chip, environments, lock, recipe
from kit.errors import KitError
from tests.conftest import ROOT

DIGEST = "a" * 64
NAMES = st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True)
SHIPPED = sorted([*(ROOT / "requirements").glob("*.lock"), *(ROOT / "images").glob("*/requirements*.lock")])


@given(st.dictionaries(NAMES, st.lists(st.integers(0, 2**256 - 1), min_size=1, max_size=3), max_size=4))
def test_what_is_rendered_is_read_back(packages: dict[str, list[int]]) -> None:
    pins = {name: lock.Pin(name, "1.0", tuple(f"{number:064x}" for number in digests)) for name, digests in packages.items()}
    assert lock.parse(lock.render(pins.values()), "t") == pins


@pytest.mark.parametrize(
    "line",
    ["torch", "torch>=2", "torch==2", f"torch @ https://x/torch.whl --hash=sha256:{DIGEST}", "--index-url https://x", f"torch==2 --hash=md5:{DIGEST}",
     f"torch==2 --hash=sha256:{DIGEST} --find-links /x"],
)  # fmt: skip
def test_a_line_that_pins_nothing_is_refused(line: str) -> None:
    with pytest.raises(KitError, match="lock holds a line") as caught:
        lock.parse(line, "t")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_shipped_locks_name_no_address(path: object) -> None:
    text = path.read_text()  # type: ignore[attr-defined]
    assert "://" not in text
    assert "/" not in "".join(line for line in text.splitlines() if not line.startswith("#"))


def test_both_locks_hold_the_same_versions_of_what_is_measured() -> None:
    made = recipe.load(chip.load("cpu"))
    first, second = (lock.read(path) for path in made.locks)
    assert first["torch"].version.split("+")[0] == second["torch"].version
    shared = first.keys() & second.keys() - {"torch"}
    assert {name: first[name].version for name in shared} == {name: second[name].version for name in shared}
    assert first.keys() <= second.keys()
    assert set(made.source_only) <= first.keys()


def test_a_recipe_changes_with_every_input() -> None:
    made = recipe.load(chip.load("cpu"))
    assert [path.name for path in made.inputs()] == [
        "Dockerfile",
        "image.toml",
        "requirements.lock",
        "requirements-public.lock",
        "base.lock",
    ]
    assert all(path.is_file() for path in made.inputs())


def test_base_lock_differences(tmp_path: object) -> None:
    path = tmp_path / "base.lock"  # type: ignore[operator]
    path.write_text("# comment\na=1\nb=2\n")
    assert base.differences(path, {"a": "1", "b": "3", "c": "4"}) == ["b 2 -> 3", "c none -> 4"]
    assert base.differences(path, {"a": "1", "b": "2"}) == []


def test_an_interpreter_is_compared_with_the_lock() -> None:
    found = environments.compare(chip.load("cpu"))
    [torch] = [row for row in found["differs"] if row["name"] == "torch"]
    assert (torch["locked"], torch["found"]) == ("2.13.0+cpu", None)
    assert len(found["found"]["pytest"]["sha256"]) == 64
