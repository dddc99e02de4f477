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


def test_as_many_stay_as_are_chosen() -> None:
    model = mixture(experts.by_index)
    graph = prunus.trace(model, X)
    assert graph.state(graph.group("router")) == "can be cut; at least 2 stay, for so many are chosen of it"
    for plan in (
        prunus.plan(graph, ratio={"router": 0.99}),
        prunus.plan(graph, budget={"parameters": "8%"}, scope="global"),
    ):
        small = plan.apply(model)
        assert small.router.out_features >= 2 and prunus.prove(model, small, plan, X).ok


REASONS = {
    experts.numbers: "add() computes with positions along it",
    experts.in_groups: "topk() chooses of an axis of several parts",
}


@pytest.mark.parametrize("way", REASONS, ids=lambda way: way.__name__)
def test_what_is_not_understood_stays_and_says_why(way: Any) -> None:
    graph = prunus.trace(mixture(way), X)
    assert REASONS[way] in graph.explain("router.weight", 0)


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
CONFIG |= {"num_key_value_heads": 2, "intermediate_size": 48, "num_experts_per_tok": 2, "num_local_experts": 8}


@pytest.mark.parametrize("how", ["grouped_mm", "batched_mm"])
def test_a_mixtral_with_fewer_experts_is_saved_and_loaded_by_its_own_class(how: str, tmp_path: Any) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.MixtralConfig(**CONFIG, experts_implementation=how)
    model = transformers.MixtralForCausalLM(config).eval()
    inputs = {"input_ids": torch.randint(0, 64, (2, 9))}
    plan = prunus.plan(model, (), inputs, ratio={"*.mlp.gate": 0.5})
    small = plan.apply(model)
    assert prunus.prove(model, small, plan, (), inputs).ok
    assert small.config.num_local_experts == small.model.layers[0].mlp.gate.num_experts == 4
    assert small.model.layers[1].mlp.experts.down_proj.shape == (4, 32, 48)
    small.save_pretrained(tmp_path)
    loaded = transformers.MixtralForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(loaded(**inputs).logits, small(**inputs).logits, rtol=0, atol=1e-6)
