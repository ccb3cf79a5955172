"""The suite with its taught weights, in this interpreter: honest tokens pass the gates, those of broken engines do not, bad cases say why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from kit import plan, weights  # noqa: E402
from kit.worker import engines, generation, main  # noqa: E402
from kit.worker.engines import openai  # noqa: E402
from kit.worker.engines import transformers as engine  # noqa: E402
from kit.worker.models import causal  # noqa: E402
from tests.conftest import ROOT  # noqa: E402
from tests.mockserver.started import Started, started  # noqa: E402
from tests.taught_text import train  # noqa: E402
from verify import events  # noqa: E402
from verify.generation import judged, requests  # noqa: E402
from verify.metrics import text_generation  # noqa: E402

pytestmark = pytest.mark.torch
ARRIVAL = {"requests": 6, "rate_per_s": 1000, "first_token_ms": 600000, "per_token_ms": 600000}
KINDS = events.union(text_generation.EVENTS)


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CHIPASSAY_DEVICE", "cpu")
    monkeypatch.setenv(weights.FOLDER, str(ROOT / weights.SHIPPED))
    monkeypatch.setenv(causal.SCRATCH, str(tmp_path))


def case(**changed: Any) -> dict[str, Any]:
    """The smoke plan's case with taught weights, made shorter."""
    found = next(one for one in plan.load("smoke").cases if one["id"] == "text-generation-taught-none")
    return found | {"concurrency": 2, "input_tokens": 16, "output_tokens": 4, "warmup_rounds": 0, "measured_rounds": 1} | changed


def ran(chosen: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """Events of the case as the worker writes them."""
    folder.mkdir()
    main._run_rank(chosen, 1, folder)
    return [json.loads(line) for line in (folder / "events-00000.jsonl").read_bytes().splitlines()]


def broken(chosen: dict[str, Any], lines: list[dict[str, Any]]) -> set[str]:
    """Rules that the case breaks."""
    found = [events.parse(json.dumps(line).encode(), KINDS, "test") for line in lines]
    measured = text_generation.measure(chosen, [(0, text_generation.condense(chosen, 0, found))])
    return {finding.rule for finding in text_generation.rules(chosen, measured) if finding.severity == "error"}


def test_an_honest_engine_passes_every_gate(tmp_path: Path) -> None:
    lines = ran(case(), tmp_path / "run")
    assert lines[-1]["reason"] is None
    assert broken(case(), lines) == set()


def test_half_precision_is_within_its_bound(tmp_path: Path) -> None:
    chosen = case(dtype="bfloat16", kv_dtype="bfloat16")
    assert broken(chosen, ran(chosen, tmp_path / "run")) == set()


def shorter(model: Any) -> None:
    """A model without its last layer."""
    model.model.layers = model.model.layers[:-1]


def colder(model: Any) -> None:
    """A last norm that is a fifth too strong changes no likeliest token, and so is no fault of greedy tokens."""
    model.model.norm.weight.data *= 1.2


def forgetful(model: Any) -> None:
    """A cache that keeps every token at the first place."""
    true = model.model.rotary_emb.forward
    model.model.rotary_emb.forward = lambda x, position_ids: true(x, position_ids * 0)


@pytest.mark.parametrize(("harm", "rules"), [
    (shorter, {"text_generation.greedy", "text_generation.reference"}),
    (forgetful, {"text_generation.greedy", "text_generation.reference"}),
    (colder, set()),
])  # fmt: skip
def test_the_tokens_of_a_broken_engine(harm: Any, rules: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's model alone is harmed; the float32 model beside it is read from the same files again."""
    load = engine.load

    def harmed(*args: Any) -> Any:
        made = load(*args)
        harm(made.model)
        return made

    monkeypatch.setattr(engine, "load", harmed)
    assert broken(case(), ran(case(), tmp_path / "run")) == rules


def test_an_engine_that_stops_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true = engine.TransformersEngine.generate
    monkeypatch.setattr(engine.TransformersEngine, "generate", lambda self, asked, tokens: true(self, asked, tokens - 1))
    assert "text_generation.output" in broken(case(), ran(case(), tmp_path / "run"))


def test_int8_tells_its_perplexity_beside_that_without(tmp_path: Path) -> None:
    chosen = case(quantization="w8a16", id="text-generation-taught-w8a16")
    lines = ran(chosen, tmp_path / "run")
    assert broken(chosen, lines) == set()
    plain, quantised = [line for line in lines if line["e"] == "perplexity"]
    assert plain["tokens"] == quantised["tokens"] == generation.WINDOWS * (generation.WINDOW_TOKENS - 1)
    assert 1.0 < plain["nll"] / plain["tokens"] < 2.0
    assert quantised["nll"] == pytest.approx(plain["nll"], rel=0.01)
    assert quantised["nll"] != plain["nll"]


def test_random_weights_hang_on_the_seed_and_are_judged_too(tmp_path: Path) -> None:
    chosen = case(weights="random", seed=7)
    assert broken(chosen, ran(chosen, tmp_path / "run")) == set()
    here = torch.device("cpu")
    first, again = (dict(causal.tensors(causal.folder(chosen, here)[0], here)) for _ in range(2))
    other = dict(causal.tensors(causal.folder(chosen | {"seed": 8}, here)[0], here))
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name])
    assert float(first[name].std()) == pytest.approx(0.02, rel=0.05)


