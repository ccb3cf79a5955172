"""Tests that need torch, run by the interpreter of the locked environment: engines, models, data, supervisor; the taught pipelines."""

from __future__ import annotations

import os
import subprocess
import sysconfig

import pytest

from kit import chip, environments
from tests.conftest import ROOT


@pytest.mark.parametrize("folders", [("tests/training", "tests/stability"), ("tests/taught", "tests/taught_text")], ids="+".join)
def test_in_the_locked_environment(folders: tuple[str, ...]) -> None:
    made = environments.prepare(chip.load("cpu"), print)
    done = subprocess.run(
        [str(made.python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *folders],
        check=False,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": sysconfig.get_paths()["purelib"], "CHIPASSAY_ALL_MUST_RUN": "1"},
        text=True,
        capture_output=True,
        timeout=7200,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
