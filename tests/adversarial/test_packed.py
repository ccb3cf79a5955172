"""Archives that come in from outside: one attack for each rule, and what an honest one gives."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kit.errors import KitError
from kit.pack import pack
from tests.adversarial import builder
from tests.adversarial.test_rules import ELSEWHERE
from verify import archive, cli
from verify.archive import END, member, padding, unpacked
from verify.findings import Refused, Unchecked

TOP = "tiny-cpu-20261124T000000Z-abcdef"
Files = dict[str, bytes]


def tar(files: Files, end: bytes = END) -> bytes:
    return b"".join(member(path, len(data)) + data + padding(len(data)) for path, data in files.items()) + end


def packed(data: bytes, window_log: int = 20) -> bytes:
    parameters = zstandard.ZstdCompressionParameters.from_level(1, write_checksum=True, window_log=window_log)
    writer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return writer.compress(data) + writer.flush()


def foreign(change: Callable[[tarfile.TarInfo], None], data: bytes = b"", kind: int = tarfile.USTAR_FORMAT) -> bytes:
    """An archive by Python's tarfile with one member that is changed."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind) as made:
        info = tarfile.TarInfo(f"{TOP}/SHA256SUMS")
        info.size = len(data)
        change(info)
        made.addfile(info, io.BytesIO(data))
    return packed(out.getvalue())


def typed(kind: bytes, link: str = "") -> bytes:
    return foreign(lambda info: (setattr(info, "type", kind), setattr(info, "linkname", link)))  # type: ignore[func-returns-value]


def named(*names: str) -> bytes:
    return packed(tar(dict.fromkeys(names, b"")))


def sized(size: int) -> bytes:
    return packed(member(f"{TOP}/a", size) + bytes(1024))


def changed_header(at: int, data: bytes) -> bytes:
    """A header that differs in one field and has the checksum for it."""
    made = bytearray(member(f"{TOP}/a", 0))
    made[at : at + len(data)] = data
    made[148:156] = b" " * 8
    made[148:156] = b"%06o\0 " % sum(made)
    return packed(bytes(made) + END)


