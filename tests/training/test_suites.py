"""The suites end to end in this interpreter: adapters, int8, weights from a file, a loss that is no number, what memory cannot hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from kit.worker import device, int8, memory, models, training  # noqa: E402
from kit.worker.record import Recorder  # noqa: E402
from kit.worker.suites import finetuning, pretrain  # noqa: E402
from tests.training.test_training import SHAPE, case  # noqa: E402

pytestmark = pytest.mark.torch
LORA = {"method": "lora", "lora": {"rank": 4, "alpha": 8, "dropout": 0.0}, "base_weights": "float32", "suite": "finetuning"}


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHIPASSAY_DEVICE", "cpu")
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


def ran(folder: Path, module: Any, **changes: Any) -> list[dict[str, Any]]:
    """Events of a case run here."""
    asked = case(**{"warmup_steps": 1, "measured_steps": 3} | changes)
    recorder = Recorder(folder, rank=0, case=asked, attempt=1, world_size=1)
    try:
        module.run(asked, recorder)
    finally:
        recorder.close()
    return [json.loads(line) for line in (folder / "events-00000.jsonl").read_text().splitlines()]


def of(kind: str, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event["e"] == kind]


@pytest.mark.parametrize("base_weights", ["float32", "int8"])
def test_lora_trains_the_adapter_alone(tmp_path: Path, base_weights: str) -> None:
    events = ran(tmp_path, finetuning, **LORA | {"base_weights": base_weights, "data": "instructions.json"})
    [adapter], [model] = of("adapter", events), of("model", events)
    assert adapter["trained"] == 4 * 2 * (2 * 32 + 32 + 16)
    assert (adapter["frozen"], adapter["base_weights"]) == (model["parameters"], base_weights)
    assert len(of("step", events)) == 4


def test_frozen_weights_stay_as_they_are() -> None:
    asked = case(**LORA)
    torch.manual_seed(7)
    model = finetuning.adapted(models.build(SHAPE, fused=False), asked)
    before = {name: value.clone() for name, value in model.named_parameters()}
    engine = training.build(asked, training.Place(torch.device("cpu"), 0, 1), model)
    tokens = torch.randint(256, (2, 16))
    for number in range(3):
        engine.step([{"tokens": tokens, "labels": tokens}], number)
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if "lora_" in name}


def test_int8_weights_are_near_and_a_quarter_of_the_size() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(64, 32, bias=False)
    weight, scale = int8.quantised(layer.weight.detach())
    assert weight.dtype == torch.int8
    assert ((weight * scale - layer.weight).abs() <= scale / 2 + 1e-7).all()
    x = torch.randn(5, 64)
    torch.testing.assert_close(int8.Int8Linear(layer)(x), layer(x), rtol=0.1, atol=0.05)


def test_a_loss_that_is_no_number_fails_and_its_inputs_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(asked: dict[str, Any], here: training.Place) -> tuple[Any, None]:
        model = models.build(asked["model"])
        model.norm.weight.data[0] = float("nan")
        return model, None

    monkeypatch.setattr(pretrain, "prepare", broken)
    with pytest.raises(FloatingPointError, match="loss is nan at step 0; the step's inputs"):
        ran(tmp_path, pretrain)
    kept = torch.load(tmp_path / "artifacts/step-0-rank-0.pt", weights_only=False)
    assert "norm.weight" in kept["not_finite"]
    assert kept["inputs"][0]["tokens"].shape == (2, 16)


def test_memory_that_runs_out_is_said_with_peak_and_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(*_: Any) -> Any:
        raise torch.OutOfMemoryError("no")

    monkeypatch.setattr(pretrain, "prepare", greedy)
    with pytest.raises(Exception, match=r"needs more memory than there is: .* GB were held at most; take a smaller micro_batch"):
        ran(tmp_path, pretrain)
    assert memory.ADVICE


def test_a_hosts_own_word_for_no_memory_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU's allocator has no error type of its own: more is asked for than any address space holds."""
    monkeypatch.setattr(pretrain, "prepare", lambda *_: torch.empty(2**50, dtype=torch.uint8))
    with pytest.raises(
        device.OutOfMemory, match=r"^llama of width 32 and 2 layers, micro_batch 2, .* GB were held at most; take a smaller micro_batch"
    ):
        ran(tmp_path, pretrain)
    lines = [json.loads(line) for line in (tmp_path / "events-00000.jsonl").read_text().splitlines()]
    assert [event["peak_bytes"] > 0 for event in of("memory", lines)] == [True]


def test_an_operator_that_is_missing_is_unsupported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(*_: Any) -> Any:
        raise NotImplementedError("Could not run 'aten::rms_norm' with arguments from this backend.\nmore")

    monkeypatch.setattr(pretrain, "prepare", lacking)
    with pytest.raises(Exception, match=r"^an operator is missing on this chip: Could not run 'aten::rms_norm' .* backend\.$"):
        ran(tmp_path, pretrain)
