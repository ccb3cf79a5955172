"""What DeepSpeed makes of a few cases, in a process of its own: its groups outlive no second start. Prints one JSON object.

python -m tests.training.offloaded FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from kit.worker import training
from kit.worker.suites import pretrain
from tests.training.test_suites import ran
from tests.training.test_training import case, trained

LAYOUTS = ((1, "optimizer"), (3, "all"))


def main(folder: Path) -> None:
    training.place()  # names rank and size of the group, as DeepSpeed asks for
    found: dict[str, Any] = {"plain": trained(case(dtype="bfloat16"), 3)[0]}
    for stage, offload in LAYOUTS:
        found[offload], engine = trained(case(dtype="bfloat16", engine="deepspeed", zero_stage=stage, offload=offload), 3)
        engine.close()
    try:
        ran(folder, pretrain, engine="deepspeed", dtype="float16")
    except Exception as error:
        found["float16"] = f"{type(error).__name__}: {error}"
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
