"""Training with products in eight bits: the numbers of torch's product are those of its own rounding, and who has none is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from kit.worker import device, float8, linear, models, training  # noqa: E402
from kit.worker.suites import pretrain  # noqa: E402
from tests.training.test_suites import of, ran, settled  # noqa: E402, F401
from tests.training.test_training import HERE, SHAPE, case, trained  # noqa: E402

pytestmark = pytest.mark.torch
WIDE = SHAPE | {"num_kv_heads": 4}


def rounded(x: Any, kind: Any) -> Any:
    """What a tensor is once it has been through eight bits, the long way: its own scale, rounding to the nearest, back."""
    largest = torch.finfo(kind).max
    scale = x.double().abs().max() / largest
    return (x.double() / scale).float().to(kind).double() * scale


def test_the_three_products_are_those_of_rounded_tensors() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(64, 48)
    eights = float8.Float8Linear(layer)
    assert eights.weight is layer.weight
    x = torch.randn(2, 16, 64, requires_grad=True)
    grad = torch.randn(2, 16, 48)
    out = eights(x)
    out.backward(grad)
    inputs, weight, back = (
        rounded(x.detach(), float8.FORWARD),
        rounded(layer.weight.detach(), float8.FORWARD),
        rounded(grad, float8.BACKWARD),
    )
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(out.double(), inputs @ weight.t() + layer.bias.double(), **close)
    torch.testing.assert_close(x.grad.double(), back @ weight, **close)
    torch.testing.assert_close(layer.weight.grad.double(), back.flatten(0, 1).t() @ inputs.flatten(0, 1), **close)
    torch.testing.assert_close(layer.bias.grad, grad.sum((0, 1)))


def test_eight_bits_are_near_but_not_the_same() -> None:
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(64, 48, bias=False), torch.randn(32, 64)
    apart = (float8.Float8Linear(layer)(x) - layer(x)).norm() / layer(x).norm()
    assert 0.005 < apart < 0.06


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_a_scale_takes_any_magnitude_and_zeros_stay_zeros(size: float) -> None:
    values, scale = float8.quantised(torch.tensor([[1.0, -0.5, 0.0]]) * size, float8.FORWARD)
    if size > 1e-9:
        assert values.float()[0, 0].item() == 448
        assert values.float()[0, 1].item() == -224
    assert torch.isfinite(scale)
    zeros, _ = float8.quantised(torch.zeros(2, 2), float8.BACKWARD)
    assert zeros.float().abs().max() == 0


def test_layers_alone_are_converted_and_masters_stay_float32() -> None:
    losses, engine = trained(case(dtype="float8", model=WIDE), 6)
    kinds = {name: type(module).__name__ for name, module in engine.module.named_modules() if isinstance(module, torch.nn.Linear)}
    assert {kind for name, kind in kinds.items() if name.startswith("blocks.")} == {"Float8Linear"}
    assert kinds["head"] == "Column"
    assert {p.dtype for p in engine.module.parameters()} == {torch.bfloat16}
    assert {master.dtype for master in engine.optimizer.masters} == {torch.float32}
    plain, _ = trained(case(dtype="bfloat16", model=WIDE), 6)
    assert losses != plain
    assert losses == pytest.approx(plain, rel=0.02)


@pytest.mark.parametrize("changes", [{"checkpoint_activations": True}, {"loss_chunks": 2}])
def test_a_layout_keeps_the_curve(changes: dict[str, Any]) -> None:
    first = trained(case(dtype="float8", model=WIDE), 3)[0]
    assert trained(case(dtype="float8", model=WIDE, **changes), 3)[0] == pytest.approx(first, rel=5e-3)


def test_the_graph_of_a_layer_is_whole() -> None:
    """What is compiled on a chip is one graph, product and all; here without a code generator."""
    torch.manual_seed(0)
    model = models.build(WIDE)
    linear.replace(model.blocks, float8.Float8Linear)
    tokens = torch.randint(256, (2, 16))
    plain = model(tokens=tokens, labels=tokens)
    plain.backward()
    grads = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    for block in model.blocks:
        block.compile(fullgraph=True, backend="aot_eager")
    found = model(tokens=tokens, labels=tokens)
    found.backward()
    torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-5)
    for parameter, grad in zip(model.parameters(), grads, strict=True):
        torch.testing.assert_close(parameter.grad, grad, rtol=0.05, atol=5e-3)


def test_a_case_in_float8_records_its_own_precision(tmp_path: Path) -> None:
    events = ran(tmp_path, pretrain, dtype="float8", model=WIDE)
    assert [event["dtype"] for event in of("model", events)] == ["float8"]
    assert len(of("step", events)) == 4


def test_a_chip_that_lacks_it_says_so_before_anything_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(device.LACKS, "float64,float8")
    with pytest.raises(device.Unsupported, match=r"^the chip does not compute in float8: supports\.lacks of its chip\.toml names it; "):
        ran(tmp_path, pretrain, dtype="float8", model=WIDE)
    monkeypatch.setenv(device.LACKS, "float64")
    device.needs("float8")


@pytest.mark.parametrize(
    "error", [RuntimeError("torch._scaled_mm is only supported on devices with compute capability >= 8.9\nmore"), NotImplementedError("no aten::_scaled_mm"), AttributeError("module 'torch' has no attribute '_scaled_mm'")]
)  # fmt: skip
def test_a_torch_without_the_product_is_unsupported_in_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def lacking(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(torch, "_scaled_mm", lacking)
    with pytest.raises(
        device.Unsupported,
        match="^no product in float8 on this chip: .*; leave the case out, or let supports.lacks of chip.toml name float8$",
    ):
        training.build(case(dtype="float8", model=WIDE), HERE, models.build(WIDE))


def test_no_memory_is_not_mistaken_for_no_product(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("no")

    monkeypatch.setattr(torch, "_scaled_mm", full)
    with pytest.raises(torch.OutOfMemoryError):
        float8.checked(torch.device("cpu"))
