"""A model that ranks hold together is the model that one rank holds: real processes over gloo, curves compared step by step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from kit.worker import memory, models, training  # noqa: E402
from kit.worker.models import loss  # noqa: E402
from kit.worker.models.tensor import Stage, Team, cut_of, mine  # noqa: E402
from tests.conftest import ROOT  # noqa: E402
from tests.training import ranks  # noqa: E402
from tests.training.test_training import BERT, HERE, SHAPE, case  # noqa: E402

pytestmark = pytest.mark.torch
GPT = SHAPE | {"architecture": "gpt", "num_kv_heads": 4}
SETTINGS: dict[str, dict[str, Any]] = {
    "llama": {},
    "gpt": {"model": GPT},
    "internlm": {"model": SHAPE | {"architecture": "internlm", "num_kv_heads": 4}},
    "llama, one micro-batch a step": {"micro_batch": 4},
    "llama, loss in chunks and activations made anew": {"loss_chunks": 4, "checkpoint_activations": True},
    "gpt, packed documents": {"model": GPT, "data": "internevo-dummy", "packing": "mask", "tokenizer": "none"},
    "llama, a vocabulary that nothing divides": {"model": SHAPE | {"vocab_size": 257}},
    "llama, packed documents": {"data": "internevo-dummy", "packing": "mask", "tokenizer": "none"},
    "internlm, packed instructions": {
        "model": SHAPE | {"architecture": "internlm", "num_kv_heads": 4, "vocab_size": 256, "sequence_length": 256},
        "data": "instructions.json",
        "packing": "mask",
        "tokenizer": "bytes",
    },
    "llama, no clipping": {"optimizer": case()["optimizer"] | {"clip": 0}},
}
STAGED = ["internlm", "llama", "llama, loss in chunks and activations made anew", "llama, no clipping", "llama, packed documents"]
LAYOUTS = {  # processes -> (tensor_parallel, pipeline_parallel, settings)
    2: [(2, 1, sorted(SETTINGS)), (1, 2, STAGED)],
    4: [(2, 1, ["gpt"]), (1, 2, ["llama"]), (2, 2, ["llama, packed documents"])],
}


def _asked(name: str, processes: int, team: int, stages: int) -> dict[str, Any]:
    made = case(**SETTINGS[name])
    layout = {"processes": processes, "tensor_parallel": team, "pipeline_parallel": stages}
    return made | layout | {"micro_batch": made["micro_batch"] * team * stages // processes}


def _run(processes: int, cases: list[dict[str, Any]], folder: Path) -> list[list[dict[str, Any]]]:
    """What each rank found of each case."""
    (folder / "cases.json").write_text(json.dumps(cases))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m", "tests.training.ranks"]
    env = os.environ | {"CHIPASSAY_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "cases.json", "."], cwd=folder, env=env | {"PYTHONPATH": _path()}, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(processes)]


def _path() -> str:
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


@cache
def _alone(name: str) -> dict[str, Any]:
    return ranks.steps(case(**SETTINGS[name]), HERE)


@pytest.mark.parametrize("processes", LAYOUTS)
def test_curves_and_norms_are_those_of_one_rank(processes: int, tmp_path: Path) -> None:
    asked = [(name, team, stages) for team, stages, names in LAYOUTS[processes] for name in names]
    found = _run(processes, [_asked(name, processes, team, stages) for name, team, stages in asked], tmp_path)
    for index, (name, team, stages) in enumerate(asked):
        alone = _alone(name)
        for rank in range(processes):
            own = found[rank][index]
            for key in ("losses", "norms"):
                assert own[key] == pytest.approx(alone[key], rel=2e-5), (name, team, stages, rank, key)
            assert own["held_out"] == found[0][index]["held_out"]
            assert own["parameters"] == alone["parameters"]
            assert own["held"] < 0.8 * alone["parameters"]
        assert len(set(alone["losses"])) == ranks.STEPS  # a curve that stood still would agree with anything


def test_first_values_are_cut_from_the_whole_model() -> None:
    for shape in (SHAPE, GPT, SHAPE | {"architecture": "bert", "num_kv_heads": 4} | BERT):
        torch.manual_seed(3)
        whole = models.build(shape)
        for rank in (0, 1):
            torch.manual_seed(3)
            part = models.build(shape, team=Team(rank, 2))
            for (name, own), all_of_it in zip(part.named_parameters(), whole.parameters(), strict=True):
                assert torch.equal(own, mine(own, all_of_it)), name
            assert sum(cut_of(own) is not None for own in part.parameters()) >= 4 * shape["num_layers"]


def test_stages_hold_the_layers_of_the_whole_model_one_after_the_other() -> None:
    torch.manual_seed(3)
    whole = list(models.build(SHAPE).named_parameters())
    held = []
    for rank in (0, 1):
        torch.manual_seed(3)
        held += [value for _, value in models.build(SHAPE, stage=Stage(rank, 2)).named_parameters()]
    assert len(held) == len(whole)
    assert all(torch.equal(own, value) for own, (_, value) in zip(held, whole, strict=True))


def test_pieces_of_a_fused_product_are_query_key_and_value_of_the_same_heads() -> None:
    weight = models.build(SHAPE).blocks[0].attention.projections.wqkv.weight
    part = models.build(SHAPE, team=Team(1, 2)).blocks[0].attention.projections.wqkv.weight
    assert weight.shape == (64, 32)
    assert torch.equal(mine(part, weight), torch.cat((weight[16:32], weight[40:48], weight[56:64])))


class Alone(Team):
    """A team that needs no process group: sums are of one rank's own."""

    def reduced(self, x: Any, how: str) -> Any:
        return x.clone()


