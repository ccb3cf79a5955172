"""Keys: made once, mode 0600, never overwritten, refused when open to others."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from kit import keys
from kit.errors import KitError


def test_first_use_makes_a_private_key(home: Path) -> None:
    key = keys.load(None)
    path = home / "config/vendor.key.pem"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert keys.public_pem(keys.load(None)) == keys.public_pem(key) == (home / "config/vendor.pub.pem").read_bytes()


def test_key_is_never_overwritten(home: Path) -> None:
    keys.generate(home / "k")
    with pytest.raises(KitError, match="exists already"):
        keys.generate(home / "k")


def test_open_key_is_refused(home: Path) -> None:
    path = keys.generate(home / "k")
    path.chmod(0o644)
    with pytest.raises(KitError, match="mode 0644.*chmod 600"):
        keys.load(path)


@pytest.mark.parametrize("content", [b"", b"-----BEGIN X-----\n", b"\x00" * 64])
def test_broken_key_is_refused(home: Path, content: bytes) -> None:
    path = home / "broken.pem"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(KitError, match="not an unencrypted PKCS#8 PEM"):
        keys.load(path)


def test_missing_key_is_refused(home: Path) -> None:
    with pytest.raises(KitError, match="cannot be read"):
        keys.load(home / "none.pem")


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_file_in_place_of_the_folder_is_not_called_a_key(home: Path, below: str) -> None:
    (home / "notes.txt").write_text("mine")
    with pytest.raises(KitError, match=r"not a folder for keys .*notes\.txt.*name a folder") as caught:
        keys.generate(home / "notes.txt" / below)
    assert caught.value.exit_code == 2
    assert (home / "notes.txt").read_text() == "mine"
