"""Engine, optimizer and models against plain torch; needs torch, so run by the interpreter of the locked environment."""

from __future__ import annotations

import copy
import math
import tomllib
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from kit.worker import data, memory, models, parallel, training  # noqa: E402
from kit.worker.models import loss  # noqa: E402
from kit.worker.optimizer import AdamW, learning_rate  # noqa: E402
from tests.adversarial.builder import OPTIMIZER  # noqa: E402
from tests.conftest import ROOT  # noqa: E402

pytestmark = pytest.mark.torch
SHAPE = {
    "architecture": "llama",
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "ffn_size": 48,
    "vocab_size": 256,
    "sequence_length": 16,
}
BERT = {"norm_eps": 1e-6, "dropout": 0.0, "norm_first": True, "positions": "sinusoid", "segments": 3, "tied_head": False, "pooler": False}
HERE = training.Place(torch.device("cpu"), 0, 1)


def case(**changes: Any) -> dict[str, Any]:
    return {"id": "x", "suite": "pretrain", "tokenizer": "bytes", "weights": "random", "model": SHAPE, "engine": "torch", "zero_stage": 0, "global_batch": 4, "micro_batch": 2, "processes": 1,
            "checkpoint_activations": False, "offload": "none", "loss_chunks": 1, "optimizer": OPTIMIZER, "dtype": "float32", "compile": False,
            "deterministic": False, "attention": ["MATH"], "seed": 7, "data": "shakespeare.txt", "packing": "none"} | changes  # fmt: skip


def trained(asked: dict[str, Any], steps: int = 4, share: Any = None) -> tuple[list[float], Any]:
    """Losses of some steps, and the engine."""
    training.seeded(asked)
    engine = training.build(asked, HERE, models.build(asked["model"]))
    source = data.source(asked)
    share = share or data.Share(0, 1, asked["global_batch"], asked["micro_batch"])

    def units(step: int) -> list[dict[str, Any]]:
        return [source.unit(step, number, share).batch for number in range(share.num_units)]

    with training.attention(asked):
        losses = [engine.step(units(step), step).loss.item() for step in range(steps)]
    return losses, engine


@pytest.mark.parametrize("path", sorted((ROOT / "manifests/models").glob("*.toml")), ids=lambda path: path.stem)
@pytest.mark.parametrize("fused", [True, False])
def test_models_have_the_parameters_that_their_files_say(path: Any, fused: bool) -> None:
    shape = tomllib.loads(path.read_text(encoding="utf-8"))["shape"]
    with torch.device("meta"):
        model = models.build(shape, fused=fused)
    assert sum(p.numel() for p in model.parameters()) == shape["parameters"]