@pytest.mark.parametrize("chunks", [1, 3])
def test_the_loss_of_a_team_of_one_is_the_plain_one_with_its_gradients(chunks: int) -> None:
    torch.manual_seed(0)
    x, weight = (torch.randn(*size, dtype=torch.float32, requires_grad=True) for size in ((3, 7, 8), (50, 8)))
    labels = torch.randint(50, (3, 7))
    labels[0, :4] = loss.IGNORED
    found = []
    for team in (None, Alone(0, 1)):
        value = loss.mean_loss(x, weight, labels, chunks, team=team)
        found.append((value, *torch.autograd.grad(value * 3, (x, weight))))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_memory_is_divided_by_the_team() -> None:
    large = SHAPE | {"hidden_size": 4096, "num_layers": 4, "num_heads": 32, "num_kv_heads": 8, "ffn_size": 11008, "vocab_size": 32000}
    asked = case(dtype="bfloat16", model=large)
    one = memory.estimate(asked, *memory.parameters(asked))
    shared = asked | {"tensor_parallel": 8, "processes": 8, "global_batch": 4}
    eight = memory.estimate(shared, *memory.parameters(shared))
    for kind in ("weights_bytes", "gradients_bytes", "states_bytes"):
        assert eight[kind] == pytest.approx(one[kind] / 8, rel=0.001)  # norms are whole on each rank
    assert one["activations_bytes"] / 8 < eight["activations_bytes"] < one["activations_bytes"]


def test_memory_of_a_stage_is_that_of_its_layers_and_of_the_micro_batches_on_their_way() -> None:
    large = SHAPE | {"hidden_size": 4096, "num_layers": 32, "num_heads": 32, "num_kv_heads": 32, "ffn_size": 11008}
    asked = case(dtype="bfloat16", model=large, micro_batch=1, global_batch=16)
    one = memory.estimate(asked, *memory.parameters(asked))
    staged = asked | {"pipeline_parallel": 4, "processes": 4}
    four = memory.estimate(staged, *memory.parameters(staged))
    assert four["states_bytes"] == pytest.approx(one["states_bytes"] / 4, rel=0.01)  # the ends have the words
    assert four["activations_bytes"] == one["activations_bytes"]  # four micro-batches of a quarter of the layers


def test_ranks_of_a_team_have_one_share_of_the_batch() -> None:
    places = [training.Place(HERE.device, rank, 8, Team(rank % 4, 4)) for rank in range(8)]
    assert [(here.data_rank, here.data_ranks) for here in places] == [(0, 2)] * 4 + [(1, 2)] * 4
    both = [training.Place(HERE.device, rank, 8, Team(rank % 2, 2), None, Stage(rank // 2 % 2, 2)) for rank in range(8)]
    assert [(here.data_rank, here.data_ranks) for here in both] == [(0, 2)] * 4 + [(1, 2)] * 4
