"""A vendor's patches: read strictly, applied exactly or not at all, counted, hashed, bound to the recipe and to what a plan allows."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit import chip, launch, patches, patching, plan, recipe
from kit.errors import FAILED, MISUSE, KitError
from tests.adversarial import builder
from tests.adversarial.patched import PATCH, contained, patched
from verify import replay
from verify.data import violations
from verify.patches import fits

HEAD = b"--- a/pack/mod.py\n+++ b/pack/mod.py\n"
GOOD = HEAD + b"@@ -1,3 +1,4 @@ def f\n one\n-two\n+2\n+2.5\n three\n"
OLD = b"one\ntwo\nthree\nfour\n"
NEW = b"one\n2\n2.5\nthree\nfour\n"
ADDS = b"# why: the engine needs it\n--- /dev/null\n+++ b/pack/fresh.py\n@@ -0,0 +1,2 @@\n+a = 1\n+b = 2\n"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site-packages"
    (folder / "pack/__pycache__").mkdir(parents=True)
    (folder / "pack/mod.py").write_bytes(OLD)
    return folder


def diff(old: bytes, new: bytes, context: int = 3) -> bytes:
    """What `diff -u` would write of a file."""
    sides = [part.decode("latin-1").splitlines(keepends=True) if part else [] for part in (old, new)]
    lines = difflib.unified_diff(*sides, "a/pack/mod.py", "b/pack/mod.py", n=context)
    return "".join(line if line.endswith("\n") else line + "\n\\ No newline at end of file\n" for line in lines).encode("latin-1")


FILE = st.lists(st.sampled_from([b"", b"x", b"y", b"-z", b"+z", b" z", b"@@ -1 +1 @@", b"\\ No newline at end of file"]), max_size=30)


@given(FILE, FILE, st.integers(0, 4), st.booleans(), st.booleans())
def test_what_diff_writes_comes_out_again(old: list[bytes], new: list[bytes], context: int, old_ends: bool, new_ends: bool) -> None:
    before, after = (b"".join(line + b"\n" for line in part) for part in (old, new))
    before, after = (part if ends else part[:-1] for part, ends in ((before, old_ends), (after, new_ends)))
    written = diff(before, after, context)
    if not written:
        return
    [change] = patching.parse(written)
    assert patching.changed(before, change) == after
    assert change.added - change.removed == after.count(b"\n") + (after[-1:] not in {b"", b"\n"}) - before.count(b"\n") - (
        before[-1:] not in {b"", b"\n"}
    )


@given(
    st.binary(max_size=200)
    | st.lists(st.sampled_from(GOOD.splitlines(keepends=True) + ADDS.splitlines(keepends=True)), max_size=12).map(b"".join)
)
def test_anything_else_is_one_clear_line(data: bytes) -> None:
    try:
        patching.parse(data)
    except patching.Bad as bad:
        assert "\n" not in str(bad)


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
def test_one_byte_never_crashes(place: int, byte: int) -> None:
    data = GOOD[:place] + bytes([byte]) + GOOD[place + 1 :]
    try:
        for change in patching.parse(data):
            patching.changed(OLD, change)
    except patching.Bad as bad:
        assert str(bad).isprintable()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no newline"),
        (b"# words alone\n", "no file is touched"),
        (b"hello\n", "line 1: '--- '"),
        (b"--- a/x.py\n", "line 2: '\\+\\+\\+ '"),
        (HEAD, "line 3: a line that begins with @@"),
        (GOOD[:-1], "no newline"),
        (HEAD + b"@@ -1 +1 @\n-a\n+b\n", "not of the form"),
        (HEAD + b"@@ -1,2 +1,2 @@\n a\n b\n", "changes nothing"),
        (HEAD + b"@@ -1,2 +1,2 @@\n a\n-b\n", "must begin with"),
        (HEAD + b"@@ -1 +1 @@\n-a\n-b\n+c\n", "more lines than line 3 says"),
        (HEAD + b"@@ -5 +5 @@\n-a\n+b\n@@ -5 +5 @@\n-a\n+b\n", "place does not follow"),
        (HEAD + b"@@ -5 +7 @@\n-a\n+b\n", "place does not follow"),
        (HEAD + b"@@ -0 +0 @@\n-a\n+b\n", "place does not follow"),
        (HEAD + b"@@ -1,2 +1,2 @@\n-a\n\\ No newline at end of file\n-b\n+c\n+d\n", "more lines"),
        (GOOD + b"-- \n2.39\n", "line 9: '--- '"),
        (GOOD + GOOD, "touched twice"),
        (GOOD + GOOD.replace(b"mod.py", b"MOD.py"), "touched twice"),
        (GOOD.replace(b"+++ b/pack/mod.py", b"+++ b/pack/other.py"), "neither removes nor renames"),
        (GOOD.replace(b"+++ b/pack/mod.py", b"+++ /dev/null"), "neither removes nor renames"),
        (GOOD.replace(b"--- a/pack/mod.py", b"--- /dev/null"), "is new and yet has old lines"),
        (GOOD.replace(b"pack/", b"../"), "plain path"),
        (GOOD.replace(b"a/pack", b"/etc").replace(b"b/pack", b"/../etc"), "plain path"),
        (GOOD.replace(b"a/pack/mod.py", b"mod.py").replace(b"b/pack/mod.py", b"mod.py"), "plain path"),
        (b"old mode 100644\nnew mode 100755\n" + GOOD, "line 1"),
        (b"Binary files a/x and b/x differ\n", "line 1"),
    ],
)
def test_a_patch_that_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(patching.Bad, match=said):
        patching.parse(data)


def test_patches_are_applied_in_order_and_counted(site: Path, tmp_path: Path) -> None:
    os.link(site / "pack/mod.py", tmp_path / "wheel's own copy")
    (site / "pack/__pycache__/mod.cpython-311.pyc").write_bytes(b"compiled from the old file")
    then = diff(NEW, b"zero\n" + NEW)
    patching.apply([("1.patch", GOOD), ("2.patch", ADDS), ("3.patch", then)], site)
    assert (site / "pack/mod.py").read_bytes() == b"zero\n" + NEW
    assert (site / "pack/fresh.py").read_bytes() == b"a = 1\nb = 2\n"
    assert (tmp_path / "wheel's own copy").read_bytes() == OLD
    assert list((site / "pack/__pycache__").iterdir()) == []
    assert [(change.path, change.added, change.removed) for change in patching.parse(GOOD)] == [("pack/mod.py", 2, 1)]


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("another content", lambda site: (site / "pack/mod.py").write_bytes(b"\n" + OLD), "from line 1 on it is not what the patch says"),
        ("too short", lambda site: (site / "pack/mod.py").write_bytes(b"one\n"), "not what the patch says"),
        ("not there", lambda site: (site / "pack/mod.py").unlink(), "pack/mod.py is not installed"),
        ("a link", lambda site: ((site / "pack/mod.py").rename(site / "x"), (site / "pack/mod.py").symlink_to("../x")), "is a link"),
        ("below a link", lambda site: ((site / "pack").rename(site / "x"), (site / "pack").symlink_to("x")), "is a link, or below one"),
        ("new, and there", lambda site: (site / "pack/fresh.py").write_bytes(b""), "pack/fresh.py is there already"),
    ],
)
def test_where_one_does_not_fit_nothing_is_written(name: str, make: object, said: str, site: Path) -> None:
    make(site)  # type: ignore[operator]
    before = {path: path.read_bytes() for path in site.rglob("*") if path.is_file()}
    with pytest.raises(patching.Bad, match=said):
        patching.apply([("2.patch", ADDS), ("1.patch", GOOD)], site)
    assert {path: path.read_bytes() for path in site.rglob("*") if path.is_file()} == before


def test_the_build_runs_the_file_alone_and_stops_in_one_line(site: Path, tmp_path: Path) -> None:
    folder = tmp_path / "patches"
    folder.mkdir()
    command = [sys.executable, "-I", str(patching.__file__), str(folder), str(site)]
    assert subprocess.run(command, check=False).returncode == 0
    (folder / "1.patch").write_bytes(GOOD)
    assert subprocess.run(command, check=False).returncode == 0
    assert (site / "pack/mod.py").read_bytes() == NEW
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "ERROR: patch does not apply: 1.patch: pack/mod.py: from line 1 on it is not what the patch says\n"


def chip_with(folder: Path, name: str, data: bytes) -> Path:
    (folder / "patches").mkdir(parents=True, exist_ok=True)
    (folder / "patches" / name).write_bytes(data)
    return folder


def test_a_patch_is_stated_with_hash_and_size(tmp_path: Path) -> None:
    assert patches.of(tmp_path) == ()
    found = patches.of(chip_with(chip_with(tmp_path, "2.patch", ADDS), "1.patch", GOOD))
    assert patches.sealed(found) == [
        {"file": "1.patch", "sha256": hashlib.sha256(GOOD).hexdigest(), "paths": [{"path": "pack/mod.py", "added": 2, "removed": 1}]},
        {"file": "2.patch", "sha256": hashlib.sha256(ADDS).hexdigest(), "paths": [{"path": "pack/fresh.py", "added": 2, "removed": 0}]},
    ]


@pytest.mark.parametrize(
    ("name", "data", "said"), [("notes.txt", GOOD, "not a patch"), ("1.patch", b"hello\n", "patch cannot be read .*line 1")]
)
def test_a_folder_with_anything_else_is_refused(name: str, data: bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(KitError, match=said) as stop:
        patches.of(chip_with(tmp_path, name, data))
    assert stop.value.exit_code == MISUSE


def test_another_patch_is_another_recipe(tmp_path: Path) -> None:
    made = recipe.Recipe({"locks": [], "base": {}}, tmp_path)
    seen = [made.sha256()]
    for name, data in (("1.patch", GOOD), ("1.patch", GOOD.replace(b"2.5", b"2.6")), ("2.patch", ADDS)):
        chip_with(tmp_path, name, data)
        seen.append(made.sha256())
    assert len(set(seen)) == len(seen)


def test_an_environment_whose_patch_does_not_fit_is_not_made(site: Path, tmp_path: Path) -> None:
    found = patches.of(chip_with(tmp_path / "chip", "1.patch", GOOD))
    patches.apply(found, site)
    with pytest.raises(KitError, match="patch does not apply .*1.patch: pack/mod.py") as stop:
        patches.apply(found, site)
    assert stop.value.exit_code == FAILED


def test_a_run_under_a_plan_that_allows_no_patch_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = recipe.Recipe({}, chip_with(tmp_path, "1.patch", GOOD))
    monkeypatch.setattr(recipe, "load", lambda _: made)
    asked = plan.load("smoke")
    with pytest.raises(KitError, match="plan does not allow a patch of pack/mod.py .*patches/1.patch, plan smoke"):
        launch.choose("none", asked, chip.load("cpu"), (), print)
    asked.document["allowed_patches"].append("pack/*")
    with pytest.raises(KitError, match="leave out --isolation none"):
        launch.choose("none", asked, chip.load("cpu"), (), print)


def test_a_plan_that_is_silent_allows_nothing_and_says_so() -> None:
    assert plan.resolve(builder.source(), "test").document["allowed_patches"] == []
    with pytest.raises(KitError, match="allowed_patches"):
        plan.resolve(builder.source() | {"allowed_patches": ["pack/[a-z].py"]}, "test")


@pytest.mark.parametrize(
    ("file", "schema", "key"), [("environment", "environment", "patches"), ("plan", "resolved_plan", "allowed_patches")]
)
def test_evidence_must_speak_of_patches(file: str, schema: str, key: str, tmp_path: Path) -> None:
    document = json.loads((builder.build(tmp_path) / f"evidence/{file}.json").read_bytes())
    assert violations(document, schema, f"{schema}.schema", file) == []
    del document[key]
    [fault] = violations(document, schema, f"{schema}.schema", file)
    assert key in fault.found


@pytest.mark.parametrize(
    ("path", "glob", "said"),
    [
        ("a/b.py", "a/b.py", True),
        ("a/b.py", "a/*", True),
        ("a/b.py", "a/?.py", True),
        ("a/b.py", "*", False),
        ("a/b/c.py", "a/*", False),
        ("a/b/c.py", "a/**", True),
        ("a/b/c.py", "a/b/**", True),
        ("a/b/c.py", "**", True),
        ("a", "a/**", False),
        ("ab/c", "a/**", False),
        ("A/b.py", "a/b.py", False),
    ],
)
def test_what_a_glob_covers(path: str, glob: str, said: bool) -> None:
    assert fits(path, glob) == said


def test_an_allowed_patch_is_no_finding(tmp_path: Path) -> None:
    run = builder.build(tmp_path / "environment", lambda bench: patched(bench, "torch/**"))
    assert replay.replay(run, "self").findings == []
    run = builder.build(tmp_path / "container", lambda bench: contained(bench, [PATCH]))
    assert replay.replay(run, "self").findings == []
