"""Applies unified diffs below a folder, strictly: at the line that is named, without fuzz, all of them or none.

Needs the standard library alone, since the build of an image runs this file as it is:
`python patching.py PATCHES [FOLDER]`, FOLDER being the interpreter's site-packages where it is left out.
"""

from __future__ import annotations

import itertools
import re
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

HEAD = re.compile(rb"@@ -([0-9]{1,9})(?:,([0-9]{1,9}))? \+([0-9]{1,9})(?:,([0-9]{1,9}))? @@(?: .*)?")
SEGMENT = r"[A-Za-z0-9_][A-Za-z0-9._+=@-]{0,127}"
PATH = re.compile(rf"(?:{SEGMENT}/)*{SEGMENT}")
BEFORE = (b"# ", b"diff --git ", b"index ", b"new file mode 100644")  # comments, and what git writes before a file
SIDES = {b" ": (True, True), b"-": (True, False), b"+": (False, True)}  # belongs to the old file, to the new one
NO_NEWLINE = b"\\ No newline at end of file"
NOWHERE = "/dev/null"
LINE = re.compile(rb"[^\n]*\n|[^\n]+")


class Bad(ValueError):
    """A patch that cannot be read or does not fit: one line."""


@dataclass(frozen=True)
class Hunk:
    """Lines `old` from line `start` (0-based) of the old file become `new`; each with its newline, where it has one."""

    start: int
    old: tuple[bytes, ...]
    new: tuple[bytes, ...]
    added: int
    removed: int


@dataclass(frozen=True)
class Change:
    """What a patch does to one file, its path below the folder; `added` and `removed` count lines."""

    path: str
    creates: bool
    hunks: tuple[Hunk, ...]

    @property
    def added(self) -> int:
        return sum(hunk.added for hunk in self.hunks)

    @property
    def removed(self) -> int:
        return sum(hunk.removed for hunk in self.hunks)


def parse(data: bytes) -> tuple[Change, ...]:
    """Every file that a patch touches, each once; Bad with the line that is wrong."""
    if not data.endswith(b"\n"):
        raise Bad("the last line has no newline")
    lines, at, changes = data[:-1].split(b"\n"), 0, []
    while at < len(lines):
        if lines[at].startswith(BEFORE):
            at += 1
            continue
        change, at = _change(lines, at)
        changes.append(change)
    _check(changes)
    return tuple(changes)


def _check(changes: list[Change]) -> None:
    if not changes:
        raise Bad("no file is touched")
    names = [change.path.lower() for change in changes]
    for change, name in zip(changes, names, strict=True):
        if names.count(name) > 1:
            raise Bad(f"{change.path} is touched twice")
        if change.creates and any(hunk.old for hunk in change.hunks):
            raise Bad(f"{change.path} is new and yet has old lines")


def _change(lines: list[bytes], at: int) -> tuple[Change, int]:
    old, new = _name(lines, at, b"--- "), _name(lines, at + 1, b"+++ ")
    if new == NOWHERE or old not in {new, NOWHERE}:
        raise Bad(f"line {at + 2}: a patch changes a file or adds one, it neither removes nor renames")
    begin, hunks, at = at, list[Hunk](), at + 2
    while at < len(lines) and lines[at].startswith(b"@@"):
        hunk, at = _hunk(lines, at, hunks)
        hunks.append(hunk)
    if not hunks:
        raise Bad(f"line {begin + 3}: a line that begins with @@ must follow")
    return Change(new, old == NOWHERE, tuple(hunks)), at


def _name(lines: list[bytes], at: int, mark: bytes) -> str:
    """The path of a `---` or `+++` line less its first folder, as `patch -p1` takes it."""
    line = lines[at] if at < len(lines) else b""
    name = line[4:].split(b"\t")[0].decode("ascii", "replace")
    path = name if name == NOWHERE else name.partition("/")[2]
    if not line.startswith(mark) or (path != NOWHERE and not PATH.fullmatch(path)):
        raise Bad(f"line {at + 1}: '{mark.decode()}' and a plain path below one folder must stand here")
    return path


