"""The training that is supervised: a model, its engine and data as every training suite has them, and checkpoints to come back from."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from .. import data, device, loop, rendezvous, training
from ..checkpoint import formats, state, store
from ..suites import pretrain
from . import loop as supervised

Case = dict[str, Any]
KEPT = 2


class Trainee:
    """One rank of it."""

    def __init__(self, case: Case) -> None:
        self.case, self.folder, self.here = case, store.top(), training.place()
        self.rank, self.ranks = self.here.rank, self.here.world_size
        training.seeded(case)
        model, _ = pretrain.prepare(case, self.here)
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        self.engine: Any = training.build(case, self.here, model)
        self.source = data.source(case)
        self.engine.module.train()
        self.share = data.Share(self.rank, self.ranks, case["global_batch"], case["micro_batch"])

    @property
    def format(self) -> formats.Format:
        return formats.FORMATS[self.case["checkpoint_format"]]

    def facts(self) -> list[tuple[str, dict[str, Any]]]:
        drawn = {"weights": "random", "weights_sha256": None, "seed": self.case["seed"], "dtype": self.case["dtype"]}
        text = {"source": self.case["data"], "sha256": self.source.sha256, "tokens": self.source.tokens}
        return [("environment", device.facts(self.here.device)), ("model", {"parameters": self.parameters, **drawn}), ("data", text)]

    def restore(self) -> int:
        """From the newest checkpoint that is whole; what is not is left aside. 0 where there is none."""
        found = [folder for folder in reversed(store.finished(self.folder)) if self._whole(folder)]
        if found:
            first = _step_of(found[0])
            self.engine.step(self._batches(first), first)  # makes the optimizer's states, which the load then fills
        for folder in found:
            try:
                self.format.load(self.engine.inner, state.of(self.engine.inner), folder, False)
            except store.BadCheckpoint as bad:
                print(f"stability: {bad}", file=sys.stderr, flush=True)
                continue
            return _step_of(folder)
        if found:
            raise store.BadCheckpoint("no checkpoint can be read; remove the folder to begin anew")
        return 0

    def _whole(self, folder: Path) -> bool:
        try:
            store.opened(folder)
        except store.BadCheckpoint as bad:
            print(f"stability: {bad}", file=sys.stderr, flush=True)
            return False
        return True

    def _batches(self, number: int) -> Any:
        units = (self.source.unit(step=number, number=index, share=self.share) for index in range(self.share.num_units))
        return ({name: loop._on(self.here, value) for name, value in unit.batch.items()} for unit in units)

    def step(self, number: int) -> float:
        with training.attention(self.case):
            done = self.engine.step(self._batches(number), number)
        return self.here.mean(done.loss)

    def agree(self, loss: float, *, stop: bool) -> tuple[float, bool]:
        both = torch.tensor([loss, float(stop and self.rank == 0)], device=self.here.device)
        if self.ranks > 1:
            torch.distributed.broadcast(both, src=0)
        return loss, bool(both[1].item())

    def save(self, next_step: int) -> None:
        device.synchronize(self.here.device)
        made = store.begin(self.folder, next_step)
        self.format.save(self.engine.inner, state.of(self.engine.inner), made)
        store.commit(made, next_step, {"format": self.case["checkpoint_format"], "ranks": self.ranks})
        store.prune(self.folder, KEPT)

    def meet(self) -> None:
        store.barrier()

    def is_device_error(self, error: BaseException) -> bool:
        return isinstance(error, getattr(torch, "AcceleratorError", ()))

    def is_out_of_memory(self, error: BaseException) -> bool:
        return device.out_of_memory(error)


def _step_of(folder: Path) -> int:
    return int(folder.name.removeprefix(store.PREFIX))


def main() -> None:
    """Entry of a rank: argument 1 is the case as JSON in a file."""
    case = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    rendezvous.face_the_others(case)
    supervised.run(Trainee, case, store.top())
