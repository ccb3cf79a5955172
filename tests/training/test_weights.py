"""Weights of published files: what transformers wrote is read here and says the same, and what does not fit is told in one line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from kit.worker import models  # noqa: E402
from kit.worker.models import load  # noqa: E402
from kit.worker.weights import FOLDER, LOCK, BadWeights  # noqa: E402
from tests.training.test_training import BERT, SHAPE, case  # noqa: E402

pytestmark = pytest.mark.torch
PLAIN_GPT = SHAPE | {"architecture": "gpt", "num_kv_heads": 4, "norm_eps": 1e-5}
PLAIN_BERT = SHAPE | BERT | {"architecture": "bert", "num_kv_heads": 4, "norm_eps": 1e-12, "norm_first": False, "positions": "learned", "segments": 2, "tied_head": True, "pooler": True}  # fmt: skip
PLAIN_LLAMA = SHAPE | {"norm_eps": 1e-5}


def _llama() -> Any:
    config = transformers.LlamaConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48, vocab_size=256,
        max_position_embeddings=16, rms_norm_eps=1e-5,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def _gpt() -> Any:
    config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_inner=48, vocab_size=256, n_positions=16)
    return transformers.GPT2LMHeadModel(config)


def _bert(kind: str = "BertForPreTraining") -> Any:
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, vocab_size=256, max_position_embeddings=16
    )
    return getattr(transformers, kind)(config)


MADE: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "llama": (_llama, PLAIN_LLAMA),
    "gpt": (_gpt, PLAIN_GPT),
    "bert": (_bert, PLAIN_BERT),
}


def lock(folder: Path, architecture: str) -> None:
    """A lock of every file of the folder."""
    files = {}
    for path in sorted(path for path in folder.iterdir() if path.name != LOCK):
        data = path.read_bytes()
        files[path.name] = {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / LOCK).write_text(json.dumps({"schemaVersion": 1, "architecture": architecture, "files": files}))


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Writes a tiny model of transformers, every weight moved, into the folder `mine`; gives it back."""
    monkeypatch.setenv(FOLDER, str(tmp_path))

    def write(architecture: str) -> Any:
        torch.manual_seed(3)
        theirs = MADE[architecture][0]().eval()
        with torch.no_grad():
            for parameter in theirs.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        theirs.save_pretrained(tmp_path / "mine", safe_serialization=True)
        lock(tmp_path / "mine", architecture)
        return theirs

    return write


def read(shape: dict[str, Any], *, fused: bool = True) -> Any:
    """Our model with the weights of `mine`."""
    model = models.build(shape, fused=fused).eval()
    assert load.load(model, case(weights="mine", model=shape))
    return model


def kept(module: Any, run: Callable[[], Any]) -> Any:
    """What the module gave while `run` ran."""
    found: list[Any] = []
    handle = module.register_forward_hook(lambda _, __, out: found.append(out))
    run()
    handle.remove()
    return found[0]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("architecture", ["llama", "gpt"])
