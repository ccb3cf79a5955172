"""Prints the latents of a float32 text-to-image attempt as a [[reference]] of baselines/text_to_image.toml.

python -m tests.device.reference ATTEMPT_FOLDER NOTE
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from verify.metrics.text_to_image import key


def main(folder: Path, note: str) -> None:
    case = json.loads((folder / "case.json").read_bytes())["case"]
    assert case["dtype"] == "float32", "a reference is computed in float32"
    lines = [json.loads(line) for line in (folder / "events-00000.jsonl").read_bytes().splitlines()]
    [model] = [line for line in lines if line["e"] == "model"]
    print(f'\n[[reference]] # {note}\nkey = "{key(case, model["weights_sha256"])}"\ncase = "{case["id"]}"\n[reference.steps]')
    for line in lines:
        if line["e"] == "latents":
            print(f"{line['step']} = {json.dumps(line['values'])}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
