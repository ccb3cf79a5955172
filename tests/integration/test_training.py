"""The tests of engines, models and data (tests/training) and of the supervisor (tests/stability), which need torch: run by the interpreter of the locked environment."""

from __future__ import annotations

import os
import subprocess
import sysconfig

from kit import chip, environments
from tests.conftest import ROOT


def test_training_in_the_locked_environment() -> None:
    made = environments.prepare(chip.load("cpu"), print)
    done = subprocess.run(
        [str(made.python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/training", "tests/stability"],
        check=False,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": sysconfig.get_paths()["purelib"], "CHIPASSAY_ALL_MUST_RUN": "1"},
        text=True,
        capture_output=True,
        timeout=1500,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
