"""A server measured through the whole chain: run, seal, replay; and one that is killed, which ends its case and no other."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from tests.conftest import ROOT
from tests.integration.test_failures import toml
from tests.integration.test_main_job import NO_ENGINE, kit, only_run, verify
from tests.mockserver.started import started


def plan(path: Path, servers: dict[str, str], **changed: Any) -> Path:
    """A case a server, of the smoke plan's small model."""
    smoke = tomllib.loads((ROOT / "manifests/plans/smoke.toml").read_text(encoding="utf-8"))
    text: dict[str, Any] = next(case for case in smoke["case"] if case["suite"] == "text_generation" and "matrix" in case)
    del text["matrix"]
    fields = {"engine": "openai", "concurrency": 4, "measured_rounds": 2, "discarded_loads": 1, "measured_loads": 1}
    judge = {"prompts": 0, "tokens": 1, "reference": "none"}
    cases = [
        text | fields | {"id": name, "judge": judge, "server": {"url": url, "model": "mock", "processes": 1, "stall_s": 5}} | changed
        for name, url in servers.items()
    ]
    head = "".join(f"{key} = {toml(value)}\n" for key, value in smoke.items() if key != "case")
    body = "".join("\n[[case]]\n" + "".join(f"{key} = {toml(value)}\n" for key, value in case.items()) for case in cases)
    path.write_text(head + body, encoding="utf-8")
    return path


def test_a_server_is_measured_and_one_that_dies_ends_its_case_only(tmp_path: Path) -> None:
    quick = ("--first-ms", 40, "--step-ms", 15)
    with started(*quick, "--fault", "kill", "--fault-from", 6) as dying, started(*quick) as sound:
        cases = plan(tmp_path / "plan.toml", {"dies": dying.url, "sound": sound.url})
        done = kit("run", "--plan", str(cases), "--out", str(tmp_path / "runs"), env=NO_ENGINE)
        truth = sound.truth()
    assert done.returncode == 1, done.stderr
    run = only_run(tmp_path / "runs")
    found = {
        case["id"]: (case["state"], str(case["attempts"][0]["reason"]))
        for case in json.loads((run / "evidence/cases.json").read_text())["cases"]
    }
    assert found["sound"][0] == "done"
    assert found["dies"][0] == "failed"
    assert "requests of round 1 failed" in found["dies"][1]
    assert "\n" not in found["dies"][1]
    result = tmp_path / "result.json"
    assert verify(str(run), "--policy", "self", "--json", str(result)).returncode == 0
    [metrics] = [case["metrics"] for case in json.loads(result.read_text())["cases"] if case["id"] == "sound"]
    measured = truth[-8:]
    true_ms = sum(one["first_ns"] - one["arrival_ns"] for one in measured) / len(measured) / 1e6
    assert (
        abs(float(metrics["first_token_latency_mean_ms"]["value"]) - true_ms) < 10
    )  # of a busy machine: docs/benchmarks/client.md has what a quiet one shows
    assert {one["prompt_tokens"] for one in measured} == {64}


def test_arrivals_at_a_rate_are_sealed_and_their_goodput_is_verified(tmp_path: Path) -> None:
    """Limits that a busy machine keeps, and the same a second time with one that no request can keep."""
    arrival = {"requests": 12, "rate_per_s": 200.0, "first_token_ms": 600000, "per_token_ms": 600000}
    found = {}
    for name, limit in (("kept", 600000), ("missed", 1)):
        with started("--first-ms", 40, "--step-ms", 5) as server:
            cases = plan(tmp_path / f"{name}.toml", {name: server.url}, arrival=arrival | {"first_token_ms": limit})
            done = kit("run", "--plan", str(cases), "--out", str(tmp_path / name), env=NO_ENGINE)
        assert done.returncode == 0, done.stderr
        run, result = only_run(tmp_path / name), tmp_path / f"{name}.json"
        assert verify(str(run), "--policy", "self", "--json", str(result)).returncode == 0
        [case] = json.loads(result.read_text())["cases"]
        found[name] = {metric: float(value["value"]) for metric, value in case["metrics"].items()}
        assert case["score"] is None
    assert found["kept"]["requests"] == found["missed"]["requests"] == 24
    assert (found["kept"]["goodput_share"], found["missed"]["goodput_share"]) == (1, 0)
    assert found["kept"]["goodput"] > 0
    assert found["missed"]["goodput"] == 0
    assert found["missed"]["first_token_latency_mean_ms"] >= 40
