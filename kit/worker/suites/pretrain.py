"""Pre-training of a whole model (report sections 2.1, 2.2(1), 3.1 and 3.2(1)): function and tokens per second and card.

A step is one optimizer step over `global_batch` sequences. It is timed from before its data is fetched to after the
device has finished the update; the loss is reduced over ranks outside of that time.
"""

from __future__ import annotations

from typing import Any

from .. import loop, models, training
from ..models import load
from ..record import Recorder

Case = dict[str, Any]


def run(case: Case, recorder: Recorder) -> None:
    """Train for warm-up and measured steps, recording each."""
    loop.run(case, recorder, prepare)


def prepare(case: Case, here: training.Place) -> tuple[Any, str | None]:
    """The case's model on this rank's device, with random weights from the seed or those of a file."""
    with here.device:
        model = models.build(case["model"], team=here.team, stage=here.stage)
    return model, load.load(model, case)