def test_worker_and_verify_make_the_same_prompts_and_arrivals() -> None:
    for prompts in ("seeded", "legacy"):
        chosen = case(prompts=prompts, arrival={"requests": 5, "rate_per_s": 10, "first_token_ms": 1, "per_token_ms": 1})
        assert generation.requests(chosen, 1)[3].prompt == requests.prompt(chosen, chosen["seed"], 8)
        assert generation.offsets(chosen, 1) == requests.offsets(chosen, 1)
        assert generation.digest([1, 2]) == requests.digest([1, 2])
    assert len(set(requests.prompt(case(prompts="legacy"), 7, 0))) == 1


def test_what_does_not_fit_is_refused_with_the_estimate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation.device, "free_bytes", lambda _: 10**5)
    reason = ran(case(), tmp_path / "run")[-1]["reason"]
    assert reason.startswith("CacheTooSmall: the KV cache does not fit: 40 tokens of 3072 bytes are 0.00 GB, 0.00 GB are free; ")


def test_running_out_of_memory_tells_the_peak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is a fake, raised where a card would raise it."""

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("fake, injected by a test")

    monkeypatch.setattr(engine.TransformersEngine, "_step", full)
    *_, memory, end = ran(case(), tmp_path / "run")
    assert (memory["e"], end["state"]) == ("memory", "failed")
    assert "concurrency 2, 16 + 4 tokens, float32 needs more memory than there is" in end["reason"]


@pytest.mark.parametrize(("changed", "words"), [
    ({"engine": "warp"}, "MissingEngine: engine 'warp' cannot be imported"),
    ({"engine": "lmdeploy"}, "MissingEngine: wanted lmdeploy >=0.16,<0.19, found none"),
    ({"weights": "nobodys"}, "BadWeights: no weights.lock.json"),
    ({"quantization": "w8a8"}, "knows INT8 weights (w8a16)"),
])  # fmt: skip
def test_a_bad_case_fails_with_one_line(changed: dict[str, Any], words: str, tmp_path: Path) -> None:
    end = ran(case(**changed), tmp_path / "run")[-1]
    assert (end["e"], end["state"]) == ("case_end", "failed")
    assert words in end["reason"]


def test_an_engine_that_takes_requests_all_at_once_has_no_arrivals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.TransformersEngine, "arrivals", False)
    end = ran(case(arrival=ARRIVAL), tmp_path / "run")[-1]
    assert "engine 'transformers' takes requests only all at once" in end["reason"]


def test_arrivals_are_served_in_batches_of_those_that_have_come(tmp_path: Path) -> None:
    """Six requests at a high rate, two at once: the last waits for batches before it, and every one is due when the seed says."""
    chosen = case(arrival=ARRIVAL)
    lines = ran(chosen, tmp_path / "run")
    assert lines[-1]["reason"] is None
    assert broken(chosen, lines) == set()
    sizes: dict[int, int] = {}
    for line in lines:
        if line["e"] == "tokens":
            sizes[line["t"]] = sizes.get(line["t"], 0) + 1
    assert max(sizes.values()) <= 2
    found = [events.parse(json.dumps(line).encode(), KINDS, "test") for line in lines]
    metrics = text_generation.metrics(chosen, text_generation.measure(chosen, [(0, text_generation.condense(chosen, 0, found))]))
    assert metrics["requests"].value == 6
    assert metrics["goodput_share"].value == 1
    assert metrics["goodput"].value > 0


# --- INT8 of a server, which tells no likelihood of a given text


def answered(folder: Path, harm: Any = lambda _: None) -> Path:
    """What an INT8 engine, harmed or not, goes on with after the frozen prompts, for the mock server."""
    made = engine.load(case(quantization="w8a16"), torch.device("cpu"))
    harm(made.model)
    prompts = generation.frozen_prompts(8)
    said: list[list[int]] = [[] for _ in prompts]
    for item in made.generate([engines.Request(number, prompt) for number, prompt in enumerate(prompts)], 32):
        if isinstance(item, engines.Chunk):
            said[item.request] += item.ids
    path = folder / "answers.json"
    path.write_text(json.dumps(list(zip(prompts, said, strict=True))), encoding="utf-8")
    return path


def served(server: Started, **changed: Any) -> dict[str, Any]:
    """An INT8 case of a server whose model is taught."""
    fields = {"url": server.url, "model": "mock", "processes": 1, "stall_s": 30}
    return case(engine="openai", quantization="w8a16", id="text-generation-taught-w8a16", server=fields, output_tokens=2, **changed)


def ratio(chosen: dict[str, Any], lines: list[dict[str, Any]]) -> float:
    found = [events.parse(json.dumps(line).encode(), KINDS, "test") for line in lines]
    measured = text_generation.measure(chosen, [(0, text_generation.condense(chosen, 0, found))])
    return float(judged.metrics(chosen, measured)["int8_perplexity_ratio"].value)


@pytest.mark.parametrize(("harm", "within"), [(lambda _: None, True), (shorter, False)], ids=["honest", "a layer left out"])
def test_int8_of_a_server_is_gated_by_what_it_goes_on_with(harm: Any, within: bool, tmp_path: Path) -> None:
    """The tokens of measured requests are the mock's own: only the frozen prompts are judged."""
    with started("--first-ms", 5, "--step-ms", 1, "--answers", answered(tmp_path, harm)) as server:
        chosen = served(server)
        lines = ran(chosen, tmp_path / "run")
    assert lines[-1]["reason"] is None
    assert (1.0 <= ratio(chosen, lines) <= 1.02) is within
    assert ("text_generation.greedy" not in broken(chosen, lines)) is within
    assert "text_generation.int8" not in broken(chosen, lines)


