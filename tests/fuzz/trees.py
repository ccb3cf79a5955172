"""Damage to a folder: files renamed, removed, doubled, exchanged, linked; odd names, odd kinds, odd places."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from random import Random

Kind = Callable[[Random, Path], object]
ODD_NAMES = (
    b"new\nline", b"tab\there", b".hidden", b"-rf", b"ends ", b"quo'te", b'quo"te', b"\xff\xfe", b"caf\xc3\xa9", b"a\\b", b"..x", b"con:1",
    b"\x1b[2J", b"star*", b"x" * 200, b"$(id)", b"%2e%2e", b"<b>", b"a;b", b"~",
)  # fmt: skip


def files(run: Path) -> list[Path]:
    return sorted(path for path in run.rglob("*") if path.is_file())


def folders(run: Path) -> list[Path]:
    return [run, *sorted(path for path in run.rglob("*") if path.is_dir())]


def remove(rng: Random, run: Path) -> None:
    rng.choice(files(run)).unlink()


def remove_folder(rng: Random, run: Path) -> None:
    shutil.rmtree(rng.choice(folders(run)[1:]))


def rename(rng: Random, run: Path) -> None:
    path = rng.choice(files(run))
    path.rename(path.with_name(path.name + rng.choice(("2", "~", ".bak", "_"))))


def rename_case(rng: Random, run: Path) -> None:
    path = rng.choice(files(run))
    path.rename(path.with_name(path.name.swapcase()))


def move(rng: Random, run: Path) -> None:
    path = rng.choice(files(run))
    path.rename(rng.choice(folders(run)) / f"moved-{path.name}")


def move_folder(rng: Random, run: Path) -> None:
    path = rng.choice(folders(run)[1:])
    path.rename(path.with_name(path.name + "x"))


def double(rng: Random, run: Path) -> None:
    path = rng.choice(files(run))
    shutil.copyfile(path, path.with_name(rng.choice(("copy-" + path.name, path.name.swapcase(), path.name + ".1"))))


def next_segment(rng: Random, run: Path) -> None:
    path = rng.choice([path for path in files(run) if path.name.startswith("events-")])
    shutil.copyfile(path, path.with_name(path.name.replace("00000", rng.choice(("00001", "00002", "99999")))))


def next_attempt(rng: Random, run: Path) -> None:
    path = rng.choice([path for path in folders(run) if path.name.startswith("attempt-")])
    shutil.copytree(path, path.with_name(rng.choice(("attempt-2", "attempt-0", "attempt-01"))))


def exchange(rng: Random, run: Path) -> None:
    one, two = rng.sample(files(run), 2)
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


def symlink(rng: Random, run: Path) -> None:
    """The same bytes, reached through a link."""
    path = rng.choice(files(run))
    aside = run.parent / "aside"
    shutil.copyfile(path, aside)
    path.unlink()
    path.symlink_to(aside)


def symlink_folder(rng: Random, run: Path) -> None:
    path = rng.choice(folders(run)[1:])
    aside = run.parent / "aside"
    path.rename(aside)
    path.symlink_to(aside)


def hard_link(rng: Random, run: Path) -> None:
    os.link(rng.choice(files(run)), run.parent / "aside" if rng.random() < 0.5 else rng.choice(folders(run)) / "second")


def odd_file(rng: Random, run: Path) -> None:
    (rng.choice(folders(run)) / os.fsdecode(rng.choice(ODD_NAMES))).write_bytes(rng.choice((b"", b"x")))


def odd_rename(rng: Random, run: Path) -> None:
    path = rng.choice(files(run))
    path.rename(path.with_name(os.fsdecode(rng.choice(ODD_NAMES))))


def odd_kind(rng: Random, run: Path) -> None:
    path = rng.choice([rng.choice(folders(run)) / "odd", rng.choice(files(run))])
    path.unlink(missing_ok=True)
    rng.choice([os.mkfifo, os.mkdir, lambda p: os.mknod(p, stat.S_IFSOCK | 0o600), lambda p: p.symlink_to("loop")])(path)


def empty_folder(rng: Random, run: Path) -> None:
    (rng.choice(folders(run)) / rng.choice(("artifacts", "attempt-2", "new"))).mkdir()


def deep_folder(rng: Random, run: Path) -> None:
    path = rng.choice(folders(run)).joinpath(*"abcdefghijklmnopqrstuvwxyz"[: rng.randrange(2, 26)])
    path.mkdir(parents=True)
    (path / "file").write_bytes(b"")


def empty(rng: Random, run: Path) -> None:
    rng.choice(files(run)).write_bytes(b"")


KINDS: dict[str, Kind] = {
    kind.__name__: kind
    for kind in (
        remove, remove_folder, rename, rename_case, move, move_folder, double, next_segment, next_attempt, exchange, symlink, symlink_folder,
        hard_link, odd_file, odd_rename, odd_kind, empty_folder, deep_folder, empty,
    )
}  # fmt: skip


def snapshot(run: Path) -> dict[Path, tuple[object, ...]]:
    """Everything about a tree that a verifier answers for: names, kinds, links, bytes."""
    found: dict[Path, tuple[object, ...]] = {}
    for folder, below, names in os.walk(run):
        for path in (Path(folder) / name for name in (*below, *names)):
            status = path.lstat()
            plain = stat.S_ISREG(status.st_mode)
            found[path] = (stat.S_IFMT(status.st_mode), *((status.st_nlink, path.read_bytes()) if plain else ()))
    return found