def _hunk(lines: list[bytes], at: int, before: list[Hunk]) -> tuple[Hunk, int]:
    start, wanted = _head(lines[at], at, before)
    begin, sides, marks = at, (list[bytes](), list[bytes]()), b""
    at += 1
    while (len(sides[0]), len(sides[1])) != wanted:
        mark = lines[at][:1] if at < len(lines) else b""
        if mark not in SIDES:
            raise Bad(f"line {at + 1}: a line of the hunk must begin with a space, - or +")
        bare = lines[at + 1 : at + 2] == [NO_NEWLINE]
        for side, most in itertools.compress(zip(sides, wanted, strict=True), SIDES[mark]):
            if len(side) == most or (side and not side[-1].endswith(b"\n")):
                raise Bad(f"line {at + 1}: the hunk has more lines than line {begin + 1} says")
            side.append(lines[at][1:] + (b"" if bare else b"\n"))
        marks += mark
        at += 2 if bare else 1
    if not marks.strip():
        raise Bad(f"line {begin + 1}: the hunk changes nothing")
    return Hunk(start, tuple(sides[0]), tuple(sides[1]), marks.count(b"+"), marks.count(b"-")), at


def _head(line: bytes, at: int, before: list[Hunk]) -> tuple[int, tuple[int, int]]:
    """First line (0-based) and lengths, old and new; Bad where they do not follow from the hunks before."""
    found = HEAD.fullmatch(line)
    if not found:
        raise Bad(f"line {at + 1}: not of the form @@ -1,2 +1,3 @@")
    old, old_count, new, new_count = (int(part) if part is not None else 1 for part in found.groups())
    start, target = old - (old_count > 0), new - (new_count > 0)
    shift = sum(len(hunk.new) - len(hunk.old) for hunk in before)
    free = before[-1].start + len(before[-1].old) if before else 0
    if start < free or target != start + shift:
        raise Bad(f"line {at + 1}: the hunk's place does not follow from those before it")
    return start, (old_count, new_count)


def changed(old: bytes, change: Change) -> bytes:
    """The new content of a file; Bad where the old one is not what the patch says."""
    lines, made, at = LINE.findall(old), list[bytes](), 0
    for hunk in change.hunks:
        end = hunk.start + len(hunk.old)
        if end > len(lines) or tuple(lines[hunk.start : end]) != hunk.old:
            raise Bad(f"{change.path}: from line {hunk.start + 1} on it is not what the patch says")
        made += [*lines[at : hunk.start], *hunk.new]
        at = end
    made += lines[at:]
    if not all(line.endswith(b"\n") for line in made[:-1]):
        raise Bad(f"{change.path}: a last line without newline is not the last")
    return b"".join(made)


def apply(patches: Iterable[tuple[str, bytes]], folder: Path) -> None:
    """Apply patches (name, content) one after the other below a folder; nothing is written unless all of them fit."""
    pending: dict[str, bytes] = {}
    for name, data in patches:
        try:
            for change in parse(data):
                pending[change.path] = changed(_read(folder, change, pending), change)
        except Bad as bad:
            raise Bad(f"{name}: {bad}") from None
    for path, data in pending.items():
        _write(folder / path, data)


def _read(folder: Path, change: Change, pending: dict[str, bytes]) -> bytes:
    """What the file is so far: nothing where it is new, as an earlier patch leaves it, or as it is installed."""
    if change.path in pending and not change.creates:
        return pending[change.path]
    target = folder / change.path
    if any(path.is_symlink() for path in (target, *target.parents) if path.is_relative_to(folder) and path != folder):
        raise Bad(f"{change.path} is a link, or below one")
    if change.creates and (target.exists() or change.path in pending):
        raise Bad(f"{change.path} is there already")
    if not change.creates and not target.is_file():
        raise Bad(f"{change.path} is not installed")
    return b"" if change.creates else target.read_bytes()


def _write(target: Path, data: bytes) -> None:
    """Put a new file in the old one's place, since that may be a hard link, and drop what was compiled from the old one."""
    mode = target.stat().st_mode & 0o777 if target.exists() else 0o644
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.patched")
    beside.write_bytes(data)
    beside.chmod(mode)
    beside.replace(target)
    for compiled in (target.parent / "__pycache__").glob(f"{target.stem}.*.pyc"):
        compiled.unlink()


def main(argv: list[str]) -> int:
    """Apply every patch of a folder in the order of its names."""
    patches = [(path.name, path.read_bytes()) for path in sorted(Path(argv[0]).glob("*.patch"))]
    try:
        apply(patches, Path(argv[1] if len(argv) > 1 else sysconfig.get_path("purelib")))
    except (Bad, OSError) as fault:
        print(f"ERROR: patch does not apply: {fault}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
