"""Models as data: sizes against the report's time, ids that resolve into sealed shapes, curves in the lab's form; one line for what is wrong."""

from __future__ import annotations

import copy
import fnmatch
import json
import re
from pathlib import Path
from typing import Any

import pytest

from kit import curves, layout, models, plan
from kit.errors import KitError
from tests.adversarial import builder, checkpoints, finetuning
from tests.conftest import ROOT
from verify import flop

# Billions of parameters as facts of the report's time give them, to the digits that they give.
SIZES = {
    "internlm-7b": "7.32", "internlm-13b": "13.75", "internlm-65b": "66.45", "internlm-65b-v32000": "65.29", "llama-7b": "6.74",
    "llama-65b": "65.29", "llama2-7b": "6.74", "llama2-70b": "68.98", "llama2-7b-lab": "7.24", "gpt3-175b": "174.6", "gpt3-1.3b": "1.3",
    "gpt3-13b": "12.9", "bert-lab": "0.132", "bert-base": "0.110", "bert-large": "0.336",
}  # fmt: skip


def test_every_model_has_the_size_that_is_known() -> None:
    assert set(models.names()) == set(SIZES)
    for name, billions in SIZES.items():
        shape = models.shape(name, "t")
        assert f"{shape['parameters'] / 1e9:.{len(billions.partition('.')[2])}f}" == billions, name
        assert abs(flop.matrix_weights(shape) / shape["parameters"] - 1) < 0.24, name  # all but embeddings, norms and biases


def test_the_labs_variant_is_not_the_real_one() -> None:
    lab, real = (models.shape(name, "t") for name in ("llama2-7b-lab", "llama2-7b"))
    assert {key for key in lab if lab[key] != real[key]} == {"id", "num_kv_heads", "ffn_size", "parameters"}


def case(**changes: Any) -> dict[str, Any]:
    source = builder.source()
    source["case"] = [copy.deepcopy(source["case"][0]) | changes]
    return plan.resolve(source, "p.toml").cases[0]


def test_a_case_names_a_model_and_the_sealed_plan_has_its_shape() -> None:
    assert case(model="bert-lab")["model"] == models.shape("bert-lab", "t")
    assert case(model={"id": "llama2-7b", "sequence_length": 2048})["model"] == models.shape("llama2-7b", "t") | {"sequence_length": 2048}
    shorter = case(model={"id": "gpt3-1.3b", "sequence_length": 1024})["model"]
    assert models.shape("gpt3-1.3b", "t")["parameters"] - shorter["parameters"] == 1024 * shorter["hidden_size"]  # learned positions
    smaller = case(model={"id": "llama2-7b", "num_layers": 8})["model"]
    assert (smaller["like"], smaller["num_layers"], smaller["hidden_size"]) == ("llama2-7b", 8, 4096)
    assert not {"id", "parameters"} & smaller.keys()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "intrenlm-7b"}, "unknown model 'intrenlm-7b' .*did you mean 'internlm-7b'"),
        ({"model": {"id": "internlm-7b", "layers": 3}}, "unknown key 'layers'.*did you mean 'num_layers'"),
        ({"engine": "torch"}, "1 is not allowed here .*it must be 0"),
        ({"engine": "megatron"}, "'megatron' is not allowed"),
        ({"global_batch": 6}, "global_batch 6 is not a multiple of micro_batch x processes = 4"),
        ({"optimizer": builder.OPTIMIZER | {"schedule": "cosine"}}, "key '.*' is missing"),
        ({"curve": {"file": "nowhere.json"}}, "loss curve cannot be read"),
        ({"packing": "tight"}, "'tight' is not allowed"),
        ({"targets": {"source": "x"}}, "optimizer|targets"),
    ],
)
def test_what_is_wrong_is_said_on_one_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(KitError, match=said) as caught:
        case(**changes)
    assert "\n" not in str(caught.value)


def curve(path: Path, count: int = 101, **changes: Any) -> Path:
    path.write_text(json.dumps({f"step{number}": 4.0 - number / 64 for number in range(count)} | changes), encoding="utf-8")
    return path


def test_a_curve_in_the_labs_form_stands_in_the_plan_as_it_is_written(tmp_path: Path) -> None:
    found = curves.resolve({"file": "c.json", "spike": [47]}, "t", curve(tmp_path / "c.json").parent)
    assert (found["name"], len(found["values"]), found["values"][1], found["spike"]) == ("c.json", 101, "3.984375", [47])
    source = builder.source()
    source["case"][0]["curve"] = {"file": "c.json"}
    assert plan.resolve(source, str(tmp_path / "p.toml")).cases[0]["curve"]["values"] == found["values"]


@pytest.mark.parametrize("text", ["[]", "{", "{}", '{"step0": 1}', json.dumps({f"step{number + 1}": 1.0 for number in range(101)})])
def test_what_is_no_curve_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.json").write_text(text, encoding="utf-8")
    with pytest.raises(KitError, match="loss curve is not"):
        curves.read(tmp_path / "c.json", "t")


STAGED = builder.MODEL | {"sequence_length": 16, "num_layers": 2}
TEAM = {"engine": "torch", "zero_stage": 0, "tensor_parallel": 2}


