"""Models with a config and a cache: they generate after the cut, and are saved in their own library's way."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import prunus
from benchmarks.zoo.case import randomize
from benchmarks.zoo.values import find_kept, make_distinct, reference

os.environ["HF_HUB_OFFLINE"] = "1"
transformers = pytest.importorskip("transformers")

IDS = torch.tensor([[5, 17, 31, 8, 90, 12], [44, 3, 12, 77, 6, 9]])
LEFT_PADDED = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1]])


def made(model: str, config: str, **values: Any) -> nn.Module:
    torch.manual_seed(0)
    result: nn.Module = getattr(transformers, model)(getattr(transformers, config)(**values)).eval()
    randomize(result)
    return result


BERT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 99,
}
LLAMA = {**BERT, "num_attention_heads": 8, "num_key_value_heads": 4}
GPT2 = {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2}
T5 = {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
BART = {
    "vocab_size": 99,
    "d_model": 32,
    "max_position_embeddings": 32,
    **{f"{side}_layers": 2 for side in ("encoder", "decoder")},
    **{f"{side}_attention_heads": 4 for side in ("encoder", "decoder")},
    **{f"{side}_ffn_dim": 48 for side in ("encoder", "decoder")},
}

GENERATORS: dict[str, Callable[[], nn.Module]] = {
    "llama": lambda: made("LlamaForCausalLM", "LlamaConfig", **LLAMA),
    "qwen2": lambda: made("Qwen2ForCausalLM", "Qwen2Config", **LLAMA),
    "gemma2, sliding windows": lambda: made("Gemma2ForCausalLM", "Gemma2Config", **LLAMA, head_dim=8, sliding_window=4),
    "gpt2": lambda: made("GPT2LMHeadModel", "GPT2Config", **GPT2),
    "t5": lambda: made("T5ForConditionalGeneration", "T5Config", decoder_start_token_id=0, **T5),
    "bart": lambda: made("BartForConditionalGeneration", "BartConfig", **BART),
    "mixtral": lambda: made("MixtralForCausalLM", "MixtralConfig", **LLAMA, num_local_experts=4),
    "mamba": lambda: made("MambaForCausalLM", "MambaConfig", vocab_size=99, hidden_size=32, num_hidden_layers=2),
}


def inputs_of(model: Any) -> dict[str, torch.Tensor]:
    return {"input_ids": IDS, **({"decoder_input_ids": IDS} if model.config.is_encoder_decoder else {})}


def generated(model: Any, **how: Any) -> torch.Tensor:
    """Eight tokens for each of two prompts, one of them padded on the left; not one token again and again."""
    how = {"do_sample": False, "max_new_tokens": 8, "min_new_tokens": 8, "repetition_penalty": 3.0, **how}
    tokens: torch.Tensor = model.generate(IDS, attention_mask=LEFT_PADDED, pad_token_id=0, **how)
    return tokens


@pytest.mark.parametrize("name", GENERATORS)
def test_generates_after_the_cut(name: str) -> None:
    model: Any = GENERATORS[name]()
    small: Any = prunus.prune(model, (), inputs_of(model))  # use_cache is on, as it is unless one says otherwise
    assert sum(p.numel() for p in small.parameters()) < 0.5 * sum(p.numel() for p in model.parameters())
    cached = generated(small, use_cache=True)
    assert torch.equal(cached, generated(small, use_cache=False))
    assert torch.equal(cached, generated(small, use_cache=True, cache_implementation="static"))


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5", "mixtral", "mamba"])
def test_generates_what_the_masked_original_generates(name: str) -> None:
    """With a cache, token by token, from another prompt than the plan was made with; what went is found by value."""
    model: Any = GENERATORS[name]().double()
    if name == "mixtral":
        model.set_experts_implementation("eager")  # torch's grouped products aren't for fp64
    make_distinct(model)
    uniform = name == "mixtral"  # the run doesn't read num_key_value_groups, of which the config knows
    small: Any = prunus.prune(model, (), inputs_of(model), uniform=uniform)
    masked: Any = reference(model, small, find_kept(model, small))
    tokens = generated(small, use_cache=True)
    assert torch.equal(tokens, generated(masked, use_cache=True))
    assert not torch.equal(tokens, generated(model, use_cache=True)), "as the original, or the test shows nothing"


def test_the_key_value_cache_shrinks() -> None:
    small: Any = prunus.prune(GENERATORS["llama"](), (), {"input_ids": IDS})
    layer = small(IDS).past_key_values.layers[0]
    assert layer.keys.shape == layer.values.shape == (2, 2, 6, 4)  # of four heads


def test_a_cache_is_a_state_even_where_torch_knows_what_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """``torch.export`` support registers the cache's class, which makes its tensors leaves of the output."""
    cache = transformers.DynamicCache
    monkeypatch.setattr(pytree, "SUPPORTED_NODES", dict(pytree.SUPPORTED_NODES))
    node = pytree.SUPPORTED_NODES[list]
    flat = lambda c: ([x for layer in c.layers for x in (layer.keys, layer.values)], None)  # noqa: E731
    pytree.SUPPORTED_NODES[cache] = node._replace(type=cache, flatten_fn=flat)
    model = GENERATORS["llama"]()
    assert len(pytree.tree_leaves(model(IDS).past_key_values)) == 4
    graph = prunus.trace(model, (), {"input_ids": IDS})
    assert any("DynamicCache" in note for note in graph.notes)
    plan = prunus.plan(graph)
    small = plan.apply(model)
    assert small.get_submodule("model.layers.0.self_attn.k_proj").weight.shape == (8, 16)
    assert prunus.prove(model, small, plan, (), {"input_ids": IDS}).outputs == 1


