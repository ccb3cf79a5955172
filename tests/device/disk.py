"""What the disk gives to ever more streams, and what stands between it and a file of torch.save: paces on one state, in turns.

    python -m tests.device.disk FOLDER [GB] [TURNS]

FOLDER lies on the disk to be measured. Each line is one figure: what was done, GB/s, seconds. Tensors lie on the device that torch calls cuda if there is one.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from kit.worker.checkpoint import storage, store, torchfiles

STREAMS = (8, 16, 32)


def main(folder: Path, gb: float, turns: int) -> None:
    here = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tensors = [torch.rand(int(gb * 1e9 / 12), device=here) for _ in range(3)]
    state = {"state": tensors}
    size = sum(tensor.nbytes for tensor in tensors)
    raw, ours, theirs = storage.Raw(folder, size, 8), folder / "ours.pt", folder / "theirs.pt"
    for turn in range(turns):
        for streams in STREAMS:
            raw.streams = streams
            _timed(f"raw write, {streams} streams", turn, raw.size_bytes, raw.write)
            storage.drop([raw.path])
            _timed(f"raw read, {streams} streams", turn, raw.size_bytes, raw.read)
        raw.remove()
        _timed("torch.save, on the disk", turn, size, lambda: _torch_save(state, theirs))
        storage.drop([theirs])
        _timed("torch.load, cold", turn, size, lambda: torch.load(theirs, map_location="cpu"))
        _timed("torch.load, warm", turn, size, lambda: torch.load(theirs, map_location="cpu"))
        theirs.unlink()
        _timed("torch.Tensor.cpu", turn, size, lambda: [tensor.cpu() for tensor in tensors])
        for streams in STREAMS:
            ours.unlink(missing_ok=True)
            _timed(f"ours, save, {streams} streams", turn, size, lambda streams=streams: torchfiles.save(state, ours, streams))
            for place in (torch.device("cpu"), here):
                _timed(
                    f"ours, load to {place.type}, {streams} streams",
                    turn,
                    size,
                    lambda streams=streams, place=place: _load(ours, streams, place),
                )
        ours.unlink()
        host = torch.rand(size // 4)
        _timed("from the host into the device", turn, size, lambda host=host: _into(host, here))
        del host


def _load(path: Path, streams: int, place: torch.device) -> None:
    torchfiles.load(path, streams, past_cache=True, device=place)
    if place.type == "cuda":
        torch.cuda.synchronize()


def _torch_save(state: object, path: Path) -> None:
    torch.save(state, path)
    store.sync(path)


def _into(host: torch.Tensor, here: torch.device) -> None:
    host.to(here)
    if here.type == "cuda":
        torch.cuda.synchronize()


def _timed(what: str, turn: int, size_bytes: int, act: Callable[[], object]) -> None:
    begin = time.monotonic()
    act()
    seconds = time.monotonic() - begin
    print(
        json.dumps({"what": what, "turn": turn, "gb_per_s": round(size_bytes / seconds / 1e9, 3), "seconds": round(seconds, 2)}), flush=True
    )


if __name__ == "__main__":
    if len(sys.argv) not in {2, 3, 4} or not Path(sys.argv[1]).is_dir():
        sys.exit("disk: name a folder that exists: python -m tests.device.disk FOLDER [GB] [TURNS]")
    main(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 6.4, int(sys.argv[3]) if len(sys.argv) > 3 else 2)
