"""A published result: what stands alone, what a change to it breaks, and what the lab says of one that it withdrew."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kit.errors import KitError
from kit.lab import office, publish
from tests.adversarial import audits, trust
from tests.adversarial.audits import Office
from verify import cli, policy, publication


@pytest.fixture
def published(tmp_path: Path) -> tuple[Office, Path, Path]:
    played = audits.play(tmp_path / "office")
    return played.office, played.run, played.office.publish(played.run, tmp_path / "RESULT")


def verify(result: Path, source: object, *more: str) -> int:
    return cli.main(["publication", str(result), "--policy", str(source), *more])


def test_a_published_result_stands_alone(published: tuple[Office, Path, Path], tmp_path: Path) -> None:
    lab, _, result = published
    moved = shutil.move(result, tmp_path / "elsewhere")
    shutil.rmtree(lab.lab)
    assert verify(Path(moved), lab.policy) == 0
    assert verify(Path(moved), "self") == 0
    assert json.loads((Path(moved) / "result.json").read_text())["verdict"] == "verified"


def test_a_published_result_says_what_was_recomputed_and_what_next(
    published: tuple[Office, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    lab, run, result = published
    document = json.loads((result / "result.json").read_text())
    metrics, cases = sum(len(case["metrics"]) for case in document["cases"]), len(document["cases"])
    capsys.readouterr()
    assert verify(result, lab.policy) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "verdict: verified"
    assert said[-2].startswith(f"recomputed from the events and equal to result.json: {metrics} metrics of {cases} cases and ")
    assert said[-2].endswith(f"; all of them: python -m verify {result / 'run' / run.name} --policy {lab.policy}")
    assert cli.main(["publication", str(result)]) == 2
    assert capsys.readouterr().out.splitlines()[-1].startswith("next: --policy FILE")
    (result / "result.json").write_text((result / "result.json").read_text().replace("16000", "17000"))
    assert verify(result, "self") == 1
    assert "recomputed" not in capsys.readouterr().out


DAMAGE: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "another score": (
        "publication.result",
        lambda p: (p / "result.json").write_text((p / "result.json").read_text().replace("16000", "17000")),
    ),
    "another result.json": ("publication.names", lambda p: (p / "result.json").write_text((p / "result.json").read_text() + " ")),
    "no run": ("publication.folder", lambda p: shutil.rmtree(p / "run")),
    "a file more": ("publication.folder", lambda p: (p / "x").write_text("x")),
    "a log of the run": ("tree.digest", lambda p: next((p / "run").rglob("stdout.log")).write_text("x")),
    "the audit's seed": ("policy.signer", lambda p: _spoil(p / "audit/lab-audit.dsse.json")),
}


def _spoil(path: Path) -> None:
    document = json.loads(path.read_bytes())
    document["signatures"] = document["signatures"][:1] and [{"keyid": "", "sig": "AAAA"}]
    path.write_text(json.dumps(document))


@pytest.mark.parametrize("name", DAMAGE)
def test_a_result_that_was_changed(name: str, published: tuple[Office, Path, Path]) -> None:
    rule, act = DAMAGE[name]
    lab, _, result = published
    act(result)
    outcome = publication.check(result, office.trusted(str(lab.policy)), office.now(), lab.policy)
    assert outcome.verdict == "refused"
    assert rule in {finding.rule for finding in outcome.findings}


def test_a_withdrawn_result_is_on_the_list_and_a_stale_list_shows_nothing(published: tuple[Office, Path, Path], tmp_path: Path) -> None:
    lab, run, result = published
    status, signers = tmp_path / "status.dsse.json", (trust.key("pia"),)
    publish.status(lab.lab, status, (*lab.keys, *signers), str(lab.policy), 30)
    assert verify(result, lab.policy, "--status", str(status)) == 0
    assert verify(result, lab.policy, "--status", str(status), "--at", "2098-01-01T00:00:00Z") == 2
    with pytest.raises(KitError, match=r"status\.stale"):
        publish.check_status(status, str(lab.policy), policy.parse_time("2098-01-01T00:00:00Z"))
    assert publish.withdraw(lab.lab, str(run), "clocks were set too high", lab.keys) == "withdrawn"
    publish.status(lab.lab, status, (*lab.keys, *signers), str(lab.policy), 30)
    said = publish.check_status(status, str(lab.policy), office.now())
    assert (said["version"], said["publications"][0]["state"], said["audits"][0]["state"]) == (2, "withdrawn", "withdrawn")
    assert verify(result, lab.policy, "--status", str(status)) == 1