HONEST = tar({f"{TOP}/a": b"x" * 700, f"{TOP}/b/c": b"y"})
LONG = f"{TOP}/" + "n" * 120
ATTACKS: dict[str, tuple[str, bytes]] = {
    "a symbolic link": ("type", typed(tarfile.SYMTYPE, "/etc/passwd")),
    "a hard link": ("type", typed(tarfile.LNKTYPE, f"{TOP}/b")),
    "a device": ("type", typed(tarfile.CHRTYPE)),
    "a fifo": ("type", typed(tarfile.FIFOTYPE)),
    "a folder": ("type", typed(tarfile.DIRTYPE)),
    "a sparse file": ("type", typed(tarfile.GNUTYPE_SPARSE)),
    "a long name by GNU": ("type", foreign(lambda info: setattr(info, "name", LONG), kind=tarfile.GNU_FORMAT)),
    "a type without a name": ("type", changed_header(156, b"\0")),
    "an absolute path": ("path", named("/etc/passwd")),
    "a path upwards": ("path", named(f"{TOP}/../x")),
    "a dot": ("path", named(f"{TOP}/./x")),
    "an empty step": ("path", named(f"{TOP}//x")),
    "a newline": ("path", named(f"{TOP}/a\nb")),
    "a file at the top": ("path", named("SHA256SUMS")),
    "too deep": ("path", named(f"{TOP}/" + "d/" * 17 + "x")),
    "bytes that are no ASCII": ("path", changed_header(len(TOP) + 1, b"\xff")),
    "two folders at the top": ("top", named("a/x", "b/x")),
    "nothing": ("top", packed(END)),
    "a path twice": ("order", packed(2 * member(f"{TOP}/a", 0) + END)),
    "another order": ("order", named(f"{TOP}/b", f"{TOP}/a")),
    "a file that is a folder, too": ("order", named(f"{TOP}/a", f"{TOP}/a/b")),
    "a twin by case": ("twin", named(f"{TOP}/A", f"{TOP}/a")),
    "a file larger than any": ("file_size", sized(2**33 - 1)),
    "a size as a binary number": ("header", changed_header(124, b"\x80" + bytes(10) + b"\x01")),
    "a size with a sign": ("header", changed_header(124, b"-0000000001\0")),
    "an owner": ("header", changed_header(108, b"0001750\0")),
    "a mode": ("header", changed_header(100, b"0004755\0")),
    "a time": ("header", changed_header(136, b"14772457600\0")),
    "a link's target in a file": ("header", changed_header(157, b"/etc/passwd")),
    "a prefix": ("header", changed_header(345, b"../..")),
    "another magic": ("header", changed_header(257, b"ustar  \0")),
    "a checksum": ("header", packed(member(f"{TOP}/a", 0).replace(b"ustar", b"ustaR") + END)),
    "an extended header with more": (
        "header",
        foreign(lambda info: info.pax_headers.update({"GNU.sparse.major": "1"}), kind=tarfile.PAX_FORMAT),
    ),
    "an extended header of a short path": (
        "header",
        packed(member(LONG, 0)[:1024].replace(b"n" * 120, b"n") + member(f"{TOP}/n", 0) + END),
    ),
    "two extended headers": ("header", packed(member(LONG, 0)[:1024] + member(LONG, 0) + END)),
    "an extended header of a megabyte": ("header", packed(archive._header(b"pax/path", 2**20, b"x") + bytes(2**20) + END)),
    "bytes in the padding": ("header", packed(HONEST.replace(b"x" * 700 + b"\0", b"x" * 700 + b"!"))),
    "one block of zeros": ("header", packed(HONEST[:-512] + b"x" * 512)),
    "bytes after the end": ("trailing", packed(HONEST + bytes(512))),
    "bytes after the frame": ("trailing", packed(HONEST) + b"x"),
    "a second frame": ("trailing", packed(HONEST) + packed(HONEST)),
    "a skippable frame": ("trailing", packed(HONEST) + b"\x50\x2a\x4d\x18\4\0\0\0abcd"),
    "a gigabyte of zeros after the end": ("trailing", packed(HONEST + bytes(2**28))),
    "a tar cut off": ("truncated", packed(HONEST[:600])),
    "no end of the tar": ("truncated", packed(HONEST[:-1024])),
    "a frame cut off": ("truncated", packed(HONEST)[:-3]),
    "an empty file": ("truncated", b""),
    "noise": ("zstd", random.Random(1).randbytes(4096)),
    "a tar that is not compressed": ("zstd", HONEST),
    "a byte changed": ("zstd", packed(HONEST)[:-1] + b"!"),
    "a window of 1 GiB": ("zstd", b"\x28\xb5\x2f\xfd\x04\xa0" + packed(HONEST)[6:]),
}