def test_many_layers_that_resist_alike_do_not_take_an_attempt_each() -> None:
    """With two queries a key, halving leaves one, which takes another path: in every layer."""
    model = made(
        "LlamaForCausalLM",
        "LlamaConfig",
        **{**LLAMA, "num_hidden_layers": 30, "num_attention_heads": 4, "num_key_value_heads": 2},
    )
    small = prunus.plan(model, (), {"input_ids": IDS}).apply(model)
    assert {small.get_submodule(f"model.layers.{i}.self_attn.q_proj").out_features for i in range(30)} == {16}


def test_where_one_index_would_take_another_path_two_stay() -> None:
    """Of three queries a key; that repeated keys need no repetition for one is no reason to leave all three."""
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2, "hidden_size": 24}
    model = made("LlamaForCausalLM", "LlamaConfig", **{**LLAMA, **sizes})
    graph = prunus.trace(model, (), {"input_ids": IDS})
    queries = [g for g in graph.free if g.size == 3]
    assert len(queries) == 2
    plan = prunus.plan(graph, ratio=dict.fromkeys((g.name for g in queries), 0.7))
    small = plan.apply(model)
    assert {small.get_submodule(f"model.layers.{i}.self_attn.q_proj").out_features for i in range(2)} == {16}
    assert all("at least 2 stay, for model.layers" in graph.state(g) for g in graph.groups if g.size == 3)
    assert prunus.prove(model, small, plan, (), {"input_ids": IDS}).outputs == 1


def test_no_weights_are_read_to_plan_at_random() -> None:
    model = GENERATORS["llama"]().to("meta")
    one, two = (prunus.plan(model, (), {"input_ids": IDS}, importance="random") for _ in range(2))
    assert one.kept == two.kept
    assert {p.device.type for p in one.apply(model).parameters()} == {"meta"}
    with pytest.raises(prunus.InputError, match="importance='random'"):
        prunus.plan(model, (), {"input_ids": IDS}, importance="l2")


@dataclass
class Settings:
    width: int = 32
    heads: int = 4


