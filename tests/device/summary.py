"""A verdict in a few lines: `python3 tests/device/summary.py RESULT.json` prints rules of findings, then each case that ran with its metrics."""

from __future__ import annotations

import json
import sys


def main(path: str) -> int:
    """Verdict and rules on one line, each case on one more, as JSON; one line where there is no result. 0 if all that ran is done and verified."""
    try:
        with open(path, encoding="utf-8") as file:
            result = json.load(file)
    except (OSError, ValueError) as error:
        print(json.dumps({"no result": str(error)}))
        return 1
    ran = [case for case in result["cases"] if case["state"] != "not_run"]
    print(json.dumps({"verdict": result["verdict"], "rules": sorted({finding["rule"] for finding in result["findings"]})}))
    for case in ran:
        metrics = {name: metric["value"] for name, metric in case["metrics"].items()}
        print(json.dumps({"case": case["id"], "state": case["state"], "metrics": metrics}))
    return 0 if result["verdict"] == "verified" and ran and all(case["state"] == "done" for case in ran) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
