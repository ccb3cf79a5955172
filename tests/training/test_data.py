"""Data that suites train on: InternEvo's numbers, packs, instructions, pairs, corpora, and folders that are not as locked."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
np = pytest.importorskip("numpy")

from kit.worker import data  # noqa: E402
from kit.worker.data import instructions, internevo, pairs, tokens  # noqa: E402
from kit.worker.folders import LOCK, VARIABLE, BadData  # noqa: E402
from kit.worker.models.loss import IGNORED  # noqa: E402

pytestmark = pytest.mark.torch
BERT = {"architecture": "bert", "segments": 3}


def case(**changes: Any) -> dict[str, Any]:
    shape = {"architecture": "llama", "sequence_length": 64, "vocab_size": 256} | changes.pop("model", {})
    return {
        "suite": "pretrain",
        "data": "internevo-dummy",
        "packing": "mask",
        "micro_batch": 2,
        "seed": 7,
        "tokenizer": "bytes",
        "model": shape,
    } | changes


def locked(folder: Path, files: dict[str, bytes], **more: Any) -> None:
    """A folder of data with its lock."""
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    entries = {name: {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()} for name, content in files.items()}
    (folder / LOCK).write_text(json.dumps({"schemaVersion": 1, "files": entries} | more), encoding="utf-8")


# --- InternEvo -------------------------------------------------------------------------------------------------------


def test_the_dummy_dataset_is_internevos_number_by_number() -> None:
    """First values, mean length and tokens in all as the lab's framework has them (facts 1.1)."""
    periods, repeats = internevo.drawn(internevo.SAMPLES)
    assert periods[:5].tolist() == [4, 1, 1, 13, 12]
    assert repeats[:5].tolist() == [90, 47, 154, 156, 143]
    assert (periods.min(), periods.max(), repeats.min(), repeats.max()) == (1, 29, 10, 199)
    lengths = np.minimum(periods * repeats + 2, 2048)
    assert (round(lengths.mean(), 1), int(lengths.sum())) == (1212.5, 1_212_475_002)
    assert (lengths == 2048).mean() == pytest.approx(0.305, abs=0.001)
    made = internevo.Dummy(case(model={"sequence_length": 2048}))
    assert made.tokens_of(0)[:8].tolist() == [4, 90, 0, 1, 2, 3, 0, 1]
    assert made.tokens_of(1).tolist() == [1, 47] + [0] * 47


def naive(made: internevo.Dummy, samples: int) -> tuple[list[int], list[int]]:
    """The whole stream and its targets, put together the long way round."""
    order = np.arange(samples)
    np.random.RandomState(1024).shuffle(order)
    stream, targets = [], []
    for index in order:
        sample = made.tokens_of(int(index)).tolist()
        stream += sample
        targets += [*sample[1:], IGNORED]
    return stream, [target if target > 0 else IGNORED for target in targets]


@pytest.mark.parametrize("packing", ["mask", "varlen"])
def test_packs_are_cuts_of_one_stream(packing: str) -> None:
    made = internevo.Dummy(case(packing=packing), samples=50)
    stream, targets = naive(made, 50)
    packs = len(stream) // 128
    assert made.num_units == packs
    found = {}
    for place in range(packs):
        unit = made.unit(place, 0, data.Share(0, 1, 2, 2))
        found[int(made.units[place])] = unit
        assert (unit.tokens, unit.real_tokens) == (128, 128)
    for pack, unit in found.items():
        assert unit.batch["tokens"][0].tolist() == stream[pack * 128 : (pack + 1) * 128]
        assert unit.batch["labels"][0].tolist() == targets[pack * 128 : (pack + 1) * 128]
        assert unit.batch["positions"].max() < 64
        if packing == "varlen":
            bounds = unit.batch["bounds"]
            assert (len(bounds) % 64, bounds[0].item(), bounds[-1].item()) == (0, 0, 128)
            sizes = bounds.diff()[bounds.diff() > 0].tolist()
            assert torch.cat([torch.arange(size) for size in sizes]).tolist() == unit.batch["positions"][0].tolist()
        else:
            begins = unit.batch["documents"][0].diff().nonzero()[:, 0] + 1
            assert set(begins.tolist()) == set((unit.batch["positions"][0] == 0).nonzero()[1:, 0].tolist())


def test_rank_r_takes_every_wth_pack_and_the_union_stays() -> None:
    made = internevo.Dummy(case(), samples=200)

    def packs(world: int) -> list[list[int]]:
        shares = [data.Share(rank, world, 16, 2) for rank in range(world)]
        return [[hash(tuple(made.unit(1, n, share).batch["tokens"][0].tolist())) for n in range(share.num_units)] for share in shares]

    [alone], two = packs(1), packs(2)
    assert two == [alone[::2], alone[1::2]]


def test_rows_leave_out_the_first_token_and_pad() -> None:
    made = internevo.Dummy(case(packing="none"), samples=40)
    unit = made.unit(0, 0, data.Share(0, 1, 2, 2))
    first = made.tokens_of(int(made.order[int(made.units[0]) * 2]))[1:]
    assert unit.batch["tokens"].shape == (2, 64)
    assert unit.batch["tokens"][0, : len(first)].tolist() == first.tolist()
    assert unit.batch["labels"][0, len(first) - 1 :].eq(IGNORED).all()
    assert unit.real_tokens < unit.tokens == 128


