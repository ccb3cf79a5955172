"""The vendor's Ed25519 key: a PKCS#8 PEM file of mode 0600 under the user's configuration folder, never in the tree."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from kit.errors import KitError, unusable

KEY_NAME = "vendor.key.pem"
PUBLIC_NAME = "vendor.pub.pem"


def config_folder() -> Path:
    """$CHIPASSAY_CONFIG, else chipassay under $XDG_CONFIG_HOME or ~/.config."""
    if own := os.environ.get("CHIPASSAY_CONFIG"):
        return Path(own)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "chipassay"


def public_pem(key: Ed25519PrivateKey) -> bytes:
    """SPKI PEM of the public half, as openssl reads it."""
    return public_pem_of(key.public_key())


def public_pem_of(key: Ed25519PublicKey) -> bytes:
    """SPKI PEM of a public key."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def generate(folder: Path) -> Path:
    """Make a key pair in `folder`; an existing key is never overwritten."""
    path = write_private(folder / KEY_NAME)
    (folder / PUBLIC_NAME).write_bytes(public_pem(load(path)))
    return path


def write_private(path: Path) -> Path:
    """Write a new private key to `path`, mode 0600; an existing file is never overwritten."""
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    _make_folder(path.parent)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise KitError("a key exists already", where=str(path), next_step="choose another folder") from error
    except OSError as error:
        raise unusable("key cannot be written", error, str(path), "name another folder: python -m kit keygen DIR") from error
    with os.fdopen(handle, "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
    return path


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except (FileExistsError, NotADirectoryError) as error:
        raise KitError("not a folder for keys", where=str(folder), why="a file is in its way", next_step="name a folder") from error
    except OSError as error:
        raise unusable("key cannot be written", error, str(folder), "name another folder: python -m kit keygen DIR") from error


def load(path: Path | None) -> Ed25519PrivateKey:
    """The key at `path`, or the user's own, made on first use."""
    chosen = path or config_folder() / KEY_NAME
    if path is None and not chosen.exists():
        generate(chosen.parent)
    try:
        mode = stat.S_IMODE(chosen.stat().st_mode)
        data = chosen.read_bytes()
    except OSError as error:
        raise KitError("key cannot be read", where=str(chosen), why=error.strerror or "", next_step="python -m kit keygen DIR") from error
    key = _parse(data, chosen)
    if mode & 0o077:
        raise KitError(f"key file is open to others (mode {mode:04o})", where=str(chosen), next_step=f"chmod 600 {chosen}")
    return key


def _parse(data: bytes, path: Path) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError) as error:
        raise KitError("key is not an unencrypted PKCS#8 PEM", where=str(path), next_step="python -m kit keygen DIR") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KitError("key is not Ed25519", where=str(path), next_step="python -m kit keygen DIR")
    return key
