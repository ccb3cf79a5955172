"""Three ways to write a checkpoint, behind one pair of functions: DeepSpeed's own, torch.distributed.checkpoint, and safetensors.

`save(engine, state, folder)` brings this rank's share to the disk and says what model and optimizer took; `load` brings all of it
back into the engine. Every rank calls both.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from .. import device
from . import direct, store, torchfiles
from .state import State, Tensors

STREAMS = 8
NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int64: "I64", torch.int32: "I32", torch.uint8: "U8"}
TAG = "state"
HOST = torch.device("cpu")
DEVICE_FAULT = getattr(torch, "AcceleratorError", torch.OutOfMemoryError)  # older torch has none of its own
SHARED = "mp_rank"  # begin of DeepSpeed's files that every rank of a replica reads: through the page cache the disk gives them once


@dataclass(slots=True)
class Parts:
    """What this rank wrote: nanoseconds and bytes of the model's share and of the optimizer's."""

    model_ns: int = 0
    optimizer_ns: int = 0
    model_bytes: int = 0
    optimizer_bytes: int = 0

    def add(self, part: str, begin_ns: int, size: int) -> None:
        """Count a piece of work that began at `begin_ns` of the monotonic clock and ends now."""
        setattr(self, f"{part}_ns", getattr(self, f"{part}_ns") + time.monotonic_ns() - begin_ns)
        setattr(self, f"{part}_bytes", getattr(self, f"{part}_bytes") + size)


@dataclass(frozen=True, slots=True)
class Format:
    """A way to write checkpoints; `load` is told whether to read past the page cache, where it can."""

    save: Callable[[Any, State, Path], Parts]
    load: Callable[[Any, State, Path, bool], None]


def _rank_and_size() -> tuple[int, int]:
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


# --- safetensors, written and read in blocks ---------------------------------------------------------------------------


def owners(tensors: Tensors, world_size: int) -> dict[str, int]:
    """Which rank writes which tensor of a shared model: the largest first, each to the rank with the least so far."""
    load, found = [0] * world_size, {}
    for name in sorted(tensors, key=lambda name: (-tensors[name].numel(), name)):
        found[name] = load.index(min(load))
        load[found[name]] += tensors[name].numel() * tensors[name].element_size()
    return found


def _share(state: State) -> Tensors:
    rank, world_size = _rank_and_size()
    if not state.shared:
        return state.model
    owner = owners(state.model, world_size)
    return {name: tensor for name, tensor in state.model.items() if owner[name] == rank}


def _header(tensors: Tensors) -> bytes:
    """Header of a safetensors file, padded so that the data begin at an aligned offset."""
    entries, end = {}, 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.numel() * tensor.element_size()
        entries[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % direct.ALIGN_BYTES)
    return len(text).to_bytes(8, "little") + text


def _bytes(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _file(folder: Path, part: str) -> Path:
    return folder / f"{part}-rank{_rank_and_size()[0]:05}.safetensors"


def _save_tensors(engine: Any, state: State, folder: Path) -> Parts:
    del engine
    parts = Parts()
    for part, tensors in (("model", _share(state)), ("optimizer", state.optimizer)):
        begin_ns = time.monotonic_ns()
        written = direct.write(_file(folder, part), [_bytes(_header(tensors)), *map(direct.flat, tensors.values())], STREAMS)
        parts.add(part, begin_ns, written)
    return parts


def _load_tensors(engine: Any, state: State, folder: Path, past_cache: bool) -> None:
    del engine
    for part, tensors in (("model", _share(state)), ("optimizer", state.optimizer)):
        path, header = _file(folder, part), _header(tensors)
        with path.open("rb") as file:
            if file.read(len(header)) != header:
                raise store.BadCheckpoint(
                    f"{folder.name}: shard {path.name} holds other tensors than this training; name its own checkpoint"
                )
        try:
            direct.read(path, [_bytes(header), *map(direct.flat, tensors.values())], STREAMS, direct=past_cache)
        except EOFError as error:
            raise store.BadCheckpoint(f"{folder.name}: shard {path.name} is torn: {error}; use an older one") from None
    world_size = _rank_and_size()[1]
    if state.shared and world_size > 1:
        for name, owner in owners(state.model, world_size).items():
            dist.broadcast(state.model[name], src=owner)


# --- torch.distributed.checkpoint --------------------------------------------------------------------------------------


def _named(state: State, part: str) -> Tensors:
    """Tensors under names that no other rank uses for something else."""
    tensors = getattr(state, part)
    if part == "model" and state.shared:
        return dict(tensors)
    rank = _rank_and_size()[0]
    return {f"rank{rank:05}.{name}": tensor for name, tensor in tensors.items()}


def _save_distributed(engine: Any, state: State, folder: Path) -> Parts:
    del engine
    import torch.distributed.checkpoint as dcp

    parts, rank = Parts(), _rank_and_size()[0]
    for part in ("model", "optimizer"):
        begin_ns = time.monotonic_ns()
        writer = dcp.FileSystemWriter(folder / part, thread_count=STREAMS, sync_files=True)
        dcp.save(_named(state, part), storage_writer=writer)
        if rank == 0:
            store.sync(folder / part / ".metadata")
        parts.add(part, begin_ns, sum(path.stat().st_size for path in (folder / part).glob(f"__{rank}_*.distcp")))
    return parts


def _load_distributed(engine: Any, state: State, folder: Path, past_cache: bool) -> None:
    del engine, past_cache
    import torch.distributed.checkpoint as dcp

    for part in ("model", "optimizer"):
        try:
            dcp.load(_named(state, part), storage_reader=dcp.FileSystemReader(folder / part))
        except dcp.api.CheckpointException as error:
            why = next(iter(error.failures.values()))[0]
            raise store.BadCheckpoint(f"{folder.name}/{part} cannot be read: {why}; use an older one") from None


# --- DeepSpeed's own ---------------------------------------------------------------------------------------------------


class _Files:
    """DeepSpeed's writer and reader of files, with ours in its place where torch lets us; a file's name tells model from optimizer."""

    def __init__(self, engine: Any, past_cache: bool) -> None:
        self._library, self._past_cache = engine.checkpoint_engine, past_cache
        self._device = engine.device
        self._ours = torchfiles.supported(engine.device)
        self.parts = Parts()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    def save(self, state_dict: Any, path: str) -> None:
        begin_ns = time.monotonic_ns()
        if self._ours:
            torchfiles.save(state_dict, Path(path), STREAMS)
        else:
            self._library.save(state_dict, path)
            store.sync(Path(path))
        self.parts.add("optimizer" if "optim_states" in Path(path).name else "model", begin_ns, Path(path).stat().st_size)

    def load(self, path: str, map_location: Any = None) -> Any:
        """On the device, where a second copy of the tensors has room there; else on the host, as DeepSpeed asks. It copies from either."""
        file = Path(path)
        past_cache = self._past_cache and not file.name.startswith(SHARED)
        try:
            if not self._ours:
                return self._library.load(path, map_location=map_location)
            with contextlib.suppress(torch.OutOfMemoryError):
                return torchfiles.load(file, STREAMS, past_cache=past_cache, device=self._device)
            return torchfiles.load(file, STREAMS, past_cache=past_cache, device=HOST)
        except (torchfiles.Damaged, *torchfiles.FAULTS) as error:
            raise torchfiles.Damaged(f"{file.name}: {error}") from None


@contextlib.contextmanager
def _our_files(engine: Any, *, past_cache: bool) -> Iterator[_Files]:
    library, files = engine.checkpoint_engine, _Files(engine, past_cache)
    engine.checkpoint_engine = files
    try:
        yield files
    finally:
        engine.checkpoint_engine = library


def _why(error: BaseException) -> str:
    """Two lines at most, since the first of torch's own ends with a colon."""
    return " ".join(line.strip() for line in str(error).splitlines()[:2]) or type(error).__name__


