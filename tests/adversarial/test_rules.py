"""Every rule of verify refuses the attack that was made for it, and no rule goes without an attack."""

from __future__ import annotations

import ast
import re
import subprocess
from functools import cache
from itertools import count
from pathlib import Path

import pytest

from kit import record
from tests.adversarial import builder, tables
from tests.adversarial.attacks import Attack, every
from tests.conftest import ROOT
from verify import metrics, plausibility, replay, table

ATTACKS = every()
NAMED = re.compile(r"[a-z_]+\.[a-z0-9_]+")
SCHEMAS = {"cases.schema", "environment.schema", "inside.schema", "resolved_plan.schema", "statement.schema"}
# Rules that refuse nothing, or that other test modules hold: races, numbers too large for a sealed file; others in table/*.toml.
ELSEWHERE = {held.rule: held.test for held in tables.read() if held.rule} | {
    "log.retry": "test_warnings", "run.name": "test_warnings",
    "telemetry.coverage": "test_telemetry", "telemetry.reset": "test_telemetry", "telemetry.closed": "test_telemetry",
    **{f"checkpoint.{name}": "test_checkpoint" for name in ("ceiling", "cold", "storage")},
    "stability.clock": "test_stability", "stability.rehearsal": "test_stability", "stability.retold": "test_stability",
    "text_to_image.unproven": "test_text_to_image", "text_generation.unproven": "test_text_generation",
    "text_generation.queued": "test_text_generation", "text_generation.usage": "test_text_generation",
    "text_generation.late": "test_text_generation",
    "telemetry.energy": "test_telemetry", "telemetry.missing": "test_telemetry",
    "tree.changed": "test_races", "tree.read": "test_races", "json.size": "test_strict",
    **{f"archive.{name}": "test_packed" for name in (
        "count", "file_size", "header", "order", "path", "ratio", "top", "total_size", "trailing", "truncated", "twin", "type", "zstd")},
}  # fmt: skip


@cache
def rules_in_source() -> set[str]:
    """Every text of the form `word.word` that stands as first argument of something that makes a finding."""
    found: set[str] = set(SCHEMAS)
    for path in (ROOT / "verify").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).endswith("_RULES") and isinstance(node.value, ast.Dict):
                found |= {str(value.value) for value in node.value.values if isinstance(value, ast.Constant)}
            if isinstance(node, ast.Call) and node.args:
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                first = node.args[2] if name == "violations" else node.args[0]
                if name in {"error", "warning", "notice", "make", "Refused", "Bad", "_differ", "_same", "violations"} and isinstance(
                    first, ast.Constant
                ):
                    found.add(str(first.value))
    found |= plausibility.RULES.keys()
    return {rule for rule in found if NAMED.fullmatch(rule)} | {rule for suite in metrics.suites() for rule in metrics.load(suite).RULES}


def test_an_untouched_run_is_verified(tmp_path: Path) -> None:
    outcome = replay.replay(builder.build(tmp_path), "self")
    assert outcome.findings == []
    assert outcome.verdict == "verified"


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: f"{attack.rule}: {attack.name}")
def test_attack_is_refused_by_its_rule(attack: Attack, tmp_path: Path) -> None:
    outcome = replay.replay(attack.make(tmp_path), "self")
    broken = {finding.rule for finding in outcome.findings if finding.severity == "error"}
    assert outcome.verdict == "refused"
    assert attack.rule in broken, broken
    assert broken <= {attack.rule, *attack.also}, broken
    assert table.render(outcome.document()).endswith("rules were broken)")


def test_no_rule_goes_without_an_attack() -> None:
    covered = {attack.rule for attack in ATTACKS} | ELSEWHERE.keys()
    assert rules_in_source() - covered == set()


def test_no_attack_is_on_a_rule_that_is_gone() -> None:
    assert ({attack.rule for attack in ATTACKS} | ELSEWHERE.keys()) - rules_in_source() == set()


OUTSIDE = [a for a in ATTACKS if a.kind == "tampered" and a.rule.startswith(("tree.", "top.", "statement.subject", "envelope.signature"))]


@pytest.mark.parametrize("attack", OUTSIDE, ids=lambda attack: attack.name)
def test_openssl_and_coreutils_refuse_it_too(attack: Attack, tmp_path: Path) -> None:
    done = subprocess.run(["sh", str(ROOT / "docs/check.sh"), str(attack.make(tmp_path))], check=False, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr


def test_openssl_and_coreutils_accept_the_run(tmp_path: Path) -> None:
    run = builder.build(tmp_path)
    done = subprocess.run(["sh", str(ROOT / "docs/check.sh"), str(run)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    other = tmp_path / "other.pem"
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from kit.keys import public_pem

    other.write_bytes(public_pem(Ed25519PrivateKey.generate()))
    done = subprocess.run(["sh", str(ROOT / "docs/check.sh"), str(run), str(other)], check=False, capture_output=True, text=True)
    assert (done.returncode, "signature" in done.stderr) == (1, True)


SLOW = [attack for attack in ATTACKS if attack.rule.startswith("log.")]


@pytest.mark.parametrize("attack", SLOW, ids=lambda attack: f"{attack.rule}: {attack.name}")
def test_what_is_said_of_the_log_hangs_on_no_clock(attack: Attack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every entry a second after the one before: a run that seals within one second hides what the last entry read is compared with."""
    seconds = count(1)
    monkeypatch.setattr(record, "clocks", lambda: (1_790_000_000_000_000_000 + (now := next(seconds) * 10**9), now))
    test_attack_is_refused_by_its_rule(attack, tmp_path)
