"""The witness: consistency proofs as the RFC has them, cosignatures as C2SP has them, no rollback, no fork, no second key."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from kit import outbox
from kit.errors import KitError
from kit.keys import public_pem
from kit.outbox import Outbox
from kit.record import RunLog
from kit.witness import Witness
from verify import cosign, notes
from verify.findings import Refused
from verify.merkle import Frontier, consistency_proof, consistent, leaf_hash, root_of

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
WITNESS = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
CT_LEAVES = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]


def test_every_consistency_proof_of_every_tree_to_seventy() -> None:
    """2,485 proofs hold; with one node changed, dropped or added, or for another size, none does."""
    leaves = [bytes([number]) for number in range(70)]
    hashes = [leaf_hash(leaf) for leaf in leaves]
    roots = [root_of(leaves[:size]) for size in range(71)]
    for new in range(1, 71):
        for old in range(1, new + 1):
            proof = consistency_proof(hashes[:new], old)
            assert consistent((old, roots[old]), (new, roots[new]), proof)
            if old < new:
                assert not consistent((old, roots[old - 1]), (new, roots[new]), proof)
                assert not consistent((old, roots[old]), (new, roots[old]), proof)
                assert not consistent((old, roots[old]), (new, roots[new]), [*proof, roots[0]])
                assert not consistent((old, roots[old]), (new, roots[new]), proof[:-1])
                assert not consistent((new, roots[new]), (old, roots[old]), proof)


def test_consistency_proofs_of_the_certificate_transparency_vectors() -> None:
    """From the tests of the reference implementation: trees of 8 leaves, old sizes 1 and 6."""
    hashes = [leaf_hash(bytes.fromhex(text)) for text in CT_LEAVES]
    assert [node.hex() for node in consistency_proof(hashes, 1)] == [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ]
    assert [node.hex() for node in consistency_proof(hashes, 6)] == [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]


@given(st.lists(st.binary(max_size=4), min_size=2, max_size=40), st.data())
def test_a_changed_leaf_below_the_old_size_is_never_consistent(leaves: list[bytes], data: Any) -> None:
    old = data.draw(st.integers(1, len(leaves) - 1))
    changed = data.draw(st.integers(0, old - 1))
    forged = [*leaves[:changed], leaves[changed] + b"x", *leaves[changed + 1 :]]
    proof = consistency_proof([leaf_hash(leaf) for leaf in forged], old)
    assert not consistent((old, root_of(leaves[:old])), (len(forged), root_of(forged)), proof)


def test_the_example_of_c2sp_is_read() -> None:
    """Its witness line holds the time 1679315147; that of its text spans two lines there, and is one here."""
    text = (
        "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
        "— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
        "— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n\n"
    )
    (found,) = cosign.split(text.encode())
    assert found.note.size == 20852163
    assert [(by.name, by.time_s) for by in found.cosignatures] == [("witness.example.com/w1", 1679315147)]


@given(st.binary(max_size=300))
def test_cosigned_notes_are_read_or_refused(data: bytes) -> None:
    try:
        found = cosign.split(data)
    except Refused as bad:
        assert bad.finding.rule == "witness.form"
    else:
        assert found == []
        assert data == b""


class Place:
    """A run whose log is handed to a witness by a folder."""

    def __init__(self, top: Path, name: str = "run") -> None:
        self.top, self.run, self.share = top, top / name, top / "share"
        self.run.mkdir()
        self.share.mkdir(exist_ok=True)
        self.said: list[str] = []
        self.log = RunLog(self.run, KEY, Outbox(self.share, self.run, public_pem(KEY), self.said.append))
        self.witness = Witness(WITNESS, top / "state", "witness.example/w1")

    def grow(self, count: int = 3) -> None:
        for _ in range(count):
            self.log.append("file", path="x", size_bytes=0, sha256="0" * 64)
        self.log.checkpoint()

    def serve(self) -> tuple[int, list[str]]:
        return self.witness.serve(self.share)

    @property
    def answer(self) -> Path:
        return self.share / self.run.name / outbox.ANSWER


def test_each_checkpoint_is_cosigned_as_a_continuation(tmp_path: Path) -> None:
    place = Place(tmp_path)
    for round_number in range(1, 6):
        place.grow(round_number)
        assert place.serve() == (1, [])
        assert place.serve() == (0, [])
    place.grow()
    found = cosign.split((place.run / "runlog/cosignatures.txt").read_bytes())
    assert [item.note.size for item in found] == [1, 3, 6, 10, 15]
    for item in found:
        (by,) = item.cosignatures
        assert by.by(WITNESS.public_key())
        assert by.holds(WITNESS.public_key(), item.body)
        assert not by.holds(KEY.public_key(), item.body)
        notes.verify(item.note, KEY.public_key())
    assert place.said == []


def test_beats_that_the_witness_missed_cost_nothing_but_window(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.grow()
    place.serve()
    for _ in range(4):
        place.grow(5)
    assert place.serve() == (1, [])
    assert outbox.last_size(outbox.answer(place.answer.parent)) == 23


def forged(place: Place, entries: int) -> None:
    """Start the log afresh with as many other entries, as somebody who holds key and disk may."""
    place.log.close()
    shutil.rmtree(place.run / "runlog")
    place.log = RunLog(place.run, KEY, Outbox(place.share, place.run, public_pem(KEY), place.said.append))
    for _ in range(entries):
        place.log.append("file", path="forged", size_bytes=0, sha256="1" * 64)
    place.log.checkpoint()


@pytest.mark.parametrize(("entries", "why"), [(5, "rollback"), (10, "fork: size 10"), (17, "fork: size 17 does not continue")])
def test_rollback_and_fork_are_refused_and_kept(entries: int, why: str, tmp_path: Path) -> None:
    """Attacks 26 and 29: the log rewritten while the run goes on; checkpoints deleted with it."""
    place = Place(tmp_path)
    place.grow(10)
    place.serve()
    before = place.answer.read_bytes()
    forged(place, entries)
    done, (refused,) = place.serve()
    assert (done, why in refused) == (0, True), refused
    assert place.answer.read_bytes() == before
    (kept,) = (tmp_path / "state").glob("refused-*.txt")
    assert f"\n{entries}\n".encode() in kept.read_bytes()


def test_a_forger_who_deletes_the_answer_is_refused_as_well(tmp_path: Path) -> None:
    """Old size 0 again: the witness gives its last cosignature once more, and signs nothing."""
    place = Place(tmp_path)
    place.grow(10)
    place.serve()
    place.answer.unlink()
    forged(place, 20)
    assert place.serve() == (0, [])
    place.log.append("file", path="forged", size_bytes=0, sha256="1" * 64)
    place.log.checkpoint()
    done, (refused,) = place.serve()
    assert (done, "does not continue" in refused) == (0, True)


def test_another_key_with_another_history_is_refused(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.grow()
    place.serve()
    shutil.rmtree(place.run)
    shutil.rmtree(place.share)
    place.run.mkdir()
    place.share.mkdir()
    other = Ed25519PrivateKey.generate()
    log = RunLog(place.run, other, Outbox(place.share, place.run, public_pem(other), place.said.append))
    log.append("file", path="x", size_bytes=0, sha256="0" * 64)
    log.checkpoint()
    done, (refused,) = place.serve()
    assert (done, "rollback" in refused) == (0, True)


@pytest.mark.parametrize("change", [b"", b"old 0\n\n", b"\xff", b"old x\n\nnote"])
def test_what_is_no_request_is_refused(change: bytes, tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.grow()
    (place.share / "run" / outbox.REQUEST).write_bytes(change)
    done, (refused,) = place.serve()
    assert (done, "no add-checkpoint request" in refused) == (0, True)


def test_a_checkpoint_by_nobody_is_refused(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.grow()
    path = place.share / "run" / outbox.REQUEST
    text = path.read_text(encoding="utf-8")
    signature = text.rstrip("\n").rsplit(" ", 1)[1]
    blob = bytearray(base64.b64decode(signature))
    blob[10] ^= 1
    path.write_text(text.replace(signature, base64.b64encode(blob).decode()), encoding="utf-8")
    assert place.serve()[0] == 0


def test_a_torn_answer_is_mended(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.grow()
    place.serve()
    whole = place.answer.read_bytes()
    place.answer.write_bytes(whole + whole[: len(whole) // 2])
    place.grow()
    assert place.serve() == (1, [])
    assert [item.note.size for item in cosign.split(place.answer.read_bytes())] == [3, 6]


def test_a_folder_that_is_gone_does_not_stop_the_run(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.share.rmdir()
    place.share.write_text("not a folder")
    place.grow()
    place.grow()
    assert len(place.said) == 1
    assert place.said[0].endswith(" cannot be used: Not a directory; the run goes on unwitnessed")
    place.share.unlink()
    place.grow()
    assert place.serve() == (1, [])


def test_two_runs_have_two_memories(tmp_path: Path) -> None:
    first, second = Place(tmp_path, "one"), Place(tmp_path, "two")
    first.grow(4)
    second.grow(2)
    assert first.serve() == (2, [])


def test_a_broken_memory_is_said(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.grow()
    place.serve()
    (state,) = (tmp_path / "state").glob("*.json")
    state.write_text("{}")
    place.grow()
    with pytest.raises(KitError, match="state of the witness cannot be read"):
        place.serve()


def test_a_tree_of_hashes_is_the_tree_of_its_leaves() -> None:
    tree = Frontier()
    for text in CT_LEAVES:
        tree.add_hash(leaf_hash(bytes.fromhex(text)))
    assert tree.root() == root_of(bytes.fromhex(text) for text in CT_LEAVES)
