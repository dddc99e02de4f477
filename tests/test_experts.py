"""Whole experts go, and the router's rows with them; their values are judged in benchmarks/zoo/handmade/experts.py."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import nn

import prunus
from benchmarks.zoo.case import Case
from benchmarks.zoo.handmade import experts
from benchmarks.zoo.judge import check

os.environ["HF_HUB_OFFLINE"] = "1"
X = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))


def mixture(way: Any) -> experts.Mixture:
    torch.manual_seed(0)
    return experts.Mixture(way).eval()


@pytest.mark.parametrize("way", experts.WAYS, ids=lambda way: way.__name__)
def test_slabs_and_rows_of_the_router_are_one_group(way: Any) -> None:
    graph = prunus.trace(mixture(way), X)
    members = {str(member) for member in graph.group("router").members}
    wanted = {"router.weight[0]", "router.bias[0]", "up[0]", "down[0]"}
    assert members >= wanted - ({"up[0]"} if way is experts.by_embedding else set())


@pytest.mark.parametrize("way", [experts.by_index, experts.one_after_another], ids=lambda way: way.__name__)
def test_as_many_stay_as_are_chosen(way: Any) -> None:
    model = mixture(way)
    graph = prunus.trace(model, X)
    assert graph.state(graph.group("router")) == "can be cut; at least 2 stay, for so many are chosen of it"
    for plan in (
        prunus.plan(graph, ratio={"router": 0.99}),
        prunus.plan(graph, budget={"parameters": "8%"}, scope="global"),
    ):
        small = plan.apply(model)
        assert small.router.out_features >= 2 and prunus.prove(model, small, plan, X).ok


GROUPS = (experts.in_groups, experts.in_best_groups)


@pytest.mark.parametrize("way", GROUPS, ids=lambda way: way.__name__)
def test_groups_of_experts_go_and_experts_of_every_group(way: Any) -> None:
    model = mixture(way)
    graph = prunus.trace(model, X)
    of_groups, in_groups = graph.group("router"), graph.group("router#2")
    assert (of_groups.size, in_groups.size) == (2, 4)
    for group, groups in ((of_groups, 1), (in_groups, 2)):
        plan = prunus.plan(graph, ratio={group.name: 0.5})
        small: Any = plan.apply(model)
        assert (small.groups, small.up.shape[0], small.router.out_features) == (groups, 4, 4)
        assert prunus.prove(model, small, plan, X).ok


@pytest.mark.parametrize("way", GROUPS, ids=lambda way: way.__name__)
def test_the_groups_that_are_chosen_keep_as_many_experts_as_are_chosen_of_them(way: Any) -> None:
    """Else an expert of a group that isn't chosen would be taken, by the order of what is equally bad."""
    model: Any = mixture(way)
    model.top_k = 3
    graph = prunus.trace(model, X)
    plan = prunus.plan(graph, ratio={"router#2": 0.99})
    small: Any = plan.apply(model)
    assert graph.at_least(graph.group("router#2").atom) == 3 and small.up.shape[0] == 2 * 3
    assert prunus.prove(model, small, plan, X).ok


REASONS = {
    experts.numbers: "add() computes with positions along it",
    experts.of_two_parts: "topk() chooses of an axis of several parts",
}


@pytest.mark.parametrize("way", REASONS, ids=lambda way: way.__name__)
def test_what_is_not_understood_stays_and_says_why(way: Any) -> None:
    graph = prunus.trace(mixture(way), X)
    assert REASONS[way] in graph.explain("router.weight", 0)


class Listed(nn.Module):
    """Experts as a list of modules, of which each takes its tokens: ``find(chosen, i)`` says which."""

    def __init__(self, find: Any, hit: bool) -> None:
        super().__init__()
        self.find, self.hit = find, hit
        self.router = nn.Linear(5, 4)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 5)) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(0, 1)
        weights, chosen = self.router(x).softmax(-1).topk(2)
        mask, y = nn.functional.one_hot(chosen, 4).permute(2, 0, 1), torch.zeros_like(x)
        for i in mask.flatten(1).sum(-1).nonzero() if self.hit else range(4):
            tokens, place = torch.where(self.find(chosen, mask, i))
            y.index_add_(0, tokens, self.experts[i](x[tokens]) * weights[tokens, place, None])
        return y


LOOPS = {
    "frozen: eq() computes with positions along it": (lambda chosen, mask, i: chosen == i, False),
    "every position of it is taken by itself: nothing to cut": (lambda chosen, mask, i: mask[i], False),
    "frozen: nonzero() looks at its values": (lambda chosen, mask, i: mask[i].squeeze(0), True),
}


