"""Paths of the two engines that a card takes more often than a CPU: losses scaled for float16, offload, documents by lengths."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from kit.worker import device, models, optimizer, ranks, training  # noqa: E402
from kit.worker.suites import pretrain  # noqa: E402
from tests.conftest import ROOT  # noqa: E402
from tests.training.test_suites import of, ran, settled  # noqa: E402, F401
from tests.training.test_training import SHAPE, case, trained  # noqa: E402

pytestmark = pytest.mark.torch


def test_an_overflow_in_float16_is_skipped_recorded_and_halves_the_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer, "FIRST_SCALE", 2.0**26)
    steps = of("step", ran(tmp_path, pretrain, dtype="float16", measured_steps=11))
    skipped = [step["skipped"] for step in steps]
    count = sum(skipped)
    assert 2 <= count < len(steps)
    assert skipped == [True] * count + [False] * (len(steps) - count)
    assert [step["loss_scale"] for step in steps] == [2.0 ** (26 - min(number, count)) for number in range(len(steps))]
    assert [step["grad_norm"] is None for step in steps] == skipped


def test_a_skipped_step_changes_nothing_and_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer, "FIRST_SCALE", 2.0**40)
    _, engine = trained(case(dtype="float16"), 2)
    torch.manual_seed(7)
    fresh = models.build(SHAPE).half()
    assert all(torch.equal(ours, own) for ours, own in zip(engine.module.parameters(), fresh.parameters(), strict=True))
    assert (engine.optimizer.steps, engine.optimizer.scale) == (0, 2.0**38)


def test_deepspeed_s_scale_is_the_one_that_the_loss_had() -> None:
    """Its optimizer halves the scale as it skips the step: that one is the next step's, as with engine torch."""
    halving = SimpleNamespace(param_groups=[{}], loss_scale=2.0**16, overflow=False)

    class Inner:
        optimizer = halving

        def __call__(self, loss: Any) -> Any:
            return loss

        def backward(self, loss: Any) -> None:
            pass

        def step(self) -> None:
            halving.loss_scale, halving.overflow = halving.loss_scale / 2, True

        def get_global_grad_norm(self) -> None:
            return None

        def fp16_enabled(self) -> bool:
            return True

    engine = training.DeepspeedEngine.__new__(training.DeepspeedEngine)
    engine.settings, engine.inner = case()["optimizer"], Inner()
    done = [engine.step([{"loss": torch.tensor(4.0)}], number) for number in range(2)]
    assert [(one.skipped, one.loss_scale) for one in done] == [(True, 2.0**16), (True, 2.0**15)]


@pytest.fixture(scope="module")
def offloaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What tests/training/offloaded.py found."""
    address, _, port = ranks.free_endpoint().partition(":")
    variables = {
        "CHIPASSAY_DEVICE": "cpu",
        "DS_ACCELERATOR": "cpu",
        "MASTER_ADDR": address,
        "MASTER_PORT": port,
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
    }
    command = [sys.executable, "-m", "tests.training.offloaded", str(tmp_path_factory.mktemp("offloaded"))]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT, env=os.environ | variables)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_offload_does_not_change_the_curve(offloaded: dict[str, Any]) -> None:
    assert offloaded["optimizer"] == pytest.approx(offloaded["plain"], rel=1e-3)
    assert offloaded["all"] == pytest.approx(offloaded["plain"], rel=1e-3)


def test_a_precision_that_deepspeed_refuses_is_unsupported(offloaded: dict[str, Any]) -> None:
    """It trains no float16 on a CPU, and says so with an error of its own."""
    assert re.fullmatch(r"Unsupported: not supported on this chip: .*fp16 is not supported.*", offloaded["float16"])


def by_lengths(q: Any, k: Any, v: Any, bounds: Any, _: Any, longest: int, __: int, window_size: tuple[int, int] = (-1, -1)) -> Any:
    """What torch's kernel does, the long way: every document by itself; documents without a token are padding of the bounds."""
    out = torch.zeros_like(q)
    for begin, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        assert end - begin <= longest
        if end > begin:
            parts = (x[begin:end].transpose(0, 1)[None] for x in (q, k, v))
            found = torch.nn.functional.scaled_dot_product_attention(*parts, is_causal=window_size == (-1, 0))
            out[begin:end] = found[0].transpose(0, 1)
    return out


@pytest.mark.parametrize("architecture", ["llama", "gpt"])
def test_documents_by_lengths_are_those_by_a_mask(monkeypatch: pytest.MonkeyPatch, architecture: str) -> None:
    varlen = pytest.importorskip("torch.nn.attention.varlen")
    monkeypatch.setattr(varlen, "varlen_attn", by_lengths)
    torch.manual_seed(0)
    shape = SHAPE | {"architecture": architecture} | ({"num_kv_heads": 4} if architecture == "gpt" else {})
    model = models.build(shape).double()
    tokens, places = torch.randint(256, (1, 16)), torch.tensor([[*range(6), *range(10)]])
    documents, bounds = torch.tensor([[0] * 6 + [1] * 10]), torch.tensor([0, 6, 16, 16, 16], dtype=torch.int32)
    found = []
    for how in ({"documents": documents}, {"bounds": bounds}):
        value = model(tokens=tokens, labels=tokens, positions=places, **how)
        found.append((value, *torch.autograd.grad(value, list(model.parameters()), allow_unused=True)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


def test_a_chip_without_that_kernel_says_so(tmp_path: Path) -> None:
    """Torch has none for a CPU; the day it has one, the curve must be that of the mask."""
    asked = {"data": "internevo-dummy", "tokenizer": "none", "micro_batch": 2}
    by_mask = of("step", ran(tmp_path, pretrain, **asked, packing="mask"))
    other = tmp_path / "varlen"
    other.mkdir()
    try:
        by_length = of("step", ran(other, pretrain, **asked, packing="varlen"))
    except device.Unsupported as error:
        assert str(error).startswith("an operator is missing on this chip: ")
        assert "\n" not in str(error)
        return
    assert [step["loss"] for step in by_length] == pytest.approx([step["loss"] for step in by_mask], rel=1e-3)


def test_memory_is_not_filled_for_the_sake_of_determinism() -> None:
    try:
        training.seeded(case(deterministic=True))
        assert not torch.utils.deterministic.fill_uninitialized_memory
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