@pytest.mark.parametrize("judge", [{"prompts": 0, "tokens": 32, "reference": "float32"}, {"prompts": 8, "tokens": 32, "reference": "none"}])
def test_int8_of_a_server_that_nobody_judges_is_refused(judge: dict[str, Any], tmp_path: Path) -> None:
    with started("--first-ms", 5, "--step-ms", 1) as server:
        lines = ran(served(server, judge=judge), tmp_path / "run")
        assert {one["tokens"] for one in server.truth()} == {openai.PROBE_TOKENS}, "probes and nothing that is measured"
    assert "or a server whose continuations are judged" in lines[-1]["reason"]


def test_tokens_that_no_vocabulary_has_are_named(tmp_path: Path) -> None:
    path = tmp_path / "answers.json"
    path.write_text(json.dumps([[generation.frozen_prompts(1)[0], [256] * 32]]), encoding="utf-8")
    with started("--first-ms", 5, "--step-ms", 1, "--answers", path) as server:
        lines = ran(served(server, judge={"prompts": 1, "tokens": 32, "reference": "float32"}), tmp_path / "run")
    assert "engine 'openai' went on after frozen prompt 0 with token 256 of a vocabulary of 256" in lines[-1]["reason"]


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    chosen = case()
    end = ran(chosen | {"model": chosen["model"] | {"num_layers": 3}}, tmp_path / "run")[-1]
    assert "BadWeights: weights 'taught-text' are of architecture llama-192-4-4-2-512-256" in end["reason"]


def test_the_recipe_writes_the_configuration_that_is_stored() -> None:
    """Its weights are compared by hand: teaching them again takes minutes."""
    assert train.configuration() == (ROOT / weights.SHIPPED / "taught-text" / "config.json").read_text(encoding="utf-8")


def test_a_compiled_engine_fills_its_batches_and_says_the_same() -> None:
    """The compiler is left out, the static cache and the batches of one size are not."""
    here = torch.device("cpu")
    plain, static = (engine.load(case(), here) for _ in range(2))
    asked = generation.requests(case(concurrency=3), 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", lambda function, **_: function)
        static.compile(asked[:2], 6)
    said = [
        sorted((item.request, item.ns, item.ids[0]) for item in made.generate(asked, 6) if isinstance(item, engines.Chunk))
        for made in (plain, static)
    ]
    assert [(number, token) for number, _, token in said[0]] == [(number, token) for number, _, token in said[1]]