def test_a_team_has_one_share_of_the_batch() -> None:
    assert case(**TEAM, global_batch=2)["tensor_parallel"] == 2  # 2 sequences are one micro-batch of the only team


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"engine": "deepspeed"}, "engine deepspeed does not split layers: tensor_parallel = 2 is not possible"),
        ({"dtype": "float8"}, "products in float8 take whole layers: tensor_parallel = 2 is not possible"),
        ({"processes": 3, "cards": 3}, "tensor_parallel = 2 does not divide processes = 3"),
        (
            {"model": builder.MODEL | {"sequence_length": 16, "num_heads": 4, "num_kv_heads": 1}},
            "does not divide num_kv_heads of the model = 1",
        ),
        ({"model": builder.MODEL | {"sequence_length": 16, "ffn_size": 129}}, "does not divide ffn_size of the model = 129"),
        ({"global_batch": 3}, "global_batch 3 is not a multiple of micro_batch x processes / tensor_parallel = 2"),
        ({"tensor_parallel": 1, "pipeline_parallel": 2}, "pipeline_parallel = 2 does not divide num_layers of the model = 1"),
        ({"pipeline_parallel": 2, "model": STAGED}, "tensor_parallel = 2 x pipeline_parallel = 2 does not divide processes = 2"),
        ({"pipeline_parallel": 2, "engine": "deepspeed", "tensor_parallel": 1}, "engine deepspeed has no stages: pipeline_parallel = 2"),
        ({"pipeline_parallel": 2, "model": STAGED | {"architecture": "gpt"}}, "does not go with architecture gpt yet"),
        ({"pipeline_parallel": 2, "evaluation": {"every": 2, "batches": 1}}, "does not go with evaluation yet"),
        ({"pipeline_parallel": 2, "weights": "mine"}, "does not go with weights of a file .'mine'. yet"),
        ({"tensor_parallel": 0}, "0 is out of range .*tensor_parallel.; minimum is 1"),
    ],
)
def test_a_team_that_cannot_be_is_said_on_one_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(KitError, match=said) as caught:
        case(**TEAM | changes)
    assert "\n" not in str(caught.value)


def test_deepspeed_trains_no_float16_without_zero() -> None:
    """It went through on a card: losses were not scaled, gradients divided by the scale, and the recorded scale was 0."""
    float16 = {"engine": "deepspeed", "dtype": "float16"}
    with pytest.raises(KitError, match=r"does not scale losses of float16 at zero_stage = 0") as caught:
        case(**float16, zero_stage=0)
    assert caught.value.next_step == 'use zero_stage = 1, or engine = "torch"'
    assert case(**float16, zero_stage=1)["zero_stage"] == 1
    assert case(engine="deepspeed", dtype="bfloat16", zero_stage=0)["zero_stage"] == 0


def test_adapters_and_other_suites_know_no_team() -> None:
    with pytest.raises(KitError, match="adapters stand on whole layers"):
        layout.check(finetuning.case() | TEAM, "t")
    source = builder.source()
    source["case"] = [checkpoints.CASE | {"tensor_parallel": 2}]
    del source["case"][0]["section"]
    with pytest.raises(KitError, match="unknown key 'tensor_parallel'"):
        plan.resolve(source, "p.toml")


@pytest.mark.parametrize("file", sorted((ROOT / "tests/device").glob("*.toml")), ids=lambda file: file.stem)
def test_plans_of_the_device_scripts_are_plans(file: Path) -> None:
    found = plan.load(str(file))
    assert found.cases
    assert not found.official


@pytest.mark.parametrize("cards", [2, 4, 8])
def test_layouts_of_the_device_script_fit_its_numbers_of_cards(cards: int, tmp_path: Path) -> None:
    text = (ROOT / "tests/device/cards-training.toml").read_text(encoding="utf-8")
    for here, there in (
        ("cards = [2]", f"cards = [{cards}]"),
        ("processes = 2", f"processes = {cards}"),
        ("batch = 16", f"batch = {8 * cards}"),
    ):
        assert here in text
        text = text.replace(here, there)
    (tmp_path / "p.toml").write_text(text, encoding="utf-8")
    found = plan.load(str(tmp_path / "p.toml")).cases
    assert {case.get("tensor_parallel", 1) * case.get("pipeline_parallel", 1) for case in found} == {1, 2}


@pytest.mark.parametrize("cards", [2, 4, 8])
def test_suites_of_the_device_script_fit_its_numbers_of_cards(cards: int, tmp_path: Path) -> None:
    script = (ROOT / "tests/device/cards-suites.sh").read_text(encoding="utf-8")
    text = (ROOT / "tests/device/cards-suites.toml").read_text(encoding="utf-8")
    text = text.replace("cards = [2]", f"cards = [{cards}]").replace("\nprocesses = 2", f"\nprocesses = {cards}")
    text = re.sub(r"(?m)^global_batch = (\d+)", lambda found: f"global_batch = {int(found[1]) * cards // 2}", text)
    (tmp_path / "p.toml").write_text(text, encoding="utf-8")
    found = plan.load(str(tmp_path / "p.toml")).cases
    assert {case["cards"] for case in found} == {cards}
    wanted = re.findall(r"part [a-z-]+ (\d+) '([^']+)'", script)
    for case in found:  # each is some part's, whose time is longer than the case's own limit: a case at its limit is sealed
        caps = {int(seconds) for seconds, pattern in wanted if fnmatch.fnmatchcase(case["id"], pattern)}
        assert len(caps) == 1
        assert case["time_limit_s"] + 20 <= min(caps)
