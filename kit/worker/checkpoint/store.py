"""A folder of checkpoints: written beside, brought to the disk, then renamed, so that the one before stays until the next is whole.

`checkpoint.json` names every file with its size and every tensor with its digest. What is missing, torn or changed is
said with its name.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist

MANIFEST = "checkpoint.json"
PREFIX, UNFINISHED = "step-", "unfinished-"
FOLDER = "CHIPASSAY_CHECKPOINTS"
Facts = dict[str, Any]


class BadCheckpoint(Exception):
    """A checkpoint, or a place for some, that cannot be used; one line with the next step."""


def top() -> Path:
    """The folder that this case was given."""
    given = os.environ.get(FOLDER)
    if not given:
        raise BadCheckpoint(f"no folder for checkpoints was given; start with --checkpoints DIR or set {FOLDER}")
    if not os.access(given, os.W_OK | os.X_OK):
        raise BadCheckpoint("the folder for checkpoints cannot be written; give it to the user of the worker, or name another")
    return Path(given)


def room(folder: Path, needed_bytes: int) -> None:
    """BadCheckpoint unless the file system has that many bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise BadCheckpoint(f"checkpoints need {needed_bytes} bytes, {free} are free; free space or name another folder with --checkpoints")


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def first_of_node() -> bool:
    """Whether this is the one rank of its node that looks after what the node shares."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def ranks_of_node() -> int:
    """How many ranks write and read on this node at a time."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


def begin(folder: Path, step: int) -> Path:
    """An empty folder beside the finished ones; called by every rank."""
    made = folder / f"{UNFINISHED}{step:08}"
    if rank() == 0:
        for old in folder.glob(f"{UNFINISHED}*"):
            shutil.rmtree(old)
        made.mkdir()
    barrier()
    return made


def sync(path: Path) -> None:
    """Bring one file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def commit(made: Path, step: int, facts: Facts) -> Path:
    """Name every file in the manifest, bring it and the folders to the disk, rename; called by every rank once it has written."""
    final = made.with_name(f"{PREFIX}{step:08}")
    barrier()
    if rank() == 0:
        files = {path.relative_to(made).as_posix(): path.stat().st_size for path in sorted(made.rglob("*")) if path.is_file()}
        _write(made / MANIFEST, json.dumps(facts | {"schemaVersion": 1, "step": step, "files": files}).encode())
        for folder in sorted((path for path in made.rglob("*") if path.is_dir()), reverse=True):
            sync(folder)
        sync(made)
        if final.exists():
            shutil.rmtree(final)
        made.rename(final)
        sync(made.parent)
    barrier()
    return final


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    sync(path)


def give_up(made: Path) -> None:
    """Take away what was begun: a full disk is full no longer, and the checkpoint before is as it was."""
    shutil.rmtree(made, ignore_errors=True)


def finished(folder: Path) -> list[Path]:
    """Finished checkpoints, the oldest first."""
    return sorted(folder.glob(f"{PREFIX}*"))


def prune(folder: Path, keep: int) -> None:
    """Remove all but the newest `keep`; called by every rank."""
    barrier()
    if rank() == 0:
        for old in finished(folder)[: -keep or None]:
            shutil.rmtree(old)
    barrier()


def opened(folder: Path) -> Facts:
    """The manifest of a checkpoint, once each of its files is there in full length; else BadCheckpoint."""
    try:
        facts: Facts = json.loads((folder / MANIFEST).read_bytes())
        files = dict(facts["files"])
    except (OSError, ValueError, KeyError, TypeError):
        raise BadCheckpoint(f"{folder.name} has no readable {MANIFEST}: it was never finished; use an older one") from None
    for name, size in files.items():
        path = folder / name
        if not path.is_file():
            raise BadCheckpoint(f"{folder.name}: shard {name} is missing; use an older one, or restore the file")
        if (found := path.stat().st_size) != size:
            raise BadCheckpoint(f"{folder.name}: shard {name} is torn: {found} of {size} bytes; use an older one")
    return facts


def compare(folder: Path, saved: dict[str, str], loaded: dict[str, str]) -> None:
    """BadCheckpoint with the first tensor that did not come back as it was saved."""
    for name in sorted(saved.keys() | loaded.keys()):
        if saved.get(name) != loaded.get(name):
            raise BadCheckpoint(f"{folder.name}: tensor {name} is not the one that was saved; the storage changed it, use an older one")
