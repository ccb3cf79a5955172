"""Steps of several cases by one rank: `torchrun -m tests.training.ranks CASES.json FOLDER`, or `steps` within a test."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from kit.worker import data, training
from kit.worker.models.tensor import whole_size
from kit.worker.suites import pretrain

STEPS = 4
Case = dict[str, Any]


def steps(case: Case, here: training.Place) -> dict[str, Any]:
    """Mean losses over ranks and norms of the gradients, the loss on held-out data, and how many parameters there are."""
    training.seeded(case)
    model, _ = pretrain.prepare(case, here)
    engine = training.build(case, here, model)
    source = data.source(case)
    share = data.Share(here.data_rank, here.data_ranks, case["global_batch"], case["micro_batch"])
    losses, norms = [], []
    with training.attention(case):
        for number in range(STEPS):
            done = engine.step([source.unit(number, index, share).batch for index in range(share.num_units)], number)
            losses.append(here.mean(done.loss))
            norms.append(float(done.grad_norm))
        with torch.no_grad():
            held = None if here.stage else here.mean(engine.module.eval()(**source.unit(-1, 0, share).batch))
    return {
        "losses": losses,
        "norms": norms,
        "held_out": held,
        "parameters": here.over_stages(sum(map(whole_size, model.parameters()))),
        "held": sum(parameter.numel() for parameter in model.parameters()),
    }


def main() -> None:
    """Every case, each with its own layout, in one process group."""
    cases, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    found = []
    for case in cases:
        here = training.place(case.get("tensor_parallel", 1), case.get("pipeline_parallel", 1))
        found.append(steps(case, here))
    (folder / f"rank-{here.rank}.json").write_text(json.dumps(found))
    training.end()


if __name__ == "__main__":
    main()
