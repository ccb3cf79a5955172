"""Event and log schemas are made from verify's types; the files and the types cannot drift apart."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator

from tests.adversarial import builder
from tests.conftest import ROOT
from verify import events, metrics, runlog, telemetry

FOLDER = ROOT / "manifests/schemas/events"
KINDS = {suite: events.union(metrics.load(suite).EVENTS) for suite in metrics.suites()} | {
    "runlog": runlog.AnyEntry,
    "telemetry": telemetry.AnyEntry,
}


def hook(kind: type) -> dict[str, Any]:
    assert kind is Fraction
    return {"type": "number"}


def made(name: str) -> dict[str, Any]:
    """The JSON Schema of one line."""
    schema = msgspec.json.schema(KINDS[name], schema_hook=hook)
    title = {"runlog": "Run log entry", "telemetry": "Line of telemetry"}.get(name, f"Event of suite {name}")
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"https://chipassay.dev/schemas/events/{name}.schema.json",
        "title": title,
    }
    return head | schema


@pytest.mark.parametrize("name", KINDS)
def test_schema_file_is_that_of_the_types(name: str, request: pytest.FixtureRequest) -> None:
    path = FOLDER / f"{name}.schema.json"
    text = json.dumps(made(name), indent=2, sort_keys=True) + "\n"
    if request.config.getoption("--update-golden"):
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("name", "lines"), [("pretrain", builder.pretrain(0, 3)), ("text_generation", builder.text())], ids=["pretrain", "text_generation"]
)
def test_schema_takes_what_verify_takes(name: str, lines: list[dict[str, Any]]) -> None:
    validator = Draft202012Validator(made(name))
    for line in lines:
        validator.validate(line)
        events.parse(json.dumps(line).encode(), KINDS[name], "test")
    assert not validator.is_valid(lines[-1] | {"extra": 1})
    assert not validator.is_valid({"t": -1, "e": "case_end", "state": "done", "reason": None})