class Block(nn.Module):
    """Attention as people write it who keep one config: forward reads it."""

    def __init__(self, config: Settings) -> None:
        super().__init__()
        self.config = config
        self.qkv, self.out = nn.Linear(config.width, 3 * config.width), nn.Linear(config.width, config.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, length = x.shape[:2]
        q, k, v = self.qkv(x).view(n, length, 3, self.config.heads, -1).permute(2, 0, 3, 1, 4)
        y = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return x + self.out(y.transpose(1, 2).flatten(2))


def test_a_config_read_in_forward_ties_the_layers_that_read_it() -> None:
    torch.manual_seed(0)
    config = Settings()
    model = nn.Sequential(nn.Linear(8, 32), Block(config), Block(config), nn.Linear(32, 8))
    graph = prunus.trace(model, x := torch.randn(2, 5, 8))
    heads = next(g.name for g in graph.free if g.size == 4 and g.atom not in graph.sizes.followers)
    small = prunus.prune(model, x, ratio={heads: 0.5})
    new = small.get_submodule("1").config
    assert (new.heads, config.heads) == (2, 4)
    assert new is small.get_submodule("2").config
    assert [small.get_submodule(f"{i}.qkv").out_features for i in (1, 2)] == [48, 48]
    again = prunus.Plan.from_json(small.prunus_plan.to_json()).apply(model)
    assert again.get_submodule("2").config == new


TOWER = {k: v for k, v in BERT.items() if k != "vocab_size"}
VISION = {**TOWER, "image_size": 32, "patch_size": 8}
PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
PATCHES = {"image_size": 32, "patch_size": 4}
STAGES = {"depths": [1, 1], "num_heads": [4, 8], "window_size": 4}
PYRAMID = {"image_size": 32, "depths": [1, 1], "hidden_sizes": [16, 32], "num_attention_heads": [4, 8]}
PYRAMID |= {"num_encoder_blocks": 2, "sequence_reduction_ratios": [2, 1], "mlp_ratios": [3, 2], "patch_sizes": [4, 2]}
PYRAMID |= {"strides": [4, 2]}
WORDS = {"vocab_size": 99, "bos_token_id": 97, "eos_token_id": 98}
# name: (model, fields of the config that change, as the small model has them)
UNIFORM: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "llama": (GENERATORS["llama"], {"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2}),
    "qwen2": (GENERATORS["qwen2"], {"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2}),
    "gpt2": (GENERATORS["gpt2"], {"n_embd": 16, "n_head": 2}),
    "bert": (
        lambda: made("BertForMaskedLM", "BertConfig", **BERT),
        {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24},
    ),
    "vit": (
        lambda: made("ViTForImageClassification", "ViTConfig", **VISION),
        {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24},
    ),
    "t5": (GENERATORS["t5"], {"num_heads": 2, "d_kv": 4, "d_ff": 24}),
    # the width of a feed-forward layer is that of the stage times a ratio: a float, an integer of the config, a literal
    "swin": (
        lambda: made("SwinForImageClassification", "SwinConfig", **PATCHES, **STAGES, embed_dim=16),
        {"embed_dim": 8, "num_heads": [2, 4], "mlp_ratio": 4.0},
    ),
    "pvt": (
        lambda: made("PvtForImageClassification", "PvtConfig", **PYRAMID),
        {"hidden_sizes": [8, 16], "num_attention_heads": [2, 4], "mlp_ratios": [3, 2]},
    ),
    "convnext": (
        lambda: made(
            "ConvNextForImageClassification", "ConvNextConfig", hidden_sizes=[16, 32], depths=[1, 1], num_stages=2
        ),
        {"hidden_sizes": [8, 16]},
    ),
    "clip": (
        lambda: made(
            "CLIPModel", "CLIPConfig", text_config={**TOWER, **WORDS}, vision_config=VISION, projection_dim=24
        ),
        {"text_config.intermediate_size": 24, "vision_config.intermediate_size": 24},
    ),
}


def example(model: Any) -> dict[str, torch.Tensor]:
    kind = model.config.model_type
    if kind == "clip":
        return {"input_ids": IDS, "pixel_values": PIXELS}
    return {"pixel_values": PIXELS} if model.main_input_name == "pixel_values" else inputs_of(model)


def tensors_of(outputs: Any) -> list[torch.Tensor]:
    return [value for value in outputs.to_tuple() if isinstance(value, torch.Tensor)]


@pytest.mark.parametrize("name", UNIFORM)
def test_uniform_is_saved_and_loaded_by_the_stock_class(name: str, tmp_path: Path) -> None:
    make, expected = UNIFORM[name]
    model: Any = make()
    inputs, before = example(model), model.config.to_dict()
    small: Any = prunus.prune(model, (), inputs, uniform=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        small.save_pretrained(tmp_path)
    stock = type(model).from_pretrained(tmp_path).eval()
    for field, size in expected.items():
        assert attrgetter(field)(stock.config) == size, field
    assert model.config.to_dict() == before
    assert "one config fits" in small.prunus_plan.explain()
    for a, b in zip(tensors_of(small(**inputs)), tensors_of(stock(**inputs)), strict=True):
        assert torch.equal(a, b)


def test_layers_of_their_own_do_not_pass_for_uniform(tmp_path: Path) -> None:
    model: Any = GENERATORS["llama"]()
    plan = prunus.plan(model, (), inputs_of(model), ratio={"model.layers.0.mlp.gate_proj": 0.5})
    assert plan.how["config"].startswith("no config fits: 'model.layers.1.mlp.gate_proj.weight' of shape [48, 32]")
    small: Any = plan.apply(model)
    assert small.config.to_dict() == model.config.to_dict()
    again: Any = copy.deepcopy(small)
    for each in (small, again):
        with pytest.warns(UserWarning, match=r"prunus\.save"):
            each.save_pretrained(tmp_path / "theirs")
    prunus.save(small, tmp_path / "ours")
    loaded: Any = prunus.load(tmp_path / "ours", lambda: type(model)(model.config))
    assert torch.equal(loaded.eval()(IDS).logits, small(IDS).logits)
    del model.config
    with pytest.raises(prunus.InputError, match="no config"):
        prunus.plan(made("LlamaForCausalLM", "LlamaConfig", **LLAMA).model.norm, torch.randn(2, 32), uniform=True)


def test_what_happens_to_be_uniform_is_saved_as_such() -> None:
    """Without asking: all layers lose the same, so that a config fits."""
    model: Any = GENERATORS["t5"]()
    plan = prunus.plan(model, (), inputs_of(model))
    assert plan.how["config"].startswith("one config fits")
    assert (plan.apply(model).config.d_ff, model.config.d_ff) == (24, 48)


def test_a_width_that_sets_a_scale_stays_if_the_constructor_is_to_build_it() -> None:
    """Gemma multiplies its embeddings by the root of the width: a smaller config would give another factor."""
    model: Any = made("GemmaForCausalLM", "GemmaConfig", **LLAMA, head_dim=8)
    small: Any = prunus.prune(model, (), inputs_of(model), uniform=True)
    assert (small.config.hidden_size, small.config.head_dim, small.config.intermediate_size) == (32, 8, 24)


class Depthwise(nn.Conv2d):
    """A subclass, so that its integers count as the user's own."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, groups=channels)


class Separable(nn.Module):
    def __init__(self, config: Settings) -> None:
        super().__init__()
        self.config = config
        self.first, self.second = nn.Conv2d(3, config.width, 1), Depthwise(config.width)
        self.last = nn.Conv2d(config.width, config.heads, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.last(self.second(self.first(x)).relu())
        return y


@pytest.mark.parametrize("uniform", [False, True])
def test_a_class_of_the_users_own_is_built_from_its_config_too(uniform: bool) -> None:
    torch.manual_seed(0)
    model = Separable(Settings())
    small: Any = prunus.prune(model, torch.randn(1, 3, 8, 8), uniform=uniform)
    assert (small.config, model.config) == (Settings(width=16), Settings())
    Separable(small.config).load_state_dict(small.state_dict())
    assert (small.second.in_channels, small.second.groups) == (16, 16)


def test_a_config_may_hold_what_holds_it() -> None:
    config: Any = Settings()
    config.inner = Settings()
    config.inner.outer = config
    small: Any = prunus.prune(Separable(config), torch.randn(1, 3, 8, 8), uniform=True)
    assert small.config.width == 16


REPEATED = {"vocab_size": 64, "use_cache": False}
OTHER_PATH = {
    "llama": ("LlamaForCausalLM", {**REPEATED, "hidden_size": 32, "num_key_value_heads": 2, "intermediate_size": 48}),
    "mixtral": (
        "MixtralForCausalLM",
        {**REPEATED, "hidden_size": 32, "num_key_value_heads": 2, "num_local_experts": 4},
    ),
    "gpt_bigcode": ("GPTBigCodeForCausalLM", {**REPEATED, "n_embd": 32}),
}


@pytest.mark.parametrize("name", OTHER_PATH)
def test_what_only_another_path_reads_fits_the_small_model_too(name: str) -> None:
    """Without a mask, attention repeats the keys itself; with one, the model does, as often as its attribute says."""
    kind, values = OTHER_PATH[name]
    model_class = getattr(transformers, kind)
    config = model_class.config_class(**values, num_attention_heads=8, num_hidden_layers=2)
    torch.manual_seed(0)
    model = model_class(config).eval()
    inputs = {"input_ids": torch.randint(0, 64, (2, 9))}
    padded = {**inputs, "attention_mask": torch.ones(2, 9, dtype=torch.long).index_fill_(1, torch.tensor([0, 1]), 0)}
    plan = prunus.plan(model, (), inputs, ratio=0.5, keep=["*.mlp.gate"] if name == "mixtral" else [])
    small = plan.apply(model)
    changed = {str(change).rpartition(".")[2] for change in plan.attributes}
    assert any(text.startswith("num_key_value_groups: ") for text in changed)
    assert prunus.prove(model, small, plan, (), padded).ok
    small.set_attn_implementation("eager")
    assert small(**inputs).logits.shape == (2, 9, 64)


def test_a_list_in_the_config_fits_layers_of_their_own(tmp_path: Path) -> None:
    values = {**BERT, "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": [48, 40], "altup_num_inputs": 2}
    values |= {"vocab_size_per_layer_input": 99, "hidden_size_per_layer_input": 8, "laurel_rank": 8}
    values |= {
        "num_kv_shared_layers": 0,
        "layer_types": ["full_attention"] * 2,
        "activation_sparsity_pattern": [0.0] * 2,
    }
    model: Any = made("Gemma3nForCausalLM", "Gemma3nTextConfig", **values, use_cache=False)
    plan = prunus.plan(model, (), {"input_ids": IDS}, ratio={"model.layers.0.mlp.gate_proj": 0.5})
    small: Any = plan.apply(model)
    assert "one config fits" in str(plan) and small.config.intermediate_size == [24, 40]
    small.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    torch.testing.assert_close(loaded(IDS).logits, small(IDS).logits, rtol=0, atol=0)


GEMMA4 = {**LLAMA, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 8}
GEMMA4 |= {"vocab_size_per_layer_input": 99, "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0}
GEMMA4 |= {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 4}
GEMMA4 |= {"per_layer_config": {i: {"head_dim": 16, "num_key_value_heads": 2} for i in (1, 3)}}


@pytest.mark.parametrize("uniform", [False, True])
def test_what_a_config_says_of_single_layers_follows_their_cut(uniform: bool, tmp_path: Path) -> None:
    pytest.importorskip("transformers.integrations.heterogeneity")
    model: Any = made("Gemma4ForCausalLM", "Gemma4TextConfig", **GEMMA4, use_cache=False)
    before = model.config.to_dict()
    ratio = {"*.self_attn.q_proj#2" if uniform else "*.self_attn.q_proj": 0.5}
    plan = prunus.plan(model, (), {"input_ids": IDS}, ratio=ratio, uniform=uniform)
    small: Any = prunus.Plan.from_json(plan.to_json()).apply(model)
    assert prunus.prove(model, small, plan, (), {"input_ids": IDS}).ok
    assert plan.how["config"].startswith("one config fits, with values for single layers: Gemma4ForCausalLM(config)")
    layers = small.config.per_layer_config
    heads = (
        [2, 2, 2, 2] if uniform else [2, 1, 2, 1]
    )  # uniform: the repeats are cut, of which the sliding layers have 2
    assert [layer.num_key_value_heads for layer in layers] == heads
    assert [layer.head_dim for layer in layers] == [8, 16, 8, 16]
    assert (small.config.num_attention_heads, model.config.to_dict()) == (4, before)
    small.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    torch.testing.assert_close(loaded(IDS).logits, small(IDS).logits, rtol=0, atol=0)


def test_one_layer_alone_where_the_class_reads_its_sizes_for_each_layer(tmp_path: Path) -> None:
    module = pytest.importorskip("transformers.models.step3p7.modeling_step3p7")
    values = {
        **LLAMA,
        "num_attention_heads": 4,
        "num_sliding_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 8,
    }
    values |= {"layer_types": ["full_attention", "sliding_attention"], "mlp_layer_types": ["dense", "dense"]}
    torch.manual_seed(0)
    model = module.Step3p7TextModel(module.Step3p7TextConfig(**values, sliding_window=4, use_cache=False)).eval()
    plan = prunus.plan(model, (), {"input_ids": IDS}, ratio={"layers.1.self_attn.q_proj": 0.5}, uniform=True)
    small: Any = plan.apply(model)
    assert prunus.prove(model, small, plan, (), {"input_ids": IDS}).ok
    assert "with values for single layers" in str(plan)
    assert [layer.num_attention_heads for layer in small.config.per_layer_config] == [4, 4]
    assert [layer.num_key_value_heads for layer in small.config.per_layer_config] == [4, 2]
    small.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    torch.testing.assert_close(loaded(IDS)[0], small(IDS)[0], rtol=0, atol=0)
