"""Benchmarks: the run that replay is measured on is one that verify takes, of about the size asked for; peers of the client are read as they write."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from bench import client, peers, synthetic
from verify.replay import replay


def test_a_synthetic_run_is_verified(tmp_path: Path) -> None:
    made = synthetic.build(tmp_path, 2_000_000, ranks=2, share=0.5)
    outcome = replay(made.run, "self")
    assert outcome.verdict == "verified"
    assert {finding.rule for finding in outcome.findings} <= {
        "plausible.clock",
        "text_generation.unproven",
    }  # its events claim hours, its log took no time; nobody judged its tokens
    assert [result.state for result in outcome.cases] == ["done", "done"]
    assert 1_000_000 < made.size_bytes < 3_000_000
    assert made.events == sum(path.read_bytes().count(b"\n") for path in made.run.glob("evidence/cases/*/*/events-*"))


def test_the_commands_of_the_peers_are_whole_and_their_words_are_read(tmp_path: Path) -> None:
    wrote = {
        "aiperf": [
            {"metadata": {"benchmark_phase": phase}, "metrics": {"time_to_first_token": {"value": 7.5}}}
            for phase in ("warmup", "profiling")
        ],
        "guidellm": [{"benchmarks": [{"requests": {"successful": [{"time_to_first_token_ms": 7.5}]}}]}],
        "sglang": [{"ttfts": [0.0075], "duration": 2}],
        "vllm": [{"ttfts": [0.0075]}],
    }
    load = {"url": "http://x", "out": tmp_path, "concurrency": 4, "requests": 8, "input": 16, "output": 2}
    for name in wrote:
        (tmp_path / name).mkdir()
        (tmp_path / name / peers.WHOLE).touch()
    assert [tool.name for tool in peers.tools(tmp_path)] == peers.names() == list(wrote)
    for tool in peers.tools(tmp_path):
        assert not [word for word in tool.command(load) if "{" in word or not word]
        path = Path(peers._table()[tool.name]["result"].format(**load))
        path.write_text("\n".join(map(json.dumps, wrote[tool.name])))
        assert tool.first_ms(load) == [7.5]
        assert tool.whole_s(load) == (2 if tool.name == "sglang" else 0)


def test_a_mean_at_a_tiers_edge_is_of_the_faster_tier() -> None:
    assert [client.tier(mean_ms) for mean_ms in (1, 500, 500.001, 1000, 3000, 3001)] == [0, 0, 1, 1, 2, 3]


def test_half_a_peer_is_not_taken_for_one_and_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    def refuse(command: list[object], **_: object) -> None:
        ran.append(list(map(str, command)))
        if "pip" in ran[-1]:
            raise subprocess.CalledProcessError(1, command)
        (tmp_path / "aiperf/bin").mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(subprocess, "run", refuse)
    for _ in range(2):
        with pytest.raises(SystemExit, match=r"aiperf was not made below .*python ended with 1"):
            peers.install(tmp_path)
    assert [command[1:3] for command in ran] == [["-m", "venv"], ["-m", "pip"]] * 2
    assert not peers.tools(tmp_path)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--install"], "add --peers DIR"),
        (["--peers", "{empty}"], "aiperf, guidellm, sglang, vllm not installed below"),
        (["--peers", "{empty}", "--only", "nobody"], "nobody not installed below"),
        (["--only", "sglang"], "sglang not installed: add --peers DIR"),
        (["burst"], "burst is no part"),
    ],
)
def test_wrong_options_of_the_clients_benchmark_have_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], why: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        client.main([option.format(empty=tmp_path) for option in options])
    assert ended.value.code == 2
    assert why in capsys.readouterr().err.splitlines()[-1]
