"""Plans: resolution, expansion, and one clear line for every kind of bad value."""

from __future__ import annotations

import copy
import re
import tomllib
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit import plan
from kit.errors import KitError
from tests.conftest import ROOT
from verify import profile
from verify.scoring.cases import Case, pick


@pytest.fixture
def smoke() -> dict[str, Any]:
    return tomllib.loads((ROOT / "manifests/plans/smoke.toml").read_text(encoding="utf-8"))


def refusal(source: dict[str, Any]) -> str:
    with pytest.raises(KitError) as caught:
        plan.resolve(source, "p.toml")
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_smoke_resolves_to_every_value() -> None:
    resolved = plan.load("smoke")
    known = [
        "pretrain-llama-tiny",
        "text-generation-llama-tiny-c1",
        "text-generation-llama-tiny-c4",
        "specifications-small",
        "text-to-image-tiny",
        "text-to-image-taught",
    ]
    assert [case["id"] for case in resolved.cases][: len(known)] == known  # suites that came later add theirs behind
    sections = ["training", "inference", "inference", "specifications", "inference", "inference"]
    assert [case["section"] for case in resolved.cases][: len(known)] == sections
    assert resolved.cases[2]["concurrency"] == 4
    assert "matrix" not in resolved.cases[2]


def test_resolved_plan_is_canonical_and_stable() -> None:
    first, second = plan.load("smoke"), plan.load("smoke")
    assert first.to_bytes() == second.to_bytes()
    assert first.to_bytes().endswith(b"}\n")
    assert first.sha256() == second.sha256()


def test_every_shipped_plan_resolves() -> None:
    assert plan.shipped_plans()
    for name in plan.shipped_plans():
        assert plan.load(name).name == name


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.update(isolaton="x"), "did you mean 'isolation'"),
        (lambda s: s["case"][0].update(globl_batch=3), "did you mean 'global_batch'"),
        (lambda s: s["case"][0].update(suite="pretrian"), "did you mean 'pretrain'"),
        (lambda s: s["case"][0].update(warmup_steps=50), "50 is out of range"),
        (lambda s: s["case"][0].update(measured_steps=0), "0 is out of range"),
        (lambda s: s["case"][0]["model"].update(num_layers=0), "out of range"),
        (lambda s: s["case"][0].pop("seed"), "key 'seed' is missing"),
        (lambda s: s["case"][0].update(dtype="float23"), "did you mean 'float32'"),
        (lambda s: s["case"][0].update(global_batch=9), "not a multiple of micro_batch x processes = 8"),
        (lambda s: s["case"][1].update(id="same"), "occurs twice"),
        (lambda s: s["case"][1].update(id="c{concurency}"), "names a key that the matrix lacks"),
        (lambda s: s.update(schemaVersion=2), "schemaVersion"),
    ],
)
def test_bad_plan_is_one_clear_line(smoke: dict[str, Any], change: Any, said: str) -> None:
    change(smoke)
    assert said in refusal(smoke)


def test_unknown_plan_has_a_did_you_mean() -> None:
    with pytest.raises(KitError, match="unknown plan 'smok'.*did you mean 'smoke'"):
        plan.load("smok")


def test_broken_toml_is_one_line(tmp_path: Any) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text("a = [\n")
    with pytest.raises(KitError, match="not valid TOML"):
        plan.load(str(bad))


@pytest.mark.parametrize("text", ["a = " + "[" * 9000, "a = " + "[" * 400 + "]" * 400, "schemaVersion = " + "{a=" * 300 + "1" + "}" * 300])
def test_deep_toml_is_one_line(tmp_path: Any, text: str) -> None:
    from kit.chip import read_toml

    (tmp_path / "p.toml").write_text(text)
    for load in (lambda: plan.load(str(tmp_path / "p.toml")), lambda: read_toml(tmp_path / "p.toml", "chip")):
        with pytest.raises(KitError) as caught:
            load()
        assert len(str(caught.value)) < 1000