# --- instructions ----------------------------------------------------------------------------------------------------


def test_instructions_one_a_row() -> None:
    asked = case(suite="finetuning", data="instructions.json", packing="none", model={"sequence_length": 384})
    source = data.source(asked)
    unit = source.unit(0, 0, data.Share(0, 1, 2, 2))
    text = bytes(token for token in unit.batch["tokens"][0].tolist() if token).decode()
    assert text.startswith("Below is an instruction")
    assert "### Response:\n" in text
    labels = unit.batch["labels"][0]
    assert labels[0] == unit.batch["tokens"][0, 1]
    assert (labels != IGNORED).sum() == len(text)
    assert unit.real_tokens < unit.tokens == 768
    rows = {tuple(source.unit(step, 0, data.Share(0, 1, 2, 2)).batch["tokens"][n].tolist()) for step in range(48) for n in range(2)}
    assert len(rows) == len({tuple(sample) for sample in source.samples})


def test_packed_instructions_teach_the_answer_only() -> None:
    asked = case(suite="finetuning", data="instructions.json", model={"sequence_length": 256})
    unit = data.source(asked).unit(0, 0, data.Share(0, 1, 2, 2))
    targets = unit.batch["labels"][unit.batch["labels"] != IGNORED]
    assert 0 < len(targets) < 0.2 * unit.tokens
    assert "Below is" in bytes(unit.batch["tokens"][0].tolist()).decode(errors="replace")
    assert b"Below" not in bytes(targets.tolist())


def test_instructions_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    row = {"instruction": "Say a.", "input": "", "output": "a"}
    locked(tmp_path / "own", {"a.json": json.dumps([row] * 3).encode()}, kind="instructions")
    assert data.source(case(suite="finetuning", data="own", packing="none")).tokens == 3 * 64
    locked(tmp_path / "bad", {"a.json": b'[{"instruction": 1}]'}, kind="instructions")
    with pytest.raises(BadData, match="sample 0: an object with texts instruction, input, output is wanted"):
        instructions.rows("bad")


# --- pairs -----------------------------------------------------------------------------------------------------------


def test_pairs_mask_fifteen_per_cent_by_eighty_ten_ten() -> None:
    source = pairs.Pairs(case(data="shakespeare.txt", model=BERT | {"sequence_length": 96}))
    masked = kept = random = words = follow = 0
    for step in range(60):
        unit = source.unit(step, 0, data.Share(0, 1, 8, 8))
        batch = unit.batch
        chosen = batch["labels"] != IGNORED
        words += int((batch["documents"] == 0).sum()) - 3 * 8
        masked += int((batch["tokens"][chosen] == 3).sum())
        kept += int((batch["tokens"][chosen] == batch["labels"][chosen]).sum())
        random += int(chosen.sum())
        follow += int(batch["follows"].sum())
        assert set(batch["segments"][batch["documents"] == 0].tolist()) == {1, 2}
        assert (batch["tokens"][:, 0] == 1).all()
        assert unit.real_tokens <= unit.tokens == 768
    assert random / words == pytest.approx(0.15, abs=0.01)
    assert masked / random == pytest.approx(0.8, abs=0.03)
    assert kept / random == pytest.approx(0.1, abs=0.03)
    assert follow / 480 == pytest.approx(0.5, abs=0.08)


def test_pairs_do_not_depend_on_ranks() -> None:
    source = pairs.Pairs(case(data="shakespeare.txt", model=BERT))
    whole = source.unit(2, 0, data.Share(0, 1, 4, 4)).batch["tokens"]
    halves = [source.unit(2, 0, data.Share(rank, 2, 4, 2)).batch["tokens"] for rank in range(2)]
    assert torch.equal(whole, torch.cat(halves))


# --- folders ---------------------------------------------------------------------------------------------------------


def test_tokens_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    locked(
        tmp_path / "corpus",
        {"a.bin": np.arange(200, dtype="<u2").tobytes(), "b.bin": np.zeros(100, dtype="<u2").tobytes()},
        kind="tokens",
        dtype="uint16",
    )
    source = data.source(case(data="corpus"))
    assert (source.tokens, source.num_windows) == (300, 4)
    with pytest.raises(BadData, match="has token 199, the model knows 100"):
        tokens.Tokens(case(data="corpus", model={"vocab_size": 100}))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: (folder / "a.bin").write_bytes(b"\1" * 400), "is not the locked one: SHA-256 .*; fetch it again"),
        (lambda folder: (folder / "a.bin").unlink(), "a.bin is missing; fetch it again"),
        (lambda folder: (folder / LOCK).write_text("[]"), "is no lock"),
        (lambda folder: (folder / LOCK).unlink(), "no data.lock.json in the folder of data 'corpus'"),
        (lambda folder: (folder / LOCK).write_text('{"kind": "pairs", "files": {}}'), "of kind pairs, the case needs tokens"),
    ],
)
def test_data_that_is_not_as_locked_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, said: str) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    locked(tmp_path / "corpus", {"a.bin": b"\0" * 400}, kind="tokens", dtype="uint16")
    change(tmp_path / "corpus")
    with pytest.raises(BadData, match=said):
        tokens.Tokens(case(data="corpus"))


def test_no_folder_of_data_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(BadData, match=f"no folder of data 'corpus' was given; set {VARIABLE}"):
        data.source(case(data="corpus"))