@pytest.mark.parametrize("reason", LOOPS)
def test_experts_in_a_list_stay_but_their_widths_are_cut(reason: str) -> None:
    """As docs/guides/llm.md says."""
    torch.manual_seed(0)
    model = Listed(*LOOPS[reason]).eval()
    graph = prunus.trace(model, X)
    assert reason in graph.explain("router.weight", 0)
    plan = prunus.plan(graph, ratio=0.5)
    small: Any = plan.apply(model)
    assert [expert[0].out_features for expert in small.experts] == [4] * 4
    assert prunus.prove(model, small, plan, X).ok


class Told(experts.Mixture):
    def forward(self, x: torch.Tensor) -> Any:
        logits = self.router(self.inp(x))
        return super().forward(x), self.chosen(logits)[1]


def test_experts_that_the_model_names_stay() -> None:
    graph = prunus.trace(Told(experts.by_index).eval(), X)
    assert graph.group("router").frozen == "positions along it are a model output"


class Read(experts.Mixture):
    def forward(self, x: torch.Tensor) -> Any:
        first = int(self.chosen(self.router(self.inp(x)))[1][0, 0, 0])
        return super().forward(x) * (1.0 + 0.0 * first)


def test_experts_whose_number_is_read_stay() -> None:
    graph = prunus.trace(Read(experts.by_index).eval(), X)
    assert "computes with positions along it" in str(graph.group("router").frozen)


def test_the_judge_needs_to_know_the_router() -> None:
    case = next(c for c in experts.cases() if c.name == "experts_dense")
    assert check(case).right
    assert not check(Case(case.zoo, case.name, case.build)).right


def test_the_proof_sees_experts_that_changed_places() -> None:
    model = mixture(experts.by_index)
    plan = prunus.plan(model, X, ratio={"router": 0.5})
    small: nn.Module = plan.apply(model)
    assert prunus.prove(model, small, plan, X).ok
    small.up.data = small.up.data.flip(0)
    assert not prunus.prove(model, small, plan, X).ok


CONFIG = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "use_cache": False}
CONFIG |= {"intermediate_size": 48, "num_experts_per_tok": 2}
TWO_IMPLEMENTATIONS = pytest.mark.parametrize("how", ["grouped_mm", "batched_mm"])


def saved_and_loaded(kind: str, ratio: dict[str, float], folder: Any, **values: Any) -> Any:
    """The small model, after it is proven and comes back the same by its own class."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model_class = getattr(transformers, kind)
    model = model_class(model_class.config_class(**CONFIG, **values)).eval()
    inputs = {"input_ids": torch.randint(0, 64, (2, 9))}
    plan = prunus.plan(model, (), inputs, ratio=ratio)
    small = plan.apply(model)
    assert prunus.prove(model, small, plan, (), inputs).ok
    small.save_pretrained(folder)
    loaded = model_class.from_pretrained(folder).eval()
    torch.testing.assert_close(loaded(**inputs).logits, small(**inputs).logits, rtol=0, atol=1e-6)
    return small


@TWO_IMPLEMENTATIONS
def test_a_mixtral_with_fewer_experts_is_saved_and_loaded_by_its_own_class(how: str, tmp_path: Any) -> None:
    values = {"num_key_value_heads": 2, "num_local_experts": 8, "experts_implementation": how}
    small = saved_and_loaded("MixtralForCausalLM", {"*.mlp.gate": 0.5}, tmp_path, **values)
    assert small.config.num_local_experts == small.model.layers[0].mlp.gate.num_experts == 4
    assert small.model.layers[1].mlp.experts.down_proj.shape == (4, 32, 48)


LATENT = {"q_lora_rank": 20, "kv_lora_rank": 24, "qk_nope_head_dim": 8, "qk_rope_head_dim": 6, "v_head_dim": 10}
LATENT |= {"num_key_value_heads": 4, "moe_intermediate_size": 24, "first_k_dense_replace": 1, "n_shared_experts": 1}


@TWO_IMPLEMENTATIONS
@pytest.mark.parametrize("kind", ["DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM"])
@pytest.mark.parametrize(("group", "groups", "left"), [("*.mlp.gate", 2, 8), ("*.mlp.gate#2", 4, 8)])
def test_groups_of_experts_of_a_deepseek(
    kind: str, how: str, group: str, groups: int, left: int, tmp_path: Any
) -> None:
    values = {**LATENT, "n_routed_experts": 16, "n_group": 4, "topk_group": 2, "experts_implementation": how}
    limited = {"topk_method": "group_limited_greedy"} if kind.startswith("DeepseekV2") else {}
    small = saved_and_loaded(kind, {group: 0.5}, tmp_path, **values, **limited)
    assert (small.config.n_group, small.config.n_routed_experts) == (groups, left)
    assert small.model.layers[1].mlp.experts.down_proj.shape == (left, 32, 24)