def test_select() -> None:
    resolved = plan.load("smoke")
    assert [c["id"] for c in plan.select(resolved, [], ["*-c4"], None)] == ["text-generation-llama-tiny-c4"]
    several = plan.select(resolved, [], ["pretrain-*", "*-c4"], None)
    assert {c["suite"] for c in several} == {"pretrain", "text_generation"}
    assert {c["suite"] for c in plan.select(resolved, ["pretrain"], [], None)} == {"pretrain"}
    assert plan.select(resolved, [], ["pretrain-*"], "inference") == []
    assert {c["section"] for c in plan.select(resolved, [], [], "training")} == {"training", "specifications"}
    with pytest.raises(KitError, match="no case fits"):
        plan.select(resolved, [], ["*-c4", "nothing-*"], None)
    with pytest.raises(KitError, match="did you mean 'pretrain'"):
        plan.select(resolved, ["pretrian"], [], None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None)  # a loaded machine is no fault of the plan
@given(st.sampled_from(["id", "suite", "matrix", "seed", "model", "zero_stage", "data"]), JSON)
def test_no_value_makes_a_traceback(key: str, value: Any) -> None:
    source = copy.deepcopy(tomllib.loads((ROOT / "manifests/plans/smoke.toml").read_text(encoding="utf-8")))
    source["case"][0][key] = value
    try:
        plan.resolve(source, "p.toml")
    except KitError as error:
        assert "\n" not in str(error)


PAIRS = [(256, 128), (256, 512), (256, 1024), (512, 128), (512, 512), (512, 1024), (1024, 1024)]


def official() -> list[dict[str, Any]]:
    return [case for case in plan.load("report-0.2.1").cases if case["suite"] == "text_generation"]


def test_the_report_declares_its_84_cases_of_text_generation_in_order() -> None:
    """Section 4.1: one card, then eight; by concurrency, then by lengths; one generation and one precision (ruling 22)."""
    small = [(1, sessions, *pair) for sessions in (1, 8, 16, 32, 64) for pair in PAIRS]
    large = [(8, sessions, *pair) for sessions in (1, 8, 16, 32, 64, 80, 96) for pair in PAIRS]
    fields = ("cards", "concurrency", "input_tokens", "output_tokens")
    assert [tuple(case[name] for name in fields) for case in official()] == small + large
    assert {(case["generation"], case["dtype"], case["quantization"]) for case in official()} == {("llama-2", "float16", "none")}
    assert [case["id"] for case in official() if case["measured_loads"]] == [official()[0]["id"], official()[35]["id"]]
    assert plan.load("report-0.2.1").container_required


def test_the_84_cases_fill_the_84_rows_of_the_profile() -> None:
    table = next(table for table in profile.load(profile.DEFAULT).tables if table.id == "text_generation")
    cases = [Case(case["id"], case, "done", {}) for case in official()]
    assert [found.id if (found := pick(table, row, cases)) else None for row in table.rows] == [case.id for case in cases]


def test_every_generation_and_precision_has_84_cases() -> None:
    counts = Counter((case["generation"], case["quantization"]) for case in plan.load("text-generation").cases)
    assert counts == {(name, kind): 84 for name in ("llama-1", "llama-2") for kind in ("none", "w8a16")}


def test_a_row_of_a_grid_that_is_too_short() -> None:
    source = tomllib.loads((ROOT / "manifests/plans/single-card.toml").read_text(encoding="utf-8"))
    case = next(case for case in source["case"] if case["suite"] == "text_generation")
    case["grid"]["axes"][1]["values"][2] = [256]
    with pytest.raises(KitError, match="more or fewer values"):
        plan.resolve(source, "tests")


def float8(source: dict[str, Any]) -> dict[str, Any]:
    """The first case of the plan, trained with products in float8 by engine torch."""
    case = source["case"][0]
    case.update(dtype="float8", engine="torch", zero_stage=0, offload="none", model=case["model"] | {"ffn_size": 352})
    return case


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hidden_size": 40, "num_heads": 4, "num_kv_heads": 4}, r"products in float8 need sides that are multiples of 16; hidden_size has 40"),
        ({"ffn_size": 120}, r"multiples of 16; ffn_size has 120"),
        ({"sequence_length": 66}, r"multiples of 16; a micro-batch has"),
    ],
)  # fmt: skip
def test_float8_takes_sides_that_are_multiples(smoke: dict[str, Any], change: dict[str, Any], said: str) -> None:
    case = float8(smoke)
    assert plan.resolve(smoke, "p.toml").cases[0]["dtype"] == "float8"
    case["model"] = case["model"] | change
    assert re.search(said, refusal(smoke))


def test_float8_is_trained_whole_by_one_engine(smoke: dict[str, Any]) -> None:
    float8(smoke)["engine"] = "deepspeed"
    assert "torch" in refusal(smoke)