@torch.no_grad()
def test_a_decoder_of_transformers_says_the_same_here(published: Any, architecture: str, fused: bool) -> None:
    theirs = published(architecture)
    model = read(MADE[architecture][1], fused=fused)
    tokens = torch.randint(256, (2, 16))
    last = kept(model.norm, lambda: model(tokens=tokens, labels=tokens))
    head = model.head.weight if architecture == "llama" else model.embedding.weight
    torch.testing.assert_close(last @ head.t(), theirs(input_ids=tokens).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fused", [True, False])
@torch.no_grad()
def test_bert_of_transformers_says_the_same_here(published: Any, fused: bool) -> None:
    theirs = published("bert")
    model = read(PLAIN_BERT, fused=fused)
    tokens, segments = torch.randint(256, (2, 16)), torch.tensor([[0] * 7 + [1] * 9] * 2)
    inputs = {"tokens": tokens, "labels": tokens, "segments": segments, "follows": torch.tensor([0, 1])}
    expected = theirs(input_ids=tokens, token_type_ids=segments)
    words = kept(model.transform_norm, lambda: model(**inputs)) @ model.embedding.weight.t() + model.bias
    torch.testing.assert_close(words, expected.prediction_logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(kept(model.next_sentence, lambda: model(**inputs)), expected.seq_relationship_logits, rtol=1e-4, atol=1e-4)


def test_internlm_is_llama_with_biases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import save_file

    monkeypatch.setenv(FOLDER, str(tmp_path))
    tensors = {name: value.clone() for name, value in _llama().state_dict().items()}
    for part, rows in {"q_proj": 32, "k_proj": 16, "v_proj": 16, "o_proj": 32}.items():
        tensors |= {f"model.layers.{number}.self_attn.{part}.bias": torch.full((rows,), float(number + 1)) for number in range(2)}
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)  # a table that older files kept
    (tmp_path / "mine").mkdir()
    save_file(tensors, str(tmp_path / "mine/model.safetensors"))
    lock(tmp_path / "mine", "internlm")
    model = read(PLAIN_LLAMA | {"architecture": "internlm"})
    assert model.blocks[1].attention.projections.wqkv.bias.tolist() == [2.0] * 64


def changed(folder: Path, architecture: str, change: Callable[[dict[str, Any]], Any]) -> None:
    """The folder's tensors changed and locked anew."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(str(folder / "model.safetensors"))
    change(tensors)
    save_file({name: value.contiguous() for name, value in tensors.items()}, str(folder / "model.safetensors"))
    lock(folder, architecture)


WRONG: dict[str, tuple[str, Callable[[dict[str, Any]], Any], str]] = {
    "missing": ("gpt", lambda t: t.pop("transformer.h.1.mlp.c_fc.bias"), r"have no tensor for blocks\.1\.up\.bias, which the case's model has; name"),
    "unknown": ("gpt", lambda t: t.update(x=torch.ones(1)), r"hold x, which this model has no place for; name"),
    "shape": ("gpt", lambda t: t.update({"transformer.h.0.mlp.c_fc.weight": torch.ones(32, 40)}), r"transformer\.h\.0\.mlp\.c_fc\.weight gives blocks\.0\.up\.weight the shape \[40, 32\], the model has \[48, 32\]; name"),
    "not turned": ("gpt", lambda t: t.update({"transformer.h.0.attn.c_attn.weight": torch.ones(96, 32)}), r"c_attn\.weight gives blocks\.0\.projections\.wq\.weight the shape \[11, 96\], the model has \[32, 32\]"),
    "head": ("gpt", lambda t: t.update({"lm_head.weight": torch.ones(256, 32)}), r"lm_head\.weight is not the same as transformer\.wte\.weight"),
    "layer": ("gpt", lambda t: t.update({"transformer.h.7.ln_1.bias": torch.ones(32)}), r"hold transformer\.h\.7\.ln_1\.bias, which this model has no place for"),
    "scalar": ("gpt", lambda t: t.update({"transformer.h.0.ln_1.bias": torch.tensor(1.0)}), r"hold transformer\.h\.0\.ln_1\.bias, which"),
    "widths": ("llama", lambda t: [t.update({f"model.layers.0.self_attn.{p}_proj.weight": torch.ones(n, 32)}) for p, n in (("q", 16), ("k", 32))], r"q_proj\.weight gives blocks\.0\.attention\.projections\.wq\.weight the shape \[16, 32\], the model has \[32, 32\]"),
    "no pooler": ("bert", lambda t: [t.pop(f"bert.pooler.dense.{kind}") for kind in ("weight", "bias")], r"have no tensor for pooler\.weight, which the case's model has: files of a BertForPreTraining have it"),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(WRONG))
def test_weights_that_do_not_fit_are_told_in_one_line(published: Any, tmp_path: Path, name: str) -> None:
    architecture, change, said = WRONG[name]
    published(architecture)
    changed(tmp_path / "mine", architecture, change)
    with pytest.raises(BadWeights, match=said) as caught:
        read(MADE[architecture][1])
    assert "\n" not in str(caught.value)


def test_a_masked_language_model_alone_lacks_the_second_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    _bert("BertForMaskedLM").save_pretrained(tmp_path / "mine", safe_serialization=True)
    lock(tmp_path / "mine", "bert")
    with pytest.raises(
        BadWeights, match=r"no tensor for pooler\.weight, which the case's model has: files of a BertForPreTraining have it"
    ):
        read(PLAIN_BERT)


def test_older_files_name_norms_otherwise_and_keep_a_copy_of_the_head(published: Any, tmp_path: Path) -> None:
    theirs = published("bert")

    def older(tensors: dict[str, Any]) -> None:
        for key in [key for key in tensors if "LayerNorm" in key]:
            tensors[key.replace("weight", "gamma").replace("bias", "beta")] = tensors.pop(key)
        tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"].clone()
        tensors["bert.embeddings.position_ids"] = torch.arange(16)[None]

    changed(tmp_path / "mine", "bert", older)
    assert torch.equal(read(PLAIN_BERT).transform_norm.weight, theirs.cls.predictions.transform.LayerNorm.weight)


def test_files_without_the_name_of_the_whole_and_with_masks(published: Any, tmp_path: Path) -> None:
    theirs = published("gpt")

    def bare(tensors: dict[str, Any]) -> None:
        for key in list(tensors):
            tensors[key.removeprefix("transformer.")] = tensors.pop(key)
        tensors["h.0.attn.bias"] = torch.ones(1, 1, 16, 16)

    changed(tmp_path / "mine", "gpt", bare)
    assert torch.equal(read(PLAIN_GPT).norm.bias, theirs.transformer.ln_f.bias)


@pytest.mark.parametrize(
    ("architecture", "change", "said"),
    [
        ("gpt", {"n_head": 8}, r"config\.json says n_head = 8, the case's model has 4; name"),
        ("gpt", {"activation_function": "relu"}, r"config\.json says activation_function = relu, the case's model has gelu_new; name"),
        ("bert", {"hidden_act": "relu"}, r"config\.json says hidden_act = relu, the case's model has gelu; name"),
        ("llama", {"num_key_value_heads": 4}, r"config\.json says num_key_value_heads = 4, the case's model has 2; name"),
    ],
)
def test_what_no_tensor_tells_must_be_as_the_configuration_says(
    published: Any, tmp_path: Path, architecture: str, change: dict[str, Any], said: str
) -> None:
    published(architecture)
    path = tmp_path / "mine/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    lock(tmp_path / "mine", architecture)
    with pytest.raises(BadWeights, match=said):
        read(MADE[architecture][1])


def test_nothing_is_read_that_is_not_locked(published: Any, tmp_path: Path) -> None:
    published("gpt")
    (tmp_path / "mine/more.safetensors").write_bytes((tmp_path / "mine/model.safetensors").read_bytes())
    with pytest.raises(BadWeights, match=r"more\.safetensors lies in the folder and not in weights\.lock\.json; lock it, or take it away"):
        read(PLAIN_GPT)


def test_weights_of_another_architecture_or_changed_are_refused(published: Any, tmp_path: Path) -> None:
    published("gpt")
    with pytest.raises(BadWeights, match="are of architecture gpt, the case asks for llama"):
        load.load(models.build(SHAPE), case(weights="mine"))
    (tmp_path / "mine/model.safetensors").write_bytes(b"x")
    with pytest.raises(BadWeights, match="is not the locked one"):
        read(PLAIN_GPT)
