"""Three verifiers that share no code see the same runs: verify, openssl with coreutils, and node. Where they differ, vector.toml says why."""

from __future__ import annotations

import json
import shutil
import subprocess
import tomllib
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.adversarial import make_vectors
from tests.adversarial.make_vectors import FOLDER, GOOD, NAME, VECTORS
from tests.conftest import ROOT
from tests.fuzz import damage
from verify import strict
from verify.findings import Refused
from verify.replay import replay

VERIFIERS = {"shell": ["sh", str(ROOT / "docs/check.sh")], "node": ["node", str(ROOT / "docs/check.mjs")]}
EXIT = {"accepted": 0, "refused": 1}
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
BAD = sorted(path for path in (FOLDER / "bad").iterdir())


def run(verifier: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*VERIFIERS[verifier], *map(str, arguments)], check=False, capture_output=True, text=True)


def said(vector: Path) -> dict[str, Any]:
    return tomllib.loads((vector / "vector.toml").read_text(encoding="utf-8"))


def test_vectors_come_out_again_byte_for_byte(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--update-golden"):
        make_vectors.main()
    make_vectors.write(tmp_path)
    made, kept = (
        {path.relative_to(top).as_posix(): path.read_bytes() for path in top.rglob("*") if path.is_file()} for top in (tmp_path, FOLDER)
    )
    assert sorted(made) == sorted(kept)
    assert [name for name in made if made[name] != kept[name]] == [], "made otherwise now: pytest --update-golden, then read the difference"


def test_no_private_key_is_shipped() -> None:
    assert all(b"PRIVATE" not in path.read_bytes() for path in FOLDER.rglob("*") if path.is_file())
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 2 * 2**20


@pytest.mark.parametrize("verifier", ["verify", "shell", pytest.param("node", marks=needs_node)])
def test_the_good_run_is_accepted_and_another_key_is_not(verifier: str, tmp_path: Path) -> None:
    good = FOLDER / GOOD / NAME
    if verifier == "verify":
        assert replay(good, "self").verdict == "verified"
        return
    assert run(verifier, good).returncode == 0
    other = tmp_path / "other.pem"
    other.write_bytes(Path(FOLDER / "bad/12-a-whole-run-under-a-key-of-low-order/files/evidence/signer.pub.pem").read_bytes())
    assert run(verifier, good, other).returncode == 1
    assert run(verifier, tmp_path / "nothing").returncode == 2


@pytest.mark.parametrize("vector", BAD, ids=lambda path: path.name)
def test_verify_refuses_by_the_named_rule(vector: Path, tmp_path: Path) -> None:
    outcome = replay(make_vectors.apply(vector, tmp_path), "self")
    assert outcome.verdict == said(vector)["verify"]["result"] == "refused"
    assert said(vector)["verify"]["rule"] in {finding.rule for finding in outcome.findings if finding.severity == "error"}


@pytest.mark.parametrize("verifier", ["shell", pytest.param("node", marks=needs_node)])
@pytest.mark.parametrize("vector", BAD, ids=lambda path: path.name)
def test_another_verifier_answers_as_declared(vector: Path, verifier: str, tmp_path: Path) -> None:
    declared = said(vector)[verifier]
    done = run(verifier, make_vectors.apply(vector, tmp_path))
    assert done.returncode == EXIT[declared["result"]], f"{declared}: {done.stdout}{done.stderr}"
    assert declared["result"] == "refused" or declared["why"]


def test_every_vector_is_made_and_every_made_vector_is_kept() -> None:
    assert [path.name for path in BAD] == sorted(vector.name for vector in VECTORS)


# --- strict JSON -----------------------------------------------------------------------------------------------------

DOCUMENTS = [
    b'{"a":1,"a":2}', b'{"a":1,"A":2}', b'{"a":{"b":1,"B":1}}', b"NaN", b"Infinity", b"-Infinity", b"[1,]", b"[,1]", b"{,}", b'{"a":1,}', b"", b" ", b"1 2",
    b"9007199254740993", b"9223372036854775807", b"9223372036854775808", b"-9223372036854775807", b"-9223372036854775808", b"1" * 20, b"1" * 21, b"-0", b"00",
    b"01", b"1.", b".5", b"1e5", b"1E+5", b"1e400", b"1e-400", b"1e-401", b"0e500", b"1.0e308", b"1.8e308", b"0." + b"0" * 70 + b"1", b"+1", b"0x10", b"1_0",
    b"\xef\xbb\xbf{}", b'"\xff"', b'"\xed\xa0\x80"', b'"\\ud800"', b'"\\ud83d\\ude00"', b'"\\ude00\\ud83d"', b'"\xf0\x9f\x98\x80"', b'"\x01"', b'"\x7f"', b'"\\x41"',
    b'"\\u00e9"', b'"\\/"', b'{"__proto__":1}', b'{"__proto__":1,"__PROTO__":2}', b'{"constructor":{"prototype":1}}', b'{"\\u0061":1,"a":2}', b"[" * 31 + b"1" + b"]" * 31,
    b"[" * 32 + b"1" + b"]" * 32, b"[" * 32 + b"]" * 32, b"[" * 33 + b"]" * 33, b"[" * 20000, b'{"a":' * 5000, b"\x0b1", b"\xc2\xa01", b"\t\r\n 1\n", b"nul", b"nulll", b"True",
    b"'a'", b"{a:1}", b"// x\n1", b'{"b":1,"a":{"d":[1.50,true,null],"c":"x"}}', b'{"\xc3\xa9":1,"\xc3\x89":2}', b'{"\xf0\x9f\x98\x80":1,"\xef\xbf\xbd":2}', b"\x00", b"{}\x00",
]  # fmt: skip


class Decimal(str):
    """A number with a fraction, kept as its text."""

    __slots__ = ()


def python_says(data: bytes) -> str:
    def text(number: str) -> Any:
        strict.nearest(number)
        return Decimal(number)

    try:
        return _written(strict.loads(data, real=text))
    except Refused:
        return "REFUSED"


def _written(value: Any) -> str:
    """Canonical JSON; numbers with a fraction as they stood."""
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{_written(key)}:{_written(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_written, value)) + "]"
    return json.dumps(value)


def node_says(documents: list[bytes], folder: Path) -> list[str]:
    for number, data in enumerate(documents):
        (folder / f"{number:05}").write_bytes(data)
    return run("node", "--json", *(folder / f"{number:05}" for number in range(len(documents)))).stdout.splitlines()


@needs_node
def test_strict_json_is_the_same_in_node(tmp_path: Path) -> None:
    rng = Random(20261124)
    samples = [(FOLDER / GOOD / NAME / "evidence" / name).read_bytes() for name in ("plan.json", "cases.json")]
    samples += [data for data in DOCUMENTS if 4 < len(data) < 300]
    damaged = [damage.any_of(rng, rng.choice(samples))[1] for _ in range(600)]
    documents = [*DOCUMENTS, *samples, *damaged]
    theirs = node_says(documents, tmp_path)
    assert len(theirs) == len(documents)
    ours = [python_says(data) for data in documents]
    assert [(data[:200], mine[:200], other[:200]) for data, mine, other in zip(documents, ours, theirs, strict=True) if mine != other] == []
    assert 50 < ours.count("REFUSED") < len(ours) - 50