def _save_deepspeed(engine: Any, state: State, folder: Path) -> Parts:
    del state
    with _our_files(engine, past_cache=True) as files:
        engine.save_checkpoint(str(folder), tag=TAG, save_latest=False)
    return files.parts


def _load_deepspeed(engine: Any, state: State, folder: Path, past_cache: bool) -> None:
    del state
    try:
        with _our_files(engine, past_cache=past_cache):
            path, _ = engine.load_checkpoint(str(folder), tag=TAG)
    except (torchfiles.Damaged, RuntimeError, OSError) as error:
        if device.out_of_memory(error) or isinstance(error, DEVICE_FAULT):
            raise  # no other checkpoint would mend that
        raise store.BadCheckpoint(f"{folder.name} cannot be read: {_why(error)}; use an older one") from None
    except torchfiles.FAULTS as error:
        why = f"{type(error).__name__}: {_why(error)}"
        raise store.BadCheckpoint(f"{folder.name} is no checkpoint of this training: {why}; name its own") from None
    if path is None:
        raise store.BadCheckpoint(f"{folder.name} holds no checkpoint of DeepSpeed; use an older one")


FORMATS = {
    "deepspeed": Format(_save_deepspeed, _load_deepspeed),
    "distributed": Format(_save_distributed, _load_distributed),
    "safetensors": Format(_save_tensors, _load_tensors),
}
