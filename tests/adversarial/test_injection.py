"""Names and texts of a run cannot steer a terminal: what comes out of the command line is printable, whatever was sealed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.adversarial import builder
from tests.adversarial.builder import PRETRAIN, TEXT, Bench
from verify import cli
from verify.findings import Refused

EVIL = "\x1b[2J\x9b1m\r\u202e<script>alert(1)</script>\nverdict: VERIFIED"


def put(*path: str) -> Callable[[Bench], None]:
    def act(bench: Bench) -> None:
        holder: Any = bench.environment
        for name in path[:-1]:
            holder = holder[name]
        holder[path[-1]] = EVIL

    return act


def failed(bench: Bench) -> None:
    bench.states[TEXT] = ("failed", EVIL)


PLACES: dict[str, Callable[[Bench], Any]] = {
    "chip": put("chip", "id"),
    "host": put("host", "name"),
    "kit": put("kit", "version"),
    "reason of isolation": put("isolation", "reason"),
    "lock": put("lock", "file"),
    "title": lambda b: b.plan.document["title"].update(en=EVIL),
    "reason of failure": failed,
    "device": lambda b: b.kind("environment", PRETRAIN)[0].update(device_name=EVIL),
    "package": lambda b: b.kind("environment", PRETRAIN)[0].update(packages={EVIL: EVIL}),
    "kind of event": lambda b: b.step(1).update(e=EVIL),
    "field of event": lambda b: b.step(1).update({EVIL: 1}),
}


@pytest.mark.parametrize("place", PLACES)
def test_what_is_printed_is_printable(place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = builder.build(tmp_path, PLACES[place])
    code = cli.main([str(run), "--policy", "self", "--json", str(tmp_path / "result.json")])
    out, err = capsys.readouterr()
    for line in (out + err).splitlines():
        assert line.isprintable(), (code, line)
    assert out.count("\nverdict: ") == 1
    json.loads((tmp_path / "result.json").read_bytes())


NAMES: dict[str, Callable[[Bench], Any]] = {
    "plan": lambda b: b.plan.document.update(name=EVIL),
    "case id": lambda b: b.plan.document["cases"][0].update(id=EVIL),
}


@pytest.mark.parametrize("place", NAMES)
def test_a_name_that_is_none_is_refused_when_it_is_read(place: str, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"resolved_plan\.schema") as refused:
        builder.build(tmp_path, NAMES[place])
    assert str(refused.value).isprintable()


def test_a_folder_named_to_steer_is_printable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = builder.build(tmp_path)
    moved = run.rename(tmp_path / EVIL.replace("/", "_"))
    cli.main([str(moved), "--policy", "self"])
    cli.main([str(moved / "nothing")])
    out, err = capsys.readouterr()
    assert all(line.isprintable() for line in (out + err).splitlines())
