"""Block by block from disk against the whole model in memory: the same masks, the same weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

import prunus
from prunus import masks
from prunus.blockwise import LargeModel, cut, sparsify
from prunus.blockwise.sparsifying import _how, pruned, told_by
from prunus.errors import InputError, PlanError, SaveError

os.environ["HF_HUB_OFFLINE"] = "1"
transformers = pytest.importorskip("transformers")

SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
LLAMA = {**SIZES, "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 64}
MODELS = {
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA)),
    "tied": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA, tie_word_embeddings=True)),
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=64, n_embd=32, n_layer=3, n_head=4, n_positions=64)
    ),
    "gemma2": lambda: transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**LLAMA, head_dim=8, sliding_window=4)),
}
DATA = [torch.randint(0, 64, (2, 24), generator=torch.Generator().manual_seed(i)) for i in range(3)]


def made(kind: str) -> nn.Module:
    torch.manual_seed(0)
    model = MODELS[kind]().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3 if p.dim() > 1 else 1).add_(0.05 * torch.randn_like(p))
    return model


@pytest.fixture
def saved(tmp_path):
    def save(kind: str):
        model = made(kind)
        model.save_pretrained(tmp_path / "dense", max_shard_size="20KB")
        (tmp_path / "dense" / "tokenizer.json").write_text("{}")
        return model, tmp_path / "dense", tmp_path / "out"

    return save


def loaded(folder, like: nn.Module) -> nn.Module:
    return type(like).from_pretrained(folder)


def whole_sparsifier(model: nn.Module) -> prunus.Sparsifier:
    return prunus.Sparsifier(model, skip=["lm_head"])


def run(model: nn.Module, batch) -> torch.Tensor:
    return model(batch).logits.sum()


@pytest.mark.parametrize(("sparsity", "granularity"), [(0.5, "weight"), (None, "2:4")])
def test_sparsegpt_is_that_of_the_whole_model(saved, sparsity, granularity):
    model, source, out = saved("llama")
    found = sparsify(source, out, DATA, method="sparsegpt", sparsity=sparsity, granularity=granularity)
    masks.sparsegpt(whole_sparsifier(model), sparsity, granularity=granularity, data=DATA, loss=run)
    again = loaded(out, model)
    for (name, p), q in zip(model.named_parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(q, p, rtol=1e-5, atol=1e-6, msg=name)
        assert torch.equal(q == 0, p == 0), name
    assert len(found.sparsity) == 3 * 7
    assert all(abs(share - 0.5) < 0.01 for share in found.sparsity.values())


@pytest.mark.parametrize("kind", MODELS)
def test_magnitude_is_that_of_the_whole_model(saved, kind):
    model, source, out = saved(kind)
    sparsify(source, out, DATA, method="magnitude", sparsity=0.5)
    again = loaded(out, model)
    for (name, p), q in zip(model.named_parameters(), again.parameters(), strict=True):
        inside = p.dim() == 2 and any(part.isdigit() for part in name.split("."))
        small = p.abs() <= p.abs().flatten().kthvalue(p.numel() // 2).values if inside else torch.zeros_like(p) > 1
        assert torch.equal(q, p.masked_fill(small, 0)), name


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("granularity", ["weight", "2:4"])
def test_wanda_is_its_equation_on_what_each_layer_gets(saved, kind, granularity):
    """In the whole model, layer after layer: |W| * ||X||, the lowest of each row gone before the next is looked at."""
    model, source, out = saved(kind)
    sparsify(
        source, out, DATA, method="wanda", sparsity=0.5 if granularity == "weight" else None, granularity=granularity
    )
    layers = [m for n, m in model.named_modules() if isinstance(m, nn.Linear | transformers.pytorch_utils.Conv1D)]
    order: list[nn.Module] = []
    handles = [m.register_forward_pre_hook(lambda m, _: order.append(m)) for m in layers]
    model(DATA[0])
    for handle in handles:
        handle.remove()
    for layer in order[:-1]:  # the last is the head
        seen: list[torch.Tensor] = []
        handle = layer.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0].flatten(0, -2)))
        with torch.no_grad():
            for batch in DATA:
                model(batch)
        handle.remove()
        x = torch.cat(seen)
        weight = layer.weight.data if isinstance(layer, nn.Linear) else layer.weight.data.T
        score = weight.abs() * x.norm(dim=0)
        lines = score.reshape(-1, 4) if granularity == "2:4" else score
        lost = lines.argsort(1)[:, : lines.shape[1] // 2]
        weight[torch.zeros_like(lines, dtype=torch.bool).scatter_(1, lost, True).view_as(weight)] = 0
    again = loaded(out, model)
    for (name, p), q in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(q, p), name


def test_the_folder_is_like_the_one_it_came_from(saved):
    model, source, out = saved("tied")
    assert len(list(source.glob("*.safetensors"))) > 3
    sparsify(source, out, DATA, method="wanda", sparsity=0.5)
    assert (out / "tokenizer.json").read_text() == "{}"
    assert (out / "config.json").read_bytes() == (source / "config.json").read_bytes()
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(
        json.loads((source / "model.safetensors.index.json").read_text())["weight_map"]
    )
    assert {p.name for p in out.glob("*.safetensors")} == set(index["weight_map"].values())
    again = loaded(out, model)
    assert again.lm_head.weight is again.model.embed_tokens.weight
    with pytest.raises(SaveError, match="holds"):
        sparsify(source, out, DATA, method="wanda", sparsity=0.5)


def test_stored_in_half_precision_stays_so(saved, tmp_path):
    model, _, out = saved("llama")
    model.half().save_pretrained(tmp_path / "half")
    sparsify(tmp_path / "half", out, DATA, method="sparsegpt", sparsity=0.5, dtype=torch.float32)
    assert {p.dtype for p in type(model).from_pretrained(out, dtype="auto").parameters()} == {torch.float16}


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_cut_is_the_mended_cut_of_the_whole_model(saved, kind):
    model, source, out = saved(kind)
    plan = prunus.plan(model, DATA[0], ratio=0.5, uniform=True)
    large = LargeModel(source)
    lazily = prunus.plan(large.model, DATA[0], ratio=0.5, uniform=True, importance=large.l2)
    assert lazily.kept == plan.kept
    small = plan.apply(model)
    whole = prunus.compensate(model, small, plan, DATA, DATA[0], passes=1000)
    found = cut(source, out, lazily, DATA)
    again = loaded(out, model)
    assert sum(p.numel() for p in again.parameters()) < 0.7 * sum(p.numel() for p in model.parameters())
    for (name, p), q in zip(small.named_parameters(), again.named_parameters(), strict=True):
        if "lm_head" not in name:  # what lies outside the blocks is sliced only
            torch.testing.assert_close(q[1], p, rtol=1e-4, atol=1e-5, msg=name)
    inside = [m for m in whole.layers if "lm_head" not in m.weight]
    assert [m.weight for m in found.layers] == [m.weight for m in inside]
    assert all(m.after < m.before for m in found.layers)


def test_no_more_than_one_block_has_values(saved, monkeypatch):
    _, source, out = saved("llama")
    most = 0

    def look(done: int, of: int) -> None:
        nonlocal most
        most = max(most, sum(not p.is_meta for p in large.model.parameters()))

    from prunus.blockwise import sparsifying

    large = LargeModel(source)
    monkeypatch.setattr(sparsifying, "LargeModel", lambda _: large)
    advance = sparsifying.Stream.advance

    def advanced(self, at):
        held = {name.split(".")[2] for name, p in large.model.named_parameters() if not p.is_meta}
        assert held == {str(at)}
        advance(self, at)

    monkeypatch.setattr(sparsifying.Stream, "advance", advanced)
    sparsify(source, out, DATA, method="wanda", sparsity=0.5, on_progress=look)
    assert most == 0


def transcribed_sparsegpt(weight, x, sparsity, n, m, damping=0.01, size=128):
    """Algorithm 1 of the paper, written down as it stands there, one row at a time."""
    columns = weight.shape[1]
    w, h = weight.double().clone(), x.double().T @ x.double()
    h += damping * h.diagonal().mean() * torch.eye(columns)
    inverse = torch.linalg.cholesky(torch.linalg.inv(h)).T
    keep = torch.ones_like(w, dtype=torch.bool)
    for i in range(0, columns, size):
        errors = torch.zeros(len(w), size, dtype=torch.float64)
        stop = min(i + size, columns)
        for j in range(i, stop):
            if m is None and j == i:
                scores = w[:, i:stop] ** 2 / inverse.diagonal()[i:stop] ** 2
                lowest = scores.flatten().sort().indices[: round(sparsity * scores.numel())]
                keep[:, i:stop] = (
                    torch.ones(scores.numel(), dtype=torch.bool).index_fill(0, lowest, False).view_as(scores)
                )
            if m is not None and j % m == 0:
                scores = w[:, j : j + m] ** 2 / inverse.diagonal()[j : j + m] ** 2
                for row in range(len(w)):
                    keep[row, j + scores[row].sort().indices[: m - n]] = False
            error = torch.where(keep[:, j], 0.0, w[:, j]) / inverse[j, j]
            errors[:, j - i] = error
            w[:, j:stop] -= error[:, None] * inverse[j, j:stop]
        w[:, stop:] -= errors[:, : stop - i] @ inverse[i:stop, stop:]
    return w * keep


@pytest.mark.parametrize(("sparsity", "granularity"), [(0.5, "weight"), (0.7, "weight"), (None, "2:4"), (None, "4:8")])
def test_sparsegpt_is_the_algorithm_of_the_paper(sparsity, granularity):
    draw = torch.Generator().manual_seed(0)
    weight, x = torch.randn(48, 320, generator=draw), torch.randn(999, 320, generator=draw)
    x = x @ torch.randn(320, 320, generator=draw) / 18
    n, m = (None, None) if granularity == "weight" else map(int, granularity.split(":"))
    expected = transcribed_sparsegpt(weight, x, sparsity, n, m)
    how = _how("sparsegpt", sparsity, granularity, 0.01)
    found = pruned(weight, *told_by([x.double().T @ x.double()], how), how, "w")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    layer = nn.Linear(320, 48, bias=False)
    layer.weight.data = weight.clone()
    masks.sparsegpt(
        prunus.Sparsifier(layer), sparsity, granularity=granularity, data=[x], loss=lambda net, batch: net(batch).sum()
    )
    torch.testing.assert_close(layer.weight.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("granularity", ["weight", "2:4"])
def test_wanda_is_the_equation_of_the_paper(granularity):
    draw = torch.Generator().manual_seed(0)
    weight, x = torch.randn(48, 64, generator=draw), torch.randn(99, 64, generator=draw) * torch.arange(64)
    expected = weight.clone()
    for i in range(48):
        for line in [range(64)] if granularity == "weight" else [range(s, s + 4) for s in range(0, 64, 4)]:
            scores = {j: abs(float(weight[i, j])) * float(x[:, j].double().norm()) for j in line}
            for j in sorted(scores, key=scores.__getitem__)[: len(scores) // 2]:
                expected[i, j] = 0
    sparsity = 0.5 if granularity == "weight" else None
    how = _how("wanda", sparsity, granularity, 0.01)
    found = pruned(weight, *told_by([x.double().square().sum(0)], how), how, "w")
    assert torch.equal(found, expected)
    layer = nn.Linear(64, 48, bias=False)
    layer.weight.data = weight.clone()
    sparse = prunus.Sparsifier(layer)
    sparse.prune(sparsity, "wanda", granularity=granularity, data=[x], loss=lambda net, batch: net(batch).sum())
    assert torch.equal(layer.weight.data, expected)


def test_what_is_refused(saved, tmp_path):
    model, source, out = saved("llama")
    for wrong, words in [
        ({"method": "wand", "sparsity": 0.5}, "Did you mean 'wanda'"),
        ({"sparsity": 1.5}, "sparsity in"),
        ({"granularity": "2:4", "sparsity": 0.3}, "says its sparsity itself"),
        ({"sparsity": 0.5, "skip": ["*.down_prj"]}, "no parameter matches"),
    ]:
        with pytest.raises(InputError, match=words):
            sparsify(source, out, DATA, **wrong)
    with pytest.raises(InputError, match="no batches"):
        sparsify(source, out, [], sparsity=0.5)
    with pytest.raises(SaveError, match="neither"):
        sparsify(tmp_path, out, DATA, sparsity=0.5)
    with pytest.raises(PlanError, match="uniform=True"):
        cut(source, out, prunus.plan(model, DATA[0], ratio={"model.layers.0.mlp.gate_proj": 0.5}), DATA)
    next(source.glob("*-00002-*")).write_bytes(b"junk")
    with pytest.raises(SaveError, match="damaged"):
        sparsify(source, out, DATA, sparsity=0.5)
    assert not out.exists()
    assert {p.name for p in tmp_path.iterdir()} == {"dense"}


def test_an_encoder_with_post_norm_has_no_row(tmp_path):
    model = transformers.BertModel(transformers.BertConfig(**SIZES, intermediate_size=48))
    model.save_pretrained(tmp_path / "bert")
    with pytest.raises(InputError, match="no row of residual blocks"):
        sparsify(tmp_path / "bert", tmp_path / "out", DATA, sparsity=0.5)


def test_the_memory_benchmark_runs(tmp_path):
    """Its figures are another matter: this model is far smaller than what torch takes for itself."""
    command = [sys.executable, "-m", "benchmarks.large", "--layers", "2", "--width", "64", "--work", str(tmp_path)]
    done = subprocess.run([*command, "--methods", "wanda"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].startswith("| wanda |")
