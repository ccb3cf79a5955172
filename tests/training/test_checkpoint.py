"""Checkpoints as the worker writes them: what is saved comes back, and whatever happens to it is said by name."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402

from kit import archive  # noqa: E402
from kit.worker.checkpoint import direct, formats, state, storage, store, torchfiles  # noqa: E402
from tests.adversarial import checkpoints as built  # noqa: E402
from verify.score import evaluate  # noqa: E402

pytestmark = pytest.mark.torch
ALONE = ("distributed", "safetensors")  # need no engine


def made() -> state.State:
    """A small state; a tensor spans blocks, one is empty, one is a single number."""
    draw = torch.Generator().manual_seed(7)
    model = {"w": torch.randn(3, 5, generator=draw), "large": torch.randn(5_000_003, generator=draw), "none": torch.empty(0)}
    optimizer = {
        "0.master": torch.randn(7, generator=draw),
        "0.step": torch.tensor(3.0),
        "0.exp_avg": torch.randn(11, generator=draw).bfloat16(),
    }
    return state.State(model, optimizer, shared=True)


def saved(top: Path, step: int, name: str, own: state.State) -> Path:
    begun = store.begin(top, step)
    formats.FORMATS[name].save(None, own, begun)
    return store.commit(begun, step, {"format": name})


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("past_cache", [True, False])
def test_what_is_saved_comes_back(name: str, past_cache: bool, tmp_path: Path) -> None:
    own = made()
    before = state.digests(own.all)
    folder = saved(tmp_path, 2, name, own)
    state.wipe(own)
    assert state.digests(own.all) != before
    store.opened(folder)
    formats.FORMATS[name].load(None, own, folder, past_cache)
    store.compare(folder, before, state.digests(own.all))


def test_files_are_safetensors(tmp_path: Path) -> None:
    own = made()
    folder = saved(tmp_path, 2, "safetensors", own)
    found = load_file(folder / "model-rank00000.safetensors")
    assert found.keys() == own.model.keys()
    assert all(torch.equal(found[name], own.model[name]) for name in found)


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, direct.BLOCK_BYTES - 1, direct.BLOCK_BYTES, 2 * direct.BLOCK_BYTES + 5])
def test_bytes_of_any_number_are_moved(size: int, tmp_path: Path) -> None:
    parts = [torch.randint(0, 256, (count,), dtype=torch.uint8) for count in (size, 3)]
    assert direct.write(tmp_path / "f", parts, 3) == size + 3 == (tmp_path / "f").stat().st_size
    got = [torch.zeros_like(part) for part in parts]
    direct.read(tmp_path / "f", got, 3, direct=True)
    assert all(map(torch.equal, got, parts))


def test_bit_rot_is_told_by_the_tensor_s_name(tmp_path: Path) -> None:
    own = made()
    before = state.digests(own.all)
    folder = saved(tmp_path, 2, "safetensors", own)
    shard = folder / "model-rank00000.safetensors"
    data = bytearray(shard.read_bytes())
    data[-9] ^= 1
    shard.write_bytes(data)
    store.opened(folder)
    formats.FORMATS["safetensors"].load(None, own, folder, False)
    with pytest.raises(store.BadCheckpoint, match=r"step-00000002: tensor model.large is not the one that was saved; .* use an older one"):
        store.compare(folder, before, state.digests(own.all))


@pytest.mark.parametrize("name", ALONE)
def test_a_missing_and_a_torn_shard_are_told_by_name(name: str, tmp_path: Path) -> None:
    folder = saved(tmp_path, 2, name, made())
    shard = max((path for path in storage.files(folder) if path.name != store.MANIFEST), key=lambda path: path.stat().st_size)
    whole = shard.stat().st_size
    os.truncate(shard, 100)
    with pytest.raises(store.BadCheckpoint, match=f"shard .*{shard.name} is torn: 100 of {whole} bytes"):
        store.opened(folder)
    shard.unlink()
    with pytest.raises(store.BadCheckpoint, match=f"shard .*{shard.name} is missing"):
        store.opened(folder)


def test_a_save_that_was_cut_short_counts_for_nothing(tmp_path: Path) -> None:
    own = made()
    first = saved(tmp_path, 2, "safetensors", own)
    begun = store.begin(tmp_path, 4)
    (begun / "model-rank00000.safetensors").write_bytes(b"half")
    assert store.finished(tmp_path) == [first]
    with pytest.raises(store.BadCheckpoint, match="was never finished"):
        store.opened(begun)
    second = saved(tmp_path, 6, "safetensors", own)
    assert sorted(tmp_path.iterdir()) == [first, second]
    store.prune(tmp_path, 1)
    assert store.finished(tmp_path) == [second]


@pytest.fixture
def no_file_beyond() -> Iterator[object]:
    """A function that bounds the size of every file that this process writes: the nearest thing to a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size_bytes: resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path, no_file_beyond: object) -> None:
    own = made()
    first = saved(tmp_path, 2, "safetensors", own)
    no_file_beyond(2**20)  # type: ignore[operator]
    begun = store.begin(tmp_path, 4)
    with pytest.raises(OSError):
        formats.FORMATS["safetensors"].save(None, own, begun)
    store.give_up(begun)
    assert list(tmp_path.iterdir()) == [first]
    store.opened(first)


