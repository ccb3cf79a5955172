"""The slot for a time proof by somebody else: a file beside the receipt, bound by its digest, and what it must speak of.

What a token's own signature is worth, `openssl ts -verify` says, with the certificates of whoever issued it (docs/audit.md).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from verify.files import Evidence
from verify.findings import Finding, error

FILE = "receipt.proof"
MAX_BYTES = 2**20
RFC3161 = "rfc3161"
IMPRINT = bytes.fromhex("0609608648016503040201")  # DER of the object identifier of SHA-256, 2.16.840.1.101.3.4.2.1


def speaks_of(token: bytes, sealed: bytes) -> bool:
    """Whether an RFC 3161 response or token has the SHA-256 of these bytes as its messageImprint (section 2.4.2)."""
    digest = b"\x04\x20" + hashlib.sha256(sealed).digest()
    return any(IMPRINT + middle + digest in token for middle in (b"", b"\x05\x00"))


def faults(folder: Path, receipt: dict[str, Any], sealed: bytes) -> Iterator[Finding]:
    """The proof that the receipt names lies beside it, and nothing lies there that it does not name."""
    named, there = receipt["proof"], (folder / FILE).exists()
    if (named is not None) != there:
        yield error("receipt.proof", FILE, "a proof where the receipt names one", "a file" if there else "no file")
    if named is None or not there:
        return
    data = Evidence(folder).read(FILE, MAX_BYTES)
    if (found := hashlib.sha256(data).hexdigest()) != named["sha256"]:
        yield error("receipt.proof", FILE, named["sha256"], found)
    elif named["type"] == RFC3161 and not speaks_of(data, sealed):
        yield error("receipt.proof", FILE, f"a token on run.dsse.json, {hashlib.sha256(sealed).hexdigest()}", "a token on something else")
