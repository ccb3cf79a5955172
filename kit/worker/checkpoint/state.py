"""Everything of a training that a checkpoint must bring back: parameters, master copies and optimizer states, by name."""

from __future__ import annotations

import ctypes
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from .direct import flat

HASHED_BYTES = 16 * 2**20
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class State:
    """Tensors of one rank; `shared` says that every rank holds the same model (below ZeRO stage 3)."""

    model: Tensors
    optimizer: Tensors
    shared: bool

    @property
    def all(self) -> Tensors:
        """Both, under names that tell them apart."""
        return {f"model.{name}": tensor for name, tensor in self.model.items()} | {
            f"optimizer.{name}": tensor for name, tensor in self.optimizer.items()
        }

    @property
    def size_bytes(self) -> int:
        return size_bytes(self.model) + size_bytes(self.optimizer)


def size_bytes(tensors: Tensors) -> int:
    """Bytes of all tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def of(engine: Any) -> State:
    """The tensors of a DeepSpeed engine as they are now; to be asked for anew after each load."""
    parameters: dict[str, Any] = dict(engine.module.named_parameters())
    model = {name: getattr(parameter, "ds_tensor", parameter).detach() for name, parameter in parameters.items()}
    whole = {name: parameter for name, parameter in parameters.items() if getattr(parameter, "ds_persist", False)}
    model |= {f"{name}.whole": parameter.detach() for name, parameter in whole.items()}  # small ones, that every rank of stage 3 keeps
    kept = engine.module.state_dict()
    model |= {name: buffer.detach() for name, buffer in engine.module.named_buffers() if name in kept}
    return State(model, _optimizer(engine), not any(hasattr(parameter, "ds_tensor") for parameter in parameters.values()))


def _optimizer(engine: Any) -> Tensors:
    """Master copies, with what the optimizer keeps of each; a parameter that is its own master is in the model."""
    base = getattr(engine.optimizer, "optimizer", engine.optimizer)
    own = {parameter.data_ptr() for parameter in engine.module.parameters()}
    found: Tensors = {}
    for index, (master, kept) in enumerate(base.state.items()):
        if master.data_ptr() not in own:
            found[f"{index}.master"] = master.detach()
        found |= {f"{index}.{name}": value for name, value in kept.items() if isinstance(value, torch.Tensor)}
    return found


def wipe(state: State) -> None:
    """Zeros everywhere: what is right afterwards came from the load."""
    with torch.no_grad():
        for tensor in state.all.values():
            tensor.zero_()


def digests(tensors: Tensors) -> dict[str, str]:
    """Hex SHA-256 by name, over the SHA-256 of each block of 16 MiB: blocks of all tensors are hashed beside each other."""
    blocks = {name: flat(tensor).split(HASHED_BYTES) if tensor.numel() else () for name, tensor in tensors.items()}
    with ThreadPoolExecutor(max(1, min(16, len(os.sched_getaffinity(0))))) as pool:
        hashed = {name: [pool.submit(_digest, block) for block in parts] for name, parts in blocks.items()}
        return {name: hashlib.sha256(b"".join(part.result() for part in parts)).hexdigest() for name, parts in hashed.items()}


def _digest(block: torch.Tensor) -> bytes:
    here = block.cpu()
    return hashlib.sha256((ctypes.c_char * here.numel()).from_address(here.data_ptr())).digest()
