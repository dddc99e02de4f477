"""A sample of the model zoo: every free atom halved, proven in fp64, parameters at least halved. All: `make zoo`."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import nn

import prunus
from benchmarks.zoo.case import Case, randomize
from benchmarks.zoo.judge import check
from benchmarks.zoo.zoos import find

ALL = list(find())
TIMM = (
    "mobileone_s0 ghostnet_050 lcnet_050 efficientvit_m0 mobilevit_xxs poolformer_s12 levit_128s tinynet_e "
    "convnextv2_atto vit_tiny_patch16_224 gmlp_ti16_224 mixer_s32_224 crossvit_tiny_240 repvit_m0_9"
).split()


def judged(case: Case) -> None:
    outcome = check(case)
    assert outcome.ok, outcome


@pytest.mark.parametrize("case", [c for c in ALL if c.sample], ids=lambda c: f"{c.zoo}-{c.name}")
def test_sample(case: Case) -> None:
    judged(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", [c for c in ALL if not c.sample], ids=lambda c: f"{c.zoo}-{c.name}")
def test_all(case: Case) -> None:
    judged(case)


@pytest.mark.parametrize("name", TIMM)
def test_timm(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    randomize(model)
    x = torch.randn(2, *model.default_cfg["input_size"])
    small = prunus.prune(model, x, ratio=0.5, importance="random")
    before, after = (sum(p.numel() for p in m.parameters()) for m in (model, small))
    assert after <= 0.7 * before, (name, after / before)


def test_a_vision_transformer_loses_heads_and_width_together() -> None:
    model = torchvision.models.VisionTransformer(64, 16, 3, 4, 64, 128, num_classes=10).eval()
    randomize(model)
    small = prunus.prune(model, torch.randn(2, 3, 64, 64), ratio=0.5)
    for block in small.encoder.layers:
        attention = block.self_attention
        assert (attention.num_heads, attention.embed_dim, attention.head_dim) == (2, 32, 16)
    assert small.hidden_dim == 32
    graph = prunus.trace(model, torch.randn(2, 3, 64, 64))
    followers = [g.name for g in graph.free if g.atom in graph.sizes.followers]
    with pytest.raises(prunus.InputError, match="has no ratio of its own, its count follows .*self_attention"):
        prunus.plan(graph, ratio={followers[0]: 0.5})


def test_kept_values_are_found_in_the_small_model_where_the_plan_says() -> None:
    """Judged by value: every parameter entry of the small model is the original's at the kept indices."""
    model = torchvision.models.resnet18(weights=None).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.arange(p.numel()).view_as(p))  # distinct, and exact in fp32
    plan = prunus.plan(model, torch.randn(1, 3, 64, 64), ratio=0.5, importance="random")
    for (name, old), new in zip(model.named_parameters(), plan.apply(model).parameters(), strict=True):
        found = torch.isin(old, new)
        for dim, kept in plan.kept.get(name, {}).items():
            others = [d for d in range(old.dim()) if d != dim]
            rows = found.amax(others) if others else found
            assert rows.nonzero().flatten().tolist() == list(kept), name
        assert int(found.sum()) == new.numel()


def test_parameters_that_are_functional() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(10, 3, 3, 3))
            self.v = nn.Parameter(torch.randn(4, 10))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.nn.functional.conv2d(x, self.w).relu().mean((2, 3))
            return torch.einsum("oc,nc->no", self.v, y)

    small = prunus.prune(Functional(), torch.randn(2, 3, 8, 8), ratio=0.5)
    assert tuple(small.v.shape) == (4, 5)
