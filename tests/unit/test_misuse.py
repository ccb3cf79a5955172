"""What people get wrong on a command line: one line with what, where, why and the next step, a code, and nothing left behind."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import kit.cli
import verify.cli
from tests.adversarial import builder, trust
from tests.conftest import ROOT

MAIN = {"kit": kit.cli.main, "verify": verify.cli.main}
Said = tuple[int, str]


@pytest.fixture
def place(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in: a sealed run RUN, a policy, wrong files; returns what may be looked over for leftovers."""
    top = home / "place"
    top.mkdir()
    builder.build(top).rename(top / "RUN")
    trust.write(top / "trust", trust.seal(trust.document()))
    (top / "folder").mkdir()
    (top / "empty").touch()
    (top / "text").write_text("# README\n", encoding="utf-8")
    (top / "list.json").write_text("[]", encoding="utf-8")
    monkeypatch.chdir(top)
    return top


def everything(top: Path) -> dict[str, bytes]:
    return {str(path.relative_to(top)): path.read_bytes() if path.is_file() else b"" for path in top.rglob("*")}


VERIFY: dict[str, Said] = {
    "verify RUN --policy text": (2, "not a policy (text): expected one JSON document"),
    "verify RUN --policy list.json": (2, "not a policy (list.json)"),
    "verify RUN --policy nowhere": (2, "policy cannot be read (nowhere): no such file"),
    "verify RUN --policy folder": (2, "no trust policy in this folder (folder)"),
    "verify RUN --policy RUN/run.dsse.json": (1, "policy.type"),
    "verify RUN --policy self --against nope": (2, "unknown profile or baseline 'nope'"),
    "verify RUN --policy self --rows nope": (2, "unknown table 'nope'"),
    "verify RUN --policy self --witness text": (2, "--witness holds no cosigned checkpoints (text)"),
    "verify RUN --policy self --witness empty": (2, "--witness holds no cosigned checkpoints (empty): it is empty"),
    "verify RUN --policy self --witness nowhere": (2, "--witness cannot be read (nowhere)"),
    "verify RUN --policy self --seen folder": (2, "index of seen runs is no file (folder)"),
    "verify RUN --policy self --seen /dev/full": (2, "index of seen runs is no file"),
    "verify RUN --policy self --json folder": (2, "--json names a folder (folder)"),
    "verify RUN --policy self --json RUN/x": (2, "--json would write into the sealed run"),
    "verify RUN --policy self --json nowhere/x": (2, "folder of --json does not exist (nowhere/x)"),
    "verify RUN --policy self --json /dev/full": (2, "--json cannot be written (/dev/full): No space left on device"),
    "verify audit RUN folder --policy text": (2, "not a policy (text)"),
    "verify audit RUN folder --policy self --json RUN/x": (2, "--json would write into the sealed run"),
    "verify audit RUN folder --policy self --json folder/x": (2, "--json would write into the sealed run"),
    "verify publication RUN --policy self": (2, "a run, and no published result (RUN); python -m verify RUN"),
    "verify publication folder --policy text": (2, "not a policy (text)"),
    "verify publication folder --policy self --json folder/x": (2, "--json would write into the sealed run"),
    "verify publication folder --policy self --status text": (2, "not a status list (text)"),
    "verify publication folder --policy self --status nowhere": (2, "status list cannot be read (nowhere): no such file"),
}


def misused(command: str, expected: Said, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program, *argv = command.split()
    before = everything(place)
    code, said = MAIN[program](argv), capsys.readouterr().err
    assert (code, expected[1] in said) == (expected[0], True), said
    assert len(said.splitlines()) == 1
    assert "; " in said, said
    assert everything(place) == before


@pytest.mark.parametrize("command", VERIFY)
def test_verify_says_what_next(command: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    misused(command, VERIFY[command], place, capsys)


@pytest.mark.parametrize("args", [(), ("",), ("RUN", "RUN/evidence/signer.pub.pem", "more")], ids=str)
def test_the_shell_check_says_how_it_is_used(args: tuple[str, ...], place: Path) -> None:
    done = subprocess.run(["sh", str(ROOT / "docs/check.sh"), *args], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "usage: sh docs/check.sh RUN [PUBLIC_KEY.pem]\n")
