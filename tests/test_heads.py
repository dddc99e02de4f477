"""Heads of nn.MultiheadAttention go alone: our layer is torch's where the heads fill the width, and exact where not."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import prunus
from benchmarks.zoo.case import randomize
from prunus.heads import FreeHeads
from tests.test_extract import relative

KINDS = {
    "plain": {},
    "batch first": {"batch_first": True},
    "other widths": {"kdim": 12, "vdim": 10},
    "no bias": {"bias": False, "batch_first": True},
    "bias of keys": {"add_bias_kv": True},
    "zero key": {"add_zero_attn": True, "add_bias_kv": True, "batch_first": True},
}


def attention(**settings) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(16, 4, **settings).double().eval()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, 0, 0.3)
    return layer


def inputs(layer: nn.MultiheadAttention, batched: bool) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Of its own, of another sequence, and of three that differ."""

    def made(width: int) -> Tensor:
        return (
            torch.randn(*((3, 5) if layer.batch_first else (5, 3)), width).double()
            if batched
            else torch.randn(5, width).double()
        )

    x, key, value = made(16), made(layer.kdim), made(layer.vdim)
    return [(x, key, value), *([(x, x, x), (x, key, key)] if layer.kdim == 16 else [])]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batched", [True, False])
def test_the_same_as_torch(kind: str, batched: bool) -> None:
    layer = attention(**KINDS[kind])
    freed = prunus.free_heads(layer)
    padding = torch.zeros((3, 5) if batched else (5,), dtype=torch.bool)
    padding[..., -2:] = True
    causal, each = torch.ones(5, 5).triu(1).bool(), torch.randn((3 if batched else 1) * 4, 5, 5).double()
    masks = [
        {},
        {"key_padding_mask": padding},
        {"attn_mask": causal},
        {"attn_mask": each},
        {"attn_mask": causal, "key_padding_mask": padding},
        {"attn_mask": causal, "is_causal": True},
    ]
    for given, more, need, average in itertools.product(inputs(layer, batched), masks, (True, False), (True, False)):
        settings = {"need_weights": need, "average_attn_weights": average, **more}
        with torch.set_grad_enabled(bool(need)):  # without gradients torch takes a path of its own
            torch.testing.assert_close(freed(*given, **settings), layer(*given, **settings), rtol=1e-12, atol=1e-12)


def test_the_hint_needs_its_mask() -> None:
    x = torch.randn(5, 3, 16).double()
    with pytest.raises(RuntimeError, match="attn_mask"):
        prunus.free_heads(attention())(x, x, x, is_causal=True)


def test_dropout_is_that_of_training() -> None:
    layer = attention(dropout=0.5)
    freed, x = prunus.free_heads(layer), torch.randn(5, 3, 16).double()
    for need in (True, False):
        assert torch.equal(freed(x, x, x, need_weights=need)[0], freed(x, x, x, need_weights=need)[0])
        freed.train()
        assert not torch.equal(freed(x, x, x, need_weights=need)[0], freed(x, x, x, need_weights=need)[0])
        freed.eval()