@pytest.mark.parametrize("clip", [0.5, 0])
def test_optimizer_is_torchs_adamw_with_clipping(clip: float) -> None:
    asked = case(optimizer=OPTIMIZER | {"clip": clip, "learning_rate": 0.01})
    losses, engine = trained(asked)
    torch.manual_seed(7)
    model = models.build(SHAPE)
    plain = torch.optim.AdamW(model.parameters(), lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.01)
    source, share = data.source(asked), data.Share(0, 1, 4, 2)
    for step, found in enumerate(losses):
        own = [model(**source.unit(step, n, share).batch) for n in range(2)]
        (sum(own) / 2).backward()
        assert sum(own).item() / 2 == pytest.approx(found, rel=1e-5)
        if clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        plain.step()
        plain.zero_grad()
    for ours, theirs in zip(engine.module.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_bfloat16_keeps_float32_masters() -> None:
    """With a rate too small for bfloat16 the weights do not move, but the masters do."""
    asked = case(dtype="bfloat16", optimizer=OPTIMIZER | {"learning_rate": 1e-6, "weight_decay": 0})
    _, engine = trained(asked, 2)
    assert {p.dtype for p in engine.module.parameters()} == {torch.bfloat16}
    torch.manual_seed(7)
    before = models.build(SHAPE).blocks[0].attention_norm.weight.bfloat16().float()
    master = engine.optimizer.masters[0]
    assert master.dtype == torch.float32
    assert 0 < (master - before).abs().max() < 1e-5


def test_float16_scales_its_loss_and_skips_what_is_not_finite() -> None:
    parameter = torch.nn.Parameter(torch.ones(4, dtype=torch.float16))
    optimizer = AdamW([[parameter]], OPTIMIZER, compiled=False, scaled=True, norm_of=parallel.Gradients([parameter], 1).norm)
    _, skipped = optimizer.step([torch.full((4,), float("inf"), dtype=torch.float16)], 0.1)
    assert (skipped, optimizer.scale) == (True, 2**15)
    assert torch.equal(parameter.detach(), torch.ones(4, dtype=torch.float16))
    norm, skipped = optimizer.step([torch.full((4,), 2.0**15, dtype=torch.float16)], 0.1)
    assert (skipped, norm.item()) == (False, pytest.approx(2.0))
    assert parameter[0].item() < 1


def test_state_goes_on_bit_for_bit() -> None:
    whole, _ = trained(case(), 6)
    _, engine = trained(case(), 3)
    state = copy.deepcopy(engine.state())
    asked = case()
    other = training.build(asked, HERE, models.build(SHAPE))
    other.load(state)
    source, share = data.source(asked), data.Share(0, 1, 4, 2)
    assert [other.step([source.unit(s, n, share).batch for n in range(2)], s).loss.item() for s in range(3, 6)] == whole[3:]


@pytest.mark.parametrize("changes", [{"checkpoint_activations": True}, {"loss_chunks": 4}, {"micro_batch": 4}, {"deterministic": True}])
def test_a_layout_does_not_change_the_curve(changes: dict[str, Any]) -> None:
    try:
        assert trained(case(**changes))[0] == pytest.approx(trained(case())[0], rel=1e-5)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("architecture", ["llama", "internlm", "gpt", "bert"])
def test_models_learn(architecture: str) -> None:
    shape = SHAPE | {"architecture": architecture, "num_kv_heads": 4} | (BERT if architecture == "bert" else {})
    torch.manual_seed(0)
    model = models.build(shape)
    more = {"segments": torch.zeros(2, 16, dtype=torch.int64), "follows": torch.tensor([0, 1])} if architecture == "bert" else {}
    tokens = torch.randint(256, (2, 16))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        found = model(tokens=tokens, labels=tokens, **more)
        found.backward()
        optimizer.step()
        losses.append(found.item())
    assert losses[0] == pytest.approx(math.log(256) + (math.log(2) if more else 0), rel=0.1)
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("architecture", ["llama", "internlm", "gpt"])
def test_packed_documents_do_not_see_each_other(architecture: str) -> None:
    torch.manual_seed(0)
    shape = SHAPE | {"architecture": architecture, "num_kv_heads": 4}
    model = models.build(shape).double()
    first, second = torch.randint(256, (1, 6)), torch.randint(256, (1, 10))
    apart = (model(tokens=first, labels=first) * 6 + model(tokens=second, labels=second) * 10) / 16
    documents = torch.tensor([[0] * 6 + [1] * 10])
    positions = torch.tensor([[*range(6), *range(10)]])
    tokens = torch.cat((first, second), dim=1)
    torch.testing.assert_close(model(tokens=tokens, labels=tokens, positions=positions, documents=documents), apart, rtol=1e-5, atol=1e-6)


def test_chunked_loss_is_the_plain_one_with_its_gradients() -> None:
    torch.manual_seed(0)
    x, weight = (torch.randn(*size, dtype=torch.float64, requires_grad=True) for size in ((3, 7, 8), (50, 8)))
    labels = torch.randint(50, (3, 7))
    labels[0, :4] = loss.IGNORED
    found = []
    for chunks in (1, 5):
        value = loss.mean_loss(x, weight, labels, chunks)
        found.append((value, *torch.autograd.grad(value * 3, (x, weight))))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one.float(), other.float(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("chunks", [1, 2])
def test_rows_without_a_target_have_no_loss_and_no_gradient(chunks: int) -> None:
    """A micro-batch of packed instructions may hold nothing but a prompt."""
    x, weight = torch.randn(1, 4, 8, requires_grad=True), torch.randn(10, 8, requires_grad=True)
    value = loss.mean_loss(x, weight, torch.full((1, 4), loss.IGNORED), chunks)
    value.backward()
    assert (value.item(), x.grad.abs().max().item(), weight.grad.abs().max().item()) == (0, 0, 0)


def test_ranks_share_one_global_batch() -> None:
    asked = case(global_batch=8)
    source = data.source(asked)

    def rows(world: int, micro: int) -> list[list[int]]:
        shares = [data.Share(rank, world, 8, micro) for rank in range(world)]
        return sorted(row for share in shares for n in range(share.num_units) for row in source.unit(3, n, share).batch["tokens"].tolist())

    assert rows(1, 8) == rows(2, 2) == rows(4, 2)
    assert len(rows(1, 8)) == 8


def test_rates_follow_their_schedule() -> None:
    cosine = OPTIMIZER | {"schedule": "cosine", "learning_rate": 1e-4, "warmup_steps": 10, "total_steps": 110, "final_learning_rate": 1e-5}
    assert [learning_rate(OPTIMIZER, step) for step in (0, 10**6)] == [0.001, 0.001]
    assert [learning_rate(cosine, step) for step in (0, 9, 10, 60, 110, 500)] == pytest.approx([1e-5, 1e-4, 1e-4, 5.5e-5, 1e-5, 1e-5])
    assert learning_rate(cosine | {"schedule": "linear"}, 60) == pytest.approx(5.5e-5)


def test_what_cannot_fit_is_refused_with_the_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = case(
        dtype="bfloat16",
        model=SHAPE | {"hidden_size": 4096, "num_layers": 32, "num_heads": 32, "num_kv_heads": 32, "ffn_size": 11008, "vocab_size": 103168},
    )
    monkeypatch.setattr(memory.device, "memory_bytes", lambda _: 80 * 10**9)
    with pytest.raises(
        memory.TooLarge, match=r"about 132\.0 GB a card \(weights 14\.6, gradients 29\.3, states 87\.9, .* there are 80\.0; take"
    ):
        memory.checked(asked, HERE)
    sharded = asked | {"engine": "deepspeed", "zero_stage": 3, "processes": 8, "global_batch": 16}
    assert memory.checked(sharded, HERE)["states_bytes"] == pytest.approx(87.8e9 / 8, rel=0.01)
