"""Whole residual blocks removed: found by what a run shows, refused with the reason, proven, saved, composed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import prunus
from benchmarks.zoo import case

os.environ["HF_HUB_OFFLINE"] = "1"


def randomize(model: nn.Module) -> nn.Module:
    case.randomize(model)
    return model


class PreNorm(nn.Module):
    """``x + f(norm(x))`` in several ways of writing it."""

    def __init__(self, width: int, way: str = "plain") -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.way = way

    def forward(self, x: Tensor, scale: float = 1.0) -> object:
        y = self.down(torch.relu(self.up(self.norm(x))))
        return getattr(self, self.way)(x, y)

    def plain(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y

    def swapped(self, x: Tensor, y: Tensor) -> Tensor:
        return y + x

    def in_place(self, x: Tensor, y: Tensor) -> Tensor:
        y += x
        return y

    def minus(self, x: Tensor, y: Tensor) -> Tensor:
        return x - y

    def product(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.addcmul(x, y, torch.sigmoid(y))

    def moved(self, x: Tensor, y: Tensor) -> Tensor:
        return (
            (x.transpose(1, 2).flatten(1) + y.transpose(1, 2).flatten(1)).view(x.transpose(1, 2).shape).transpose(1, 2)
        )

    def pair(self, x: Tensor, y: Tensor) -> tuple[Tensor, None]:
        return x + y, None

    # These can't be removed exactly.
    def negative(self, x: Tensor, y: Tensor) -> Tensor:
        return y - x

    def scaled(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.add(y, x, alpha=2)

    def twice(self, x: Tensor, y: Tensor) -> Tensor:
        return (x + y) + x

    def normalized(self, x: Tensor, y: Tensor) -> Tensor:
        return self.norm(x + y)

    def ramp(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.relu(x + y)  # x may be negative

    def turned(self, x: Tensor, y: Tensor) -> Tensor:
        return (x + y).flip(1)

    def mixed_up(self, x: Tensor, y: Tensor) -> Tensor:
        return (x + y).transpose(1, 2).reshape(x.shape)

    def constant(self, x: Tensor, y: Tensor) -> Tensor:
        return x + self.norm.bias

    def computed_too(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x + y, y.mean(-1)


class Stack(nn.Module):
    """Blocks, some of which return a tuple, between two linear layers."""

    def __init__(self, *ways: str) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(5, 8), nn.Linear(8, 3)
        self.blocks = nn.ModuleList(PreNorm(8, way) for way in ways)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x=x, scale=0.5)
            x = x[0] if isinstance(x, tuple) else x
        return self.head(x)


def stack(*ways: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return randomize(Stack(*ways).eval()), torch.randn(2, 4, 5)


def without(model: Stack, x: Tensor, *gone: int) -> Tensor:
    """The same computation by hand."""
    x = model.stem(x)
    for i, block in enumerate(model.blocks):
        if i not in gone:
            x = block(x)
            x = x[0] if isinstance(x, tuple) else x
    return model.head(x)


@pytest.mark.parametrize("way", "plain swapped in_place minus product moved pair".split())
def test_removable_however_it_is_written(way: str) -> None:
    model, x = stack("plain", way, "plain")
    plan = prunus.drop_blocks(model, x, blocks="blocks.1")
    small = plan.apply(model)
    torch.testing.assert_close(small(x), without(model, x, 1), rtol=0, atol=0)
    assert prunus.prove(model, small, plan, x).ok
    assert not any(name.startswith("blocks.1.") for name in small.state_dict())
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())


REFUSALS = {
    "negative": "comes out of sub",
    "scaled": "comes out of add",
    "twice": "comes out of add",
    "normalized": "native_layer_norm",
    "ramp": "comes out of relu",
    "turned": "comes out of flip",
    "mixed_up": "change places",
    "constant": "comes out of add",
    "computed_too": r"of shape \[2, 4\]",
}


@pytest.mark.parametrize("way", REFUSALS)
def test_refused_with_the_reason(way: str) -> None:
    model, x = stack("plain", way)
    with pytest.raises(prunus.PlanError, match=rf"'blocks.1' can't be removed exactly.*{REFUSALS[way]}") as caught:
        prunus.drop_blocks(model, x, blocks=["blocks.1"])
    assert "Removable: blocks.0" in str(caught.value)


def test_the_proof_can_fail() -> None:
    model, x = stack("plain", "plain", "normalized")
    right = prunus.drop_blocks(model, x, blocks="blocks.0")
    other = prunus.drop_blocks(model, x, blocks="blocks.1").apply(model)
    assert not prunus.prove(model, other, right, x).ok
    wrong = prunus.Plan(right.shapes, {}, dropped={"blocks.2": right.dropped["blocks.0"]})
    with pytest.raises(prunus.PlanError, match="drops 'blocks.2', which can't be removed: its output comes out of"):
        prunus.prove(model, wrong.apply(model), wrong, x)


def test_resnet_blocks_go_only_where_the_same_relu_came_before() -> None:
    torchvision = pytest.importorskip("torchvision")
    model, x = randomize(torchvision.models.resnet18(weights=None).eval()), torch.randn(1, 3, 48, 48)
    blocks = {
        b.name: b.refusal for b in prunus.find_blocks(model, x) if b.name.startswith("layer") and len(b.name) == 8
    }
    assert [name for name, refusal in blocks.items() if refusal is None] == [
        "layer1.0", "layer1.1", "layer2.1", "layer3.1", "layer4.1",
    ]  # fmt: skip
    plan = prunus.drop_blocks(model, x, blocks=["layer1", "layer[234].1"])  # a whole stage is residual too
    assert list(plan.dropped) == ["layer1", "layer2.1", "layer3.1", "layer4.1"]
    assert prunus.prove(model, plan.apply(model), plan, x).ok


@pytest.mark.parametrize("name, gone", [("mobilenet_v2", "features.3"), ("convnext_tiny", "features.3.1")])
def test_torchvision(name: str, gone: str) -> None:
    torchvision = pytest.importorskip("torchvision")
    model, x = torchvision.models.get_model(name, weights=None).eval(), torch.randn(1, 3, 64, 64)
    plan = prunus.drop_blocks(model, x, blocks=gone)
    small = plan.apply(model)
    assert prunus.prove(model, small, plan, x).ok


def test_onnx_has_nothing_of_a_removed_block(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model, x = stack("plain", "pair", "plain")
    small = prunus.drop_blocks(model, x, blocks="blocks.1").apply(model)
    files = [tmp_path / "small.onnx", tmp_path / "model.onnx"]
    assert all(prunus.export(m, x, file).max_rel_error < 1e-5 for m, file in zip((small, model), files, strict=True))
    adds = [sum(node.op_type == "LayerNormalization" for node in onnx.load(f).graph.node) for f in files]
    assert adds == [2, 3]


def test_transformer_layers_of_torch() -> None:
    def encoder(norm_first: bool) -> nn.Module:
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=norm_first)
        return randomize(nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).eval())

    x = torch.randn(2, 5, 16)
    model = encoder(norm_first=True)
    plan = prunus.drop_blocks(model, x, number=1)
    assert prunus.prove(model, plan.apply(model), plan, x).ok
    with pytest.raises(prunus.NothingToPrune, match="native_layer_norm"):
        prunus.drop_blocks(encoder(norm_first=False), x, number=1)


def test_influence_is_one_minus_the_mean_cosine() -> None:
    model, x = stack("plain", "minus", "product", "plain")
    data = [x, torch.randn(3, 4, 5)]
    expected = {}
    with torch.no_grad():
        streams = [model.stem(batch) for batch in data]
        for i, block in enumerate(model.blocks):
            after = [block(s) for s in streams]
            pairs = [
                (a.flatten(0, 1)[t], b.flatten(0, 1)[t])
                for a, b in zip(streams, after, strict=True)
                for t in range(a.shape[0] * a.shape[1])
            ]
            expected[f"blocks.{i}"] = 1 - sum((a @ b / a.norm() / b.norm()).item() for a, b in pairs) / len(pairs)
            streams = after
    before = torch.get_rng_state()
    plan = prunus.drop_blocks(model, x, number=2, data=data)
    assert torch.equal(before, torch.get_rng_state())
    assert plan.how["scores"] == pytest.approx(expected, rel=1e-4)
    assert list(plan.dropped) == sorted(sorted(expected, key=expected.__getitem__)[:2])
    assert list(prunus.drop_blocks(model, x, number=1, keep=list(plan.dropped)).dropped) == [
        sorted(expected, key=expected.__getitem__)[2]
    ]


def test_evaluate_takes_the_best_of_each_round() -> None:
    model, x = stack(*["plain"] * 4)
    rounds: list[int] = []

    def evaluate(small: nn.Module) -> float:
        left = [i for i in range(4) if any(True for _ in small.blocks[i].parameters())]
        rounds.append(len(left))
        return -float(sum(left)) + (10.0 if left == [0, 2] else 0.0)

    plan = prunus.drop_blocks(model, x, number=2, evaluate=evaluate)
    assert list(plan.dropped) == ["blocks.1", "blocks.3"]  # 3 goes first: the least sum; then 1 for its bonus
    assert rounds == [3] * 4 + [2] * 3
    with pytest.raises(prunus.InputError, match="returned 'good'"):
        prunus.drop_blocks(model, x, number=1, evaluate=lambda small: "good")


@pytest.mark.parametrize(
    "options, words",
    [
        ({}, "exactly|either blocks="),
        ({"blocks": "blocks.0", "number": 1}, "either"),
        ({"blocks": "block.0"}, "Did you mean 'blocks.0'"),
        ({"blocks": "blocks.0", "data": []}, "where number= asks"),
        ({"number": 0}, "from 1 to 2"),
        ({"number": 3}, "from 1 to 2"),
        ({"number": True}, "from 1 to 2"),
        ({"number": 1, "keep": ["nothing"]}, "no removable block matches"),
        ({"number": 1, "data": []}, "no batches"),
    ],
)
def test_wrong_requests(options: dict[str, object], words: str) -> None:
    model, x = stack("plain", "plain")
    with pytest.raises(prunus.InputError, match=words):
        prunus.drop_blocks(model, x, **options)


def test_composes_with_width_both_ways_and_survives_json_and_a_folder(tmp_path: Path) -> None:
    model, x = stack("plain", "pair", "plain")
    drop = prunus.drop_blocks(model, x, blocks="blocks.1")
    shallow = drop.apply(model)
    narrow = prunus.plan(shallow, x, ratio=0.5).apply(shallow)
    narrow_plan = narrow.prunus_plan
    assert narrow_plan.dropped == drop.dropped and prunus.prove(model, narrow, narrow_plan, x).ok

    width = prunus.plan(model, x, ratio=0.5)
    thin = width.apply(model)
    both = prunus.drop_blocks(thin, x, blocks="blocks.1").apply(thin)
    both_plan = both.prunus_plan
    assert prunus.prove(model, both, both_plan, x).ok
    assert not any(name.startswith("blocks.1.") for name in both_plan.kept)

    again = prunus.Plan.from_json(both_plan.to_json())
    assert again == both_plan
    torch.testing.assert_close(again.apply(model)(x), both(x), rtol=0, atol=0)
    prunus.save(both, tmp_path / "small")
    loaded = prunus.load(tmp_path / "small", lambda: Stack("plain", "pair", "plain"))
    torch.testing.assert_close(loaded(x), both(x), rtol=0, atol=0)
    with torch.device("meta"):
        skeleton = again.apply(Stack("plain", "pair", "plain"))
    assert {n: t.shape for n, t in skeleton.named_parameters()} == {n: t.shape for n, t in both.named_parameters()}
    with pytest.raises(prunus.PlanError, match="doesn't follow the first"):
        drop.then(width)


def test_an_outer_block_takes_inner_ones_with_it() -> None:
    model, x = stack("plain", "plain")
    outer = nn.Sequential(nn.Sequential(model.blocks[0], model.blocks[1]), nn.Linear(8, 2))
    y = model.stem(x).detach()
    inner = prunus.drop_blocks(outer, y, blocks="0.1")
    left = inner.apply(outer)
    whole = inner.then(prunus.drop_blocks(left, y, blocks="0"))
    assert list(whole.dropped) == ["0"]
    torch.testing.assert_close(whole.apply(outer)(y), outer[1](y), rtol=0, atol=0)


def test_plans_of_schema_one_still_load() -> None:
    model, x = stack("plain")
    plan = prunus.plan(model, x, ratio=0.5)
    document = json.loads(plan.to_json())
    assert document["schema"] == 1 and "dropped" not in document  # what older versions read
    assert prunus.Plan.from_json(json.dumps(document)) == plan
    for broken in ({"blocks.0": 3}, {"blocks.0": {"input": [None, None]}}, {"blocks.0": {"call": ["os.remove"]}}):
        with pytest.raises(prunus.PlanError, match="malformed"):
            prunus.Plan.from_json(json.dumps({**document, "schema": 3, "dropped": broken}))
    with pytest.raises(prunus.PlanError, match="drops 'blocks.9'"):
        prunus.Plan(plan.shapes, {}, dropped={"blocks.9": {"input": [0, "x"]}}).apply(model)


def llama(**more: object) -> tuple[nn.Module, dict[str, Tensor]]:
    transformers = pytest.importorskip("transformers")
    config = transformers.Qwen2Config(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
        vocab_size=99, pad_token_id=0, **more,
    )  # fmt: skip
    ids = torch.tensor([[5, 17, 31, 8, 90], [44, 3, 12, 77, 6]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return randomize(transformers.Qwen2ForCausalLM(config).eval()), inputs


def test_generates_with_a_cache_when_the_first_layer_is_gone() -> None:
    model, inputs = llama()
    plan = prunus.drop_blocks(model, (), inputs, blocks=["model.layers.0", "model.layers.2"])
    assert [str(c) for c in plan.attributes] == ["model.layers.1.self_attn.layer_idx: 1 -> 0"]
    small = plan.apply(model)
    assert prunus.prove(model, small, plan, (), inputs).ok
    cached = small.generate(**inputs, max_new_tokens=8, do_sample=False)
    ids = inputs["input_ids"]
    for _ in range(8):  # by hand, the whole text each time
        logits = small(ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(cached, ids)


def test_the_heir_of_the_first_slot_is_of_its_kind() -> None:
    kinds = {"use_sliding_window": True, "sliding_window": 3}
    mixed = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
    model, inputs = llama(layer_types=mixed, **kinds)
    plan = prunus.drop_blocks(model, (), inputs, blocks="model.layers.0")
    assert [str(c) for c in plan.attributes] == ["model.layers.2.self_attn.layer_idx: 2 -> 0"]
    lonely, inputs = llama(layer_types=["sliding_attention", *["full_attention"] * 3], **kinds)
    with pytest.raises(prunus.PlanError, match=r"holds slot 0 \(layer_idx\)"):
        prunus.drop_blocks(lonely, (), inputs, blocks="model.layers.0")


def _t5() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=99, d_model=32, d_kv=8, d_ff=48, num_layers=3, num_heads=4, use_cache=False)
    )


def _gpt2() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=99, n_embd=32, n_layer=3, n_head=4, bos_token_id=1, eos_token_id=2)
    )


FAMILIES: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "t5": (_t5, "decoder.block.1"),
    "gpt2": (_gpt2, "transformer.h.1"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers(family: str) -> None:
    make, gone = FAMILIES[family]
    ids = torch.tensor([[5, 17, 31, 8, 90]])
    inputs = {"input_ids": ids, **({"decoder_input_ids": ids} if family == "t5" else {})}
    model = randomize(make().eval())
    plan = prunus.drop_blocks(model, (), inputs, blocks=gone)
    assert prunus.prove(model, plan.apply(model), plan, (), inputs).ok


def test_a_model_without_weights_can_be_planned_by_name_only() -> None:
    with torch.device("meta"):
        model = Stack("plain", "plain").eval()
    plan = prunus.drop_blocks(model, torch.randn(2, 4, 5, device="meta"), blocks="blocks.0")
    assert list(plan.dropped) == ["blocks.0"]
    with pytest.raises(prunus.InputError, match="meta device"):
        prunus.drop_blocks(model, torch.randn(2, 4, 5, device="meta"), number=1)


class Branching(nn.Module):
    """With a second input the block normalizes its sum: there it isn't residual."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.plain = PreNorm(8), PreNorm(8)

    def forward(self, x: Tensor, post: Tensor | None = None) -> Tensor:
        self.block.way = "plain" if post is None else "normalized"
        return self.plain(self.block(x))


def test_several_examples_must_agree() -> None:
    model, x = randomize(Branching().eval()), torch.randn(2, 4, 8)
    both = prunus.Examples(x, (x, x))
    assert {b.name: b.refusal is None for b in prunus.find_blocks(model, x) if "." not in b.name} == {
        "block": True,
        "plain": True,
    }
    with pytest.raises(prunus.PlanError, match="'block' can't be removed exactly"):
        prunus.drop_blocks(model, both, blocks="block")
    plan = prunus.drop_blocks(model, both, blocks="plain")
    assert prunus.prove(model, plan.apply(model), plan, both).ok