class Cross(nn.Module):
    """Attention to another sequence, of other widths."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.MultiheadAttention(16, 4, kdim=12, vdim=10)

    def forward(self, x: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return x + self.mix(x, key, value, need_weights=False)[0]


class Weighing(nn.Module):
    """Attention called as it comes, with its weights, which average over the heads: who reads them?"""

    def __init__(self, reads: str = "") -> None:
        super().__init__()
        self.mix, self.reads = nn.MultiheadAttention(16, 4, batch_first=True), reads

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        y, weights = self.mix(x, x, x)
        if self.reads == "keeps":
            self.seen = weights
        return (x + y, weights) if self.reads == "returns" else x + y * weights.sum() if self.reads == "uses" else x + y


def vit() -> nn.Module:
    return pytest.importorskip("torchvision").models.VisionTransformer(16, 8, 2, 4, 16, 32, num_classes=5)


def encoder() -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2)


def seq2seq() -> nn.Module:
    return nn.Transformer(16, 4, 1, 1, 32, batch_first=True)


MODELS = {
    "encoder": (encoder, {"layers.1.self_attn": [1, 2]}, ((2, 5, 16),)),
    "layer": (lambda: nn.TransformerEncoderLayer(16, 4, 32, norm_first=True), {"self_attn": [0]}, ((5, 2, 16),)),
    "seq2seq": (
        seq2seq,
        {"encoder.layers.0.self_attn": [3], "decoder.layers.0.multihead_attn": [0, 1, 3]},
        ((2, 5, 16), (2, 4, 16)),
    ),
    "cross": (Cross, {"mix": [1]}, ((5, 2, 16), (7, 2, 12), (7, 2, 10))),
    "weighing": (Weighing, {"mix": [1, 2]}, ((2, 5, 16),)),
    "vit": (vit, {"encoder.layers.encoder_layer_0.self_attention": [0, 3]}, ((2, 3, 16, 16),)),
}


def given(shapes: tuple[tuple[int, ...], ...]) -> tuple[Tensor, ...]:
    return tuple(torch.randn(shape).double() for shape in shapes)


def masked(make, dead: dict[str, list[int]]) -> nn.Module:
    """Its named attentions give only the biases of the values in the dead heads."""
    torch.manual_seed(0)
    model = make().double().eval()
    randomize(model)
    for name, heads in dead.items():
        layer = model.get_submodule(name)
        values = layer.v_proj_weight if layer.in_proj_weight is None else layer.in_proj_weight[32:]
        with torch.no_grad():
            values.view(4, 4, -1)[heads] = 0
    return model


@pytest.mark.parametrize("name", MODELS)
def test_dead_heads_go_and_the_width_stays(name: str, tmp_path: Path) -> None:
    make, dead, shapes = MODELS[name]
    model = masked(make, dead)
    small = prunus.extract(model, given(shapes))
    assert set(small.prunus_plan.freed) == set(dead)
    for path, heads in dead.items():
        layer = small.get_submodule(path)
        assert (layer.num_heads, layer.embed_dim) == (4 - len(heads), 16)
        assert layer.out_proj.weight.shape == (16, 16 - 4 * len(heads))
    prunus.save(small, tmp_path / "small")
    loaded = prunus.load(tmp_path / "small", lambda: make().double()).eval()
    for grad in (True, False):  # torch's encoders have a path of their own without gradients
        x = given(shapes)
        with torch.set_grad_enabled(grad):
            assert relative(model(*x), small(*x)) <= 1e-12
            assert torch.equal(small(*x), loaded(*x))


@pytest.mark.parametrize("name", MODELS)
def test_heads_are_pruned_alone(name: str) -> None:
    make, dead, shapes = MODELS[name]
    model, x = masked(make, {}), given(shapes)
    small = prunus.prune(prunus.free_heads(model), x, ratio={f"*{path}": 0.5 for path in dead})
    assert set(small.prunus_plan.freed) == set(dead)
    assert all(small.get_submodule(path).num_heads == 2 for path in dead)
    assert small(*x).shape == model(*x).shape
    again = small.prunus_plan.apply(model)  # a plan of the copy fits the model
    theirs, ours = again.state_dict(), small.state_dict()
    assert theirs.keys() == ours.keys() and all(torch.equal(theirs[name], ours[name]) for name in ours)
    torch.testing.assert_close(again(*x), small(*x), rtol=1e-12, atol=1e-12)  # torch's own layer and ours round apart
    assert prunus.prove(model, again, small.prunus_plan, x).ok


@pytest.mark.parametrize("reads", ["returns", "keeps", "uses"])
def test_heads_stay_in_an_average_that_is_read(reads: str) -> None:
    with pytest.raises(prunus.NothingToPrune):
        prunus.extract(masked(lambda: Weighing(reads), {"mix": [1, 2]}), given(((2, 5, 16),)))


def test_padding_is_hidden_from_what_is_left() -> None:
    model = masked(encoder, {"layers.1.self_attn": [1, 2]})
    model.layers[1].self_attn.in_proj_bias.data[32:].view(4, 4)[[1, 2]] = 0
    small = prunus.extract(model, given(((2, 5, 16),)))
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    (x,) = given(((2, 5, 16),))
    with torch.no_grad():
        found, expected = (each(x, src_key_padding_mask=padding) for each in (small, model))
    assert relative(expected[~padding], found[~padding]) <= 1e-12
    assert bool((expected[padding] == 0).all()) and bool((found[padding] != 0).any())  # of torch's path alone


def test_nothing_is_replaced_where_heads_go_with_the_width() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.mix, self.head = nn.Linear(3, 16), nn.MultiheadAttention(16, 4), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            return self.head(x + self.mix(x, x, x, need_weights=False)[0])

    small = prunus.prune(prunus.free_heads(Model().eval()), torch.randn(5, 2, 3), ratio=0.5)
    assert small.prunus_plan.freed == () and type(small.prunus_plan.apply(Model()).mix) is nn.MultiheadAttention
    narrow = prunus.prune(small, torch.randn(5, 2, 3), ratio={"mix": 0.5})
    assert narrow.prunus_plan.freed == ("mix",) and (narrow.mix.num_heads, narrow.mix.embed_dim) == (1, 8)
    assert isinstance(narrow.prunus_plan.apply(Model()).mix, FreeHeads)


def test_a_plan_frees_attentions_alone() -> None:
    plan = prunus.extract(masked(*MODELS["layer"][:2]), given(MODELS["layer"][2])).prunus_plan
    document = json.loads(plan.to_json())
    assert document["schema"] == 4 and prunus.Plan.from_document(document) == plan
    for broken in ("self_attn", ["nowhere"], [1]):
        with pytest.raises(prunus.PlanError, match="malformed"):
            prunus.Plan.from_document({**document, "freed": broken})
    wrong = nn.TransformerEncoderLayer(16, 4, 32)
    wrong.self_attn.__class__ = type("Own", (nn.MultiheadAttention,), {})
    with pytest.raises(prunus.PlanError, match="Own"):
        plan.apply(wrong)