def refusal(path: Path) -> Refused:
    with pytest.raises(Refused) as caught, unpacked(path):
        pass
    return caught.value


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_is_refused_by_its_rule(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    rule, data = ATTACKS[name]
    path = tmp_path / f"{TOP}.tar.zst"
    path.write_bytes(data)
    if rule == "file_size":
        monkeypatch.setattr(archive, "MAX_FILE_BYTES", 2**32)
    assert refusal(path).finding.rule == f"archive.{rule}"
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("rule", "constant", "value"), [("count", "MAX_FILES", 1), ("total_size", "MAX_TOTAL_BYTES", 700), ("file_size", "MAX_FILE_BYTES", 699)]
)
def test_caps(rule: str, constant: str, value: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.tar.zst"
    path.write_bytes(packed(HONEST))
    monkeypatch.setattr(archive, constant, value)
    assert refusal(path).finding.rule == f"archive.{rule}"
    monkeypatch.setattr(archive, constant, value + 1)
    with unpacked(path) as run:
        assert (run / "b/c").read_bytes() == b"y"


def test_a_bomb_is_refused_before_it_fills_the_disk(tmp_path: Path) -> None:
    size = 2**28
    path = tmp_path / "x.tar.zst"
    path.write_bytes(packed(tar({f"{TOP}/a": bytes(size)})))
    assert path.stat().st_size < size / archive.MAX_RATIO
    assert refusal(path).finding.rule == "archive.ratio"


def test_a_disk_that_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.tar.zst"
    path.write_bytes(packed(HONEST))
    monkeypatch.setattr(archive, "SPACE_LEFT_BYTES", 2**62)
    with pytest.raises(Unchecked, match="no space to unpack"), unpacked(path):
        pass


def test_every_rule_of_archives_has_an_attack() -> None:
    named_here = {f"archive.{rule}" for rule, _ in ATTACKS.values()} | {"archive.count", "archive.total_size", "archive.ratio"}
    assert named_here == {rule for rule, module in ELSEWHERE.items() if module == "test_packed"}


def test_packed_twice_is_the_same_and_verifies(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    run = builder.build(tmp_path)
    first = pack(run).read_bytes()
    for path in run.rglob("*"):
        os.utime(path, (1, 1))
    assert pack(run, tmp_path / "again.tar.zst").read_bytes() == first
    assert cli.main([str(run.with_name(run.name + ".tar.zst")), "--policy", "self", "--json", "-"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["verdict"], document["findings"], document["run"]["run"]) == ("verified", [], run.name)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_refused_archive_is_a_refused_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"{TOP}.tar.zst"
    path.write_bytes(ATTACKS["a symbolic link"][1])
    assert cli.main([str(path), "--policy", "self", "--json", "-"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["verdict"], [finding["rule"] for finding in document["findings"]]) == ("refused", ["archive.type"])


def test_a_long_path_goes_through(tmp_path: Path) -> None:
    files = {f"{TOP}/" + "a" * 128 + "/" + "b" * 128: b"1", f"{TOP}/" + "a" * 128 + "/" + "c" * 90: b"2"}
    path = tmp_path / "x.tar.zst"
    path.write_bytes(packed(tar(files)))
    with unpacked(path) as run:
        assert {f"{TOP}/{found.relative_to(run)}": found.read_bytes() for found in run.rglob("*") if found.is_file()} == files


def test_tar_reads_what_kit_packs(tmp_path: Path) -> None:
    run = builder.build(tmp_path)
    long = run / "evidence/cases" / builder.PRETRAIN / "attempt-1" / ("n" * 120)
    long.write_bytes(b"x")
    plain = zstandard.ZstdDecompressor().decompressobj().decompress(pack(run).read_bytes())
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-xf", "-", "-C", str(tmp_path / "out")], input=plain, check=True)
    assert subprocess.run(["diff", "-r", str(run), str(tmp_path / "out" / run.name)], check=False).returncode == 0


def test_an_unsealed_run_is_not_packed(tmp_path: Path) -> None:
    run = builder.build(tmp_path)
    (run / "run.dsse.json").unlink()
    with pytest.raises(KitError, match=r"not sealed.*kit seal"):
        pack(run)
    assert list(tmp_path.glob("*.zst")) == []


def test_a_link_is_not_packed(tmp_path: Path) -> None:
    run = builder.build(tmp_path)
    (run / "evidence/link").symlink_to("plan.json")
    with pytest.raises(KitError, match=r"tree\.type"):
        pack(run)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32))
def test_damage_is_refused_or_unpacks_the_same(tmp_path: Path, seed: int) -> None:
    """Damage inside the frame, with a good checksum around it."""
    rng = random.Random(seed)
    data = bytearray(HONEST)
    for _ in range(rng.randrange(1, 3)):
        where = rng.randrange(len(data) - 600)
        data[where : where + rng.randrange(2)] = rng.choice([b"\0", b"/", b".", b"7", b"\xff", bytes([rng.randrange(256)])])
    path = tmp_path / "x.tar.zst"
    path.write_bytes(packed(bytes(data)))
    try:
        with unpacked(path) as run:
            assert tar({f"{run.name}/{p.relative_to(run)}": p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()}) == bytes(data)
    except Refused as bad:
        assert bad.finding.rule.startswith("archive.")