def test_shards_of_another_training_are_not_taken(tmp_path: Path) -> None:
    folder = saved(tmp_path, 2, "safetensors", made())
    other = made()
    other.optimizer["0.master"] = torch.zeros(8)
    with pytest.raises(store.BadCheckpoint, match="holds other tensors than this training"):
        formats.FORMATS["safetensors"].load(None, other, folder, False)


def test_the_page_cache_forgets_and_learns(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(os.urandom(2**20))
    store.sync(file)
    assert storage.warm([file]) == "read"
    assert storage.resident_bytes([file]) == 2**20
    assert storage.drop([file]) == "fadvise"
    kind = storage.facts(tmp_path)["file_system"]
    assert storage.resident_bytes([file]) == 0 or kind in {"tmpfs", "overlay"}


def test_a_worker_without_a_folder_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(store.FOLDER, raising=False)
    with pytest.raises(store.BadCheckpoint, match="no folder for checkpoints was given; start with --checkpoints DIR"):
        store.top()


def test_too_little_room_is_said(tmp_path: Path) -> None:
    with pytest.raises(store.BadCheckpoint, match=r"checkpoints need \d+ bytes, \d+ are free"):
        store.room(tmp_path, 2**60)


@pytest.mark.parametrize(("name", "stage"), [("deepspeed", 1), ("distributed", 1), ("safetensors", 3)])
def test_two_ranks_save_and_load(name: str, stage: int, tmp_path: Path) -> None:
    case = built.CASE | {"checkpoint_format": name, "zero_stage": stage, "rounds": 2}
    folder = tmp_path / "evidence/cases/checkpoint-x/attempt-1"
    folder.mkdir(parents=True)
    handed = {"case": case, "attempt": 1}
    (folder / "case.json").write_text(json.dumps(handed))
    kept = tmp_path / "kept"
    kept.mkdir()
    told = os.environ | {"CHIPASSAY_DEVICE": "cpu", "CHIPASSAY_COLLECTIVE": "gloo", store.FOLDER: str(kept)}
    command = [sys.executable, str(archive.build().path), str(folder / "case.json"), str(folder)]
    done = subprocess.run(command, check=False, env=told, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    plan = {"schemaVersion": 1, "name": "x", "title": {"en": "x", "zh": "x"}, "source": "x", "isolation": "preferred", "official": False,
            "allowed_patches": [], "cases": [case]}  # fmt: skip
    states = {"schemaVersion": 1, "cases": [{"id": case["id"], "suite": "checkpoint", "state": "done",
              "attempts": [{"attempt": 1, "state": "done", "reason": None}]}]}  # fmt: skip
    (tmp_path / "evidence/plan.json").write_text(json.dumps(plan))
    (tmp_path / "evidence/cases.json").write_text(json.dumps(states))
    [result] = evaluate(tmp_path / "evidence")
    assert [finding for finding in result.findings if finding.severity == "error"] == []
    assert result.metrics["save_total_s"].value > 0
    assert list(kept.iterdir()) == []


def pickled() -> dict[str, Any]:
    """What torch.save has to lay out: views of one storage, a parameter, an empty tensor twice, a number, other types, no tensor at all."""
    draw = torch.Generator().manual_seed(3)
    large, none = torch.randn(2_000_003, generator=draw), torch.empty(0)
    return {
        "large": large, "view": large[5:8], "again": [large, (none, none)], "step": torch.tensor(3), "word": "x", "parts": {0: None},
        "parameter": torch.nn.Parameter(torch.randn(3, generator=draw).bfloat16()), "odd": torch.arange(5, dtype=torch.uint8),
    }  # fmt: skip


def same(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(same(found[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list | tuple):
        return type(found) is type(wanted) and all(map(same, found, wanted))
    return torch.equal(found, wanted) and found.dtype == wanted.dtype if isinstance(wanted, torch.Tensor) else found == wanted


@pytest.mark.parametrize("past_cache", [True, False])
def test_a_file_of_ours_is_one_of_torch_save(past_cache: bool, tmp_path: Path) -> None:
    value = pickled()
    file, theirs = tmp_path / "ours.pt", tmp_path / "theirs.pt"
    with theirs.open("wb") as into:
        torch.save(value, into)
    assert torchfiles.save(value, file, 3) == file.stat().st_size == theirs.stat().st_size
    ours = torchfiles.load(file, 3, past_cache=past_cache, device=formats.HOST)
    for found in (ours, torch.load(file, weights_only=False), torchfiles.load(theirs, 3, past_cache=past_cache, device=formats.HOST)):
        assert same(found, value)
    assert ours["view"].data_ptr() == ours["large"][5:].data_ptr()
    differing = sum(a != b for a, b in zip(file.read_bytes(), theirs.read_bytes(), strict=True))
    assert differing <= 5 * 2 * 4 + 3 * 40  # CRC-32 of five tensors, two places each; the serial number, and its own CRC-32


class Lexical(torch._C.PyTorchFileWriter):  # type: ignore[misc, name-defined]
    """As older torch has it: tensors lie in the order of their numbers read as words, 10 before 2."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.waiting: dict[str, Any] = {}

    def write_record(self, name: str, data: Any, size: int) -> None:
        if name.startswith("data/"):
            self.waiting[name] = (super().write_record, name, data, size)
        else:
            super().write_record(name, data, size)

    def write_record_metadata(self, name: str, size: int) -> None:
        self.waiting[name] = (super().write_record_metadata, name, size)

    def write_end_of_file(self) -> None:
        for _, (write, *given) in sorted(self.waiting.items()):
            write(*given)
        super().write_end_of_file()


def test_a_torch_that_sorts_tensors_as_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of one size: nothing but their numbers tells them apart."""
    monkeypatch.setattr(torch._C, "PyTorchFileWriter", Lexical)
    value = {str(number): torch.full((3,), number) for number in range(12)}
    ours, theirs = tmp_path / "ours.pt", tmp_path / "theirs.pt"
    with theirs.open("wb") as into:
        torch.save(value, into)
    torchfiles.save(value, ours, 3)
    for file in (ours, theirs):
        assert file.read_bytes().index(b"data/10") < file.read_bytes().index(b"data/2")
        assert same(torch.load(file), value)
        assert same(torchfiles.load(file, 3, past_cache=False, device=formats.HOST), value)


def torn(data: bytearray) -> None:
    del data[-100:]


def changed(data: bytearray) -> None:
    data[data.index(b"\x80\x02")] = 0  # begin of the pickle


@pytest.mark.parametrize(("spoil", "said"), [(torn, "File is not a zip file"), (changed, "Bad CRC-32 for file 'archive/data.pkl'")])
@pytest.mark.parametrize("ours", [True, False])
def test_a_damaged_file_is_told_by_name(spoil: Any, said: str, ours: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restart takes an older checkpoint then: it must not end as a fault of the program does."""
    library = SimpleNamespace(load=lambda path, map_location: torch.load(path, weights_only=False))
    engine = SimpleNamespace(checkpoint_engine=library, device=formats.HOST)
    engine.load_checkpoint = lambda folder, tag: (engine.checkpoint_engine.load(f"{folder}/f.pt"), {})
    file = tmp_path / "f.pt"
    torchfiles.save(pickled(), file, 3)
    data = bytearray(file.read_bytes())
    spoil(data)
    file.write_bytes(data)
    monkeypatch.setattr(torchfiles, "supported", lambda _: ours)
    with pytest.raises(store.BadCheckpoint, match=f"cannot be read: f.pt: {said}; use an older one" if ours else "cannot be read: "):
        formats._load_deepspeed(engine, made(), tmp_path, False)


OTHERS = {
    KeyError("module"): "step-2 is no checkpoint of this training: KeyError: 'module'; name its own",
    RuntimeError("Error(s) in loading state_dict for Model:\n\tsize mismatch for w: 3 and 4.\n\tmore"): (
        "step-2 cannot be read: Error(s) in loading state_dict for Model: size mismatch for w: 3 and 4.; use an older one"
    ),
}


@pytest.mark.parametrize("error", OTHERS, ids=lambda error: type(error).__name__)
def test_what_deepspeed_makes_of_another_training_is_one_line(error: Exception, tmp_path: Path) -> None:
    def load_checkpoint(folder: str, tag: str) -> None:
        raise error

    engine = SimpleNamespace(checkpoint_engine=None, device=formats.HOST, load_checkpoint=load_checkpoint)
    with pytest.raises(store.BadCheckpoint) as caught:
        formats._load_deepspeed(engine, made(), tmp_path / "step-2", False)
    assert str(caught.value) == OTHERS[error]


FAILING = [torch.OutOfMemoryError("no room"), MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 8 bytes")]


@pytest.mark.parametrize("error", FAILING, ids=lambda error: type(error).__name__)
def test_a_machine_that_fails_is_no_bad_checkpoint(error: Exception, tmp_path: Path) -> None:
    def load_checkpoint(folder: str, tag: str) -> None:
        raise error

    engine = SimpleNamespace(checkpoint_engine=None, device=formats.HOST, load_checkpoint=load_checkpoint)
    with pytest.raises(type(error)) as caught:
        formats._load_deepspeed(engine, made(), tmp_path, False)
    assert caught.value is error


def test_a_device_without_room_for_a_second_copy_leaves_it_on_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small, asked, load = torch.device("cuda"), [], torchfiles.load
    engine = SimpleNamespace(checkpoint_engine=None, device=small)

    def full(path: Path, streams: int, *, past_cache: bool, device: torch.device) -> Any:
        asked.append(device.type)
        if device == small:
            raise torch.OutOfMemoryError
        return load(path, streams, past_cache=past_cache, device=device)

    monkeypatch.setattr(torchfiles, "supported", lambda _: True)
    monkeypatch.setattr(torchfiles, "load", full)
    with formats._our_files(engine, past_cache=False):
        engine.checkpoint_engine.save(pickled(), str(tmp_path / "f.pt"))
        assert same(engine.checkpoint_engine.load(str(tmp_path / "f.pt")), pickled())
    assert asked == ["cuda", "cpu"]


def test_a_torch_that_leaves_no_room_writes_its_files_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        def save(self, value: Any, path: str) -> None:
            torch.save(value, path)

        def load(self, path: str, map_location: Any = None) -> Any:
            return torch.load(path, map_location=map_location, weights_only=False)

    engine = SimpleNamespace(checkpoint_engine=Library(), device=torch.device("cpu"))
    assert torchfiles.supported(engine.device)
    monkeypatch.setattr(torch.serialization, "skip_data", contextlib.nullcontext)
    assert not torchfiles.supported(engine.device)
    with formats._our_files(engine, past_cache=True) as files:
        engine.checkpoint_engine.save(pickled(), str(tmp_path / "x_optim_states.pt"))
        assert same(engine.checkpoint_engine.load(str(tmp_path / "x_optim_states.pt")), pickled())
    assert isinstance(engine.checkpoint_engine, Library)
    assert files.parts.optimizer_bytes == (tmp_path / "x_optim_states.pt").stat().st_size


def test_raw_blocks_are_all_of_their_own(tmp_path: Path) -> None:
    """One block over and over came out of the processor's cache, and the disk looked faster than any checkpoint can be."""
    raw = storage.Raw(tmp_path, 8 * storage.BLOCK_BYTES, 4)
    raw.write()
    written = raw.path.read_bytes()
    blocks = {written[begin : begin + storage.BLOCK_BYTES] for begin in range(0, len(written), storage.BLOCK_BYTES)}
    assert len(blocks) == 8
    raw.read()
    raw.remove()
    assert not raw.path.exists()
