"""What people get wrong on a command line: one line with what, where, why and the next step, a code, and nothing left behind."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import kit.cli
import verify.cli
from kit import chip, storage
from tests.adversarial import builder, trust
from tests.conftest import ROOT
from verify.findings import Refused, Unchecked

MAIN = {"kit": kit.cli.main, "verify": verify.cli.main}
Said = tuple[int, str]


@pytest.fixture
def place(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in: a sealed run RUN, a policy, wrong files; returns what may be looked over for leftovers."""
    top = home / "place"
    top.mkdir()
    builder.build(top).rename(top / "RUN")
    (top / "key.pem").write_bytes(trust.key("lea").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (top / "key.pem").chmod(0o600)
    trust.write(top / "trust", trust.seal(trust.document()))
    (top / "folder").mkdir()
    (top / "empty").touch()
    os.mkfifo(top / "fifo")
    (top / "text").write_text("# README\n", encoding="utf-8")
    (top / "list.json").write_text("[]", encoding="utf-8")
    monkeypatch.chdir(top)
    for name in (chip.FOLDERS, storage.FOLDER):
        monkeypatch.setenv(name, "")  # options set them
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


KIT: dict[str, Said] = {
    "kit run --isolation none --key key.pem --out text": (2, "output folder cannot be made (text)"),
    "kit run --isolation none --key key.pem --witness text": (2, "witness folder cannot be made (text)"),
    "kit run --isolation none --key key.pem --witness text/x": (2, "witness folder cannot be made (text/x)"),
    "kit run --isolation none --key key.pem --witness /proc/nowhere": (2, "witness folder cannot be made (/proc/nowhere)"),
    "kit run --isolation none --key key.pem --checkpoints text": (2, "folder for checkpoints cannot be made (text)"),
    "kit run --isolation none --key text": (2, "key is not an unencrypted PKCS#8 PEM (text)"),
    "kit run --key key.pem --resume RUN": (2, "run cannot go on (RUN/evidence/environment.json): KeyError: 'cards'"),
    "kit seal folder": (2, "not a run directory (folder)"),
    "kit pack RUN --out folder": (2, "archive cannot be written (folder): it is a folder"),
    "kit pack RUN --out nowhere/x": (2, "archive cannot be written (nowhere/x): its folder does not exist"),
    "kit pack RUN --out text/x": (2, "archive cannot be written (text/x)"),
    "kit pack RUN --out /proc/nowhere": (2, "archive cannot be written (/proc/nowhere)"),
    "kit pack RUN --out fifo": (2, "archive cannot be written (fifo): it is no plain file, and would be replaced"),
    "kit pack RUN --out RUN/x": (2, "archive would lie in the sealed run"),
    "kit keygen text": (2, "not a folder for keys (text)"),
    "kit keygen /proc/nowhere": (2, "key cannot be written (/proc/nowhere)"),
    "kit doctor --draft-chip mine --chips text": (2, "folder of chips does not exist (text)"),
    "kit doctor --draft-chip cpu --chips folder": (2, "chip is described already (folder/cpu/chip.toml)"),
    "kit image export cpu folder": (2, "image cannot be written (folder): it is a folder"),
    "kit image export cpu nowhere/x": (2, "image cannot be written (nowhere/x): its folder does not exist"),
    "kit image build cpu text": (2, "kit image build takes no file (text)"),
    "kit baseline make RUN --name x --out text": (2, "folder of the baseline cannot be made (text/x)"),
    "kit baseline make RUN --name x --policy text": (2, "not a policy (text)"),
    "kit report RUN --format html --out text": (2, "output folder is a file (text)"),
    "kit report RUN --format html --out text/x": (2, "output folder cannot be made (text/x)"),
    "kit report RUN --format html docx --out new --template text": (2, "template cannot be filled (text)"),
    "kit trust init text --name x": (2, "folder of the trust policy cannot be made (text)"),
    "kit trust init new --name X!": (2, "name of a trust policy is not allowed (X!)"),
    "kit trust init new --name x --threshold 0": (2, "--threshold is out of range: 0"),
    "kit witness folder --key key.pem --state text": (2, "memory of the witness cannot be made (text)"),
    "kit witness folder --into RUN --watch": (2, "--into fetches, and takes no"),
    "kit lab challenge --vendor a --party b --policy self --key key.pem --folder text": (2, "the lab's folder cannot be made (text)"),
    "kit lab challenge --vendor a --party b --policy self --key key.pem --image x": (2, "'x' is no digest"),
    "kit lab challenge --vendor a --party b --policy text --key key.pem": (2, "not a policy (text)"),
    "kit lab sign text --key key.pem": (2, "not a signed statement (text)"),
    "kit lab status --write folder --policy self --key key.pem": (2, "status list cannot be written (folder)"),
    "kit lab status --check text --policy self": (2, "not a status list (text)"),
    "kit lab status --folder text": (2, "the lab's folder is a file (text)"),
    "kit lab status --check text --write x": (2, "--check reads a list and --write makes one"),
    "kit lab status --at 2026-01-31T12:00:00Z": (2, "--at is the time of --check"),
    "kit lab calibrate RUN --out nowhere/x": (2, "table cannot be written (nowhere/x)"),
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


@pytest.mark.parametrize("command", KIT)
def test_the_kit_says_what_next(command: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    misused(command, KIT[command], place, capsys)


def test_what_nobody_foresaw_is_one_line_too(place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails below a command, a damaged file that it comes upon."""
    faults: dict[Exception, Said] = {
        OSError(errno.EACCES, "Permission denied", "folder/x"): (2, "file or folder cannot be used (folder/x): Permission denied; check"),
        OSError(errno.ENOSPC, "No space left on device"): (3, "No space left on device; free space"),
        Refused("json.syntax", "x", "JSON", "text"): (1, "refused: json.syntax (x)"),
        Unchecked("could not", next_step="try again"): (2, "could not; try again"),
    }
    for fault, expected in faults.items():
        with monkeypatch.context() as patched:
            patched.setattr("kit.pack.pack", mock.Mock(side_effect=fault))
            misused("kit pack RUN", expected, place, capsys)


TOOLS: dict[str, str] = {
    "tests.fuzz runs --count 0": "nothing would be tried",
    "tests.fuzz parsers --minutes -1": "nothing would be tried",
    "tests.fuzz parsers --match nope": "no parser has 'nope' in its name; known: ",
    "tests.fuzz runs --run docs": "no sealed run to damage: docs; name a run's folder",
    "tests.mutation --module nope": "no module of verify/ fits 'nope'; name one",
    "tests.mutation --count -1": "--count is below 0; give how many",
    "bench nope": "bench: unknown benchmark 'nope'; known: ",
}


@pytest.mark.parametrize("command", TOOLS)
def test_a_tool_that_would_try_nothing_says_so(command: str) -> None:
    """What stands behind `nox -s fuzz`, `mutation` and `bench`: zero inputs are no clean result, and no module is not every module."""
    done = subprocess.run([sys.executable, "-m", *command.split()], cwd=ROOT, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert TOOLS[command] in done.stderr.splitlines()[-1]
