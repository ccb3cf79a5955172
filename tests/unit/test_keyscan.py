"""No private key leaves the machine in a sealed run."""

from __future__ import annotations

from pathlib import Path

import pytest

from kit import keys, keyscan
from kit.errors import KitError
from tests.adversarial import builder
from tests.adversarial.builder import TEXT, Bench

KINDS = (
    "PRIVATE KEY",
    "ENCRYPTED PRIVATE KEY",
    "EC PRIVATE KEY",
    "RSA PRIVATE KEY",
    "OPENSSH PRIVATE KEY",
    "ENCRYPTED SIGSTORE PRIVATE KEY",
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("before", [0, 10, keyscan.CHUNK_BYTES - 10, keyscan.CHUNK_BYTES - 1, keyscan.CHUNK_BYTES])
def test_a_key_is_found_wherever_it_lies(kind: str, before: int, tmp_path: Path) -> None:
    path = tmp_path / "stdout.log"
    path.write_bytes(b"x" * before + f"-----BEGIN {kind}-----\n".encode() + b"y" * 1000)
    assert list(keyscan.found(tmp_path)) == [path]


def test_public_keys_and_talk_of_keys_are_none(tmp_path: Path) -> None:
    made = keys.load(keys.generate(tmp_path / "own"))
    (tmp_path / "a").write_bytes(keys.public_pem(made))
    (tmp_path / "b").write_bytes(b"no PRIVATE KEY----- here; -----BEGIN CERTIFICATE-----")
    assert [path.name for path in keyscan.found(tmp_path)] == [keys.KEY_NAME]


def test_a_run_with_a_key_in_its_logs_is_not_sealed(tmp_path: Path) -> None:
    secret = keys.generate(tmp_path / "own").read_bytes()

    def leak(bench: Bench) -> None:
        bench.raw[f"{TEXT}/stderr.log"] = b"Traceback ...\n" + secret

    with pytest.raises(KitError, match="evidence holds a private key") as stop:
        builder.build(tmp_path, leak)
    assert stop.value.exit_code == 1
    assert not (tmp_path / builder.NAME / "run.dsse.json").exists()
