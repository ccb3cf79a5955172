"""Golden files: help texts, nox's session list, the dry run. `pytest --update-golden` rewrites them; read the diff."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kit import plan
from tests.conftest import ROOT

HERE = Path(__file__).parent
COMMANDS = {
    "kit-help": ["kit", "--help"],
    "kit-run-help": ["kit", "run", "--help"],
    "kit-seal-help": ["kit", "seal", "--help"],
    "kit-pack-help": ["kit", "pack", "--help"],
    "kit-image-help": ["kit", "image", "--help"],
    "kit-doctor-help": ["kit", "doctor", "--help"],
    "kit-report-help": ["kit", "report", "--help"],
    "kit-trust-help": ["kit", "trust", "--help"],
    "kit-witness-help": ["kit", "witness", "--help"],
    "kit-baseline-help": ["kit", "baseline", "--help"],
    "kit-baseline-make-help": ["kit", "baseline", "make", "--help"],
    "kit-lab-help": ["kit", "lab", "--help"],
    "kit-lab-challenge-help": ["kit", "lab", "challenge", "--help"],
    "kit-lab-audit-help": ["kit", "lab", "audit", "--help"],
    "verify-help": ["verify", "--help"],
    "verify-audit-help": ["verify", "audit", "--help"],
    "verify-publication-help": ["verify", "publication", "--help"],
    "kit-dry-run": ["kit", "run", "--plan", "smoke", "--isolation", "container", "--dry-run"],
}


def call(*args: str, home: Path) -> subprocess.CompletedProcess[str]:
    env = {
        "PATH": os.environ["PATH"],
        "COLUMNS": "120",
        "NO_COLOR": "1",
        "CHIPASSAY_CACHE": str(home / "cache"),
        "CHIPASSAY_CONFIG": str(home / "config"),
        "LANG": "C.UTF-8",
    }
    return subprocess.run([sys.executable, "-m", *args], cwd=ROOT, env=env, text=True, capture_output=True, check=False, timeout=60)


@pytest.mark.parametrize("name", COMMANDS)
def test_golden(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    done = call(*COMMANDS[name], home=tmp_path)
    assert done.returncode == 0, done.stderr
    text = re.sub(r"(?<=chipassay/cpu:)[0-9a-f]{12}", "<recipe>", done.stdout.replace(str(tmp_path), "HOME"))
    text = re.sub(r"[0-9a-f]{64}(?=\.pyz)", "<sha256>", text.replace(str(ROOT), "CHECKOUT"))
    text = re.sub(r"(?<=--memory )[0-9]+", "<bytes>", re.sub(r"(?<=--user )[0-9]+:[0-9]+", "<uid:gid>", text))
    path = HERE / f"{name}.txt"
    if request.config.getoption("--update-golden"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_golden_list_of_sessions(request: pytest.FixtureRequest) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nox", "-l"],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "200", "NO_COLOR": "1"},
        text=True,
        capture_output=True,
        check=True,
    )
    text = re.sub(r"in \S+noxfile", "in noxfile", done.stdout)
    path = HERE / "nox-list.txt"
    if request.config.getoption("--update-golden"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_dry_run_as_json_lists_every_case(tmp_path: Path) -> None:
    done = call("kit", "run", "--dry-run", "--json", "--isolation", "none", home=tmp_path)
    rows = json.loads(done.stdout)["cases"]
    assert [row["section"] for row in rows] == [case["section"] for case in plan.load("smoke").cases]
    assert all(row["estimate_s"] is None and row["time_limit_s"] == 600 for row in rows)
    assert not (tmp_path / "config").exists()


BAD = {
    ("kit", "run", "--plan", "smoek"): (2, "unknown plan 'smoek'; did you mean 'smoke'?"),
    ("kit", "run", "--chip", "cpuu"): (2, "unknown chip 'cpuu'; one in a folder of your own needs --chips DIR; did you mean 'cpu'?"),
    ("kit", "run", "--suite", "pretrian"): (2, "unknown suite 'pretrian' (plan smoke); did you mean 'pretrain'?"),
    ("kit", "run", "--case", "pretrain-x"): (2, "no case fits 'pretrain-x'"),
    ("kit", "run", "--out", "/proc/nowhere"): (3, "output folder cannot be made (/proc/nowhere)"),
    ("kit", "run", "--resume", "docs"): (2, "not a run directory (docs)"),
    ("kit", "run", "--resume", "nowhere"): (2, "run directory does not exist (nowhere)"),
    ("kit", "run", "--isolation", "jail"): (2, "invalid choice: 'jail'"),
    ("kit", "run", "--cards", "0,x"): (2, "'0,x' is not a list of card numbers like 0,1"),
    ("kit", "run", "--cards", "3"): (2, "there is no card 3 (cpu): cards here: none"),
    ("kit", "run", "--launcher", "slurm"): (2, "--launcher only prints; add --dry-run"),
    ("kit", "run", "--chip", "ascend"): (3, "no accelerator of chip 'ascend' is here"),
    ("kit", "run", "--chips", "nowhere"): (2, "folder of chips does not exist (nowhere)"),
    ("kit", "seal", "docs"): (2, "not a run directory (docs)"),
    ("kit", "pack", "docs"): (2, "not a run directory (docs)"),
    ("kit", "report", "nothing.json"): (2, "result cannot be read (nothing.json)"),
    ("kit", "nonsense"): (2, "invalid choice: 'nonsense'"),
    ("verify", "docs"): (2, "not a run directory"),
    ("verify", "nowhere"): (2, ""),
    ("verify", "run.tar.zst"): (2, "packed run cannot be read (run.tar.zst)"),
}


@pytest.mark.parametrize("args", BAD, ids=" ".join)
def test_bad_input_is_one_line_and_a_code(args: tuple[str, ...], tmp_path: Path) -> None:
    code, said = BAD[args]
    done = call(*args, home=tmp_path)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_engine_that_does_not_answer(tmp_path: Path) -> None:
    env = os.environ | {"DOCKER_HOST": "unix:///nonexistent/engine.sock", "CHIPASSAY_CONFIG": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "kit", "run", "--isolation", "container", "--out", str(tmp_path / "o")],
        cwd=ROOT,
        env=env,
        text=True,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 3
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_official_plan_needs_a_container(tmp_path: Path) -> None:
    text = (ROOT / "manifests/plans/smoke.toml").read_text(encoding="utf-8")
    plan = tmp_path / "official.toml"
    plan.write_text(
        text.replace('isolation = "preferred"', 'isolation = "required"').replace("official = false", "official = true"),
        encoding="utf-8",
    )
    env = os.environ | {"DOCKER_HOST": "unix:///nonexistent/engine.sock", "CHIPASSAY_CONFIG": str(tmp_path)}
    for isolation in ("auto", "none"):
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "kit",
                "run",
                "--plan",
                str(plan),
                "--isolation",
                isolation,
                "--out",
                str(tmp_path / "o"),
            ],
            cwd=ROOT,
            env=env,
            text=True,
            capture_output=True,
            check=False,
            timeout=60,
        )
        assert (done.returncode, isolation) == ({"auto": 3, "none": 2}[isolation], isolation), done.stderr
        assert list((tmp_path / "o").glob("*")) == []


@pytest.mark.parametrize("program", ["kit", "verify"])
def test_a_python_without_the_packages_is_told_what_to_install(program: str) -> None:
    done = subprocess.run([sys.executable, "-S", "-m", program, "docs"], cwd=ROOT, text=True, capture_output=True, check=False)
    assert done.returncode == 3
    said = rf"{program}: package '\w+' is not installed; python3 -m pip install --require-hashes -r requirements/kit\.lock, in a venv, .*\n"
    assert re.fullmatch(said, done.stderr)
