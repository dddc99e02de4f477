"""A sample of the model zoo: every free atom halved, proven in fp64, parameters at least halved. All: `make zoo`."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import nn

import prunus
from benchmarks.zoo import Result, check, names, randomize, table

# With the part of the parameters that is left when every free atom is halved: more means that something is frozen.
SAMPLE = {
    "convnext_tiny": 0.27,
    "densenet121": 0.29,
    "efficientnet_b0": 0.33,
    "googlenet": 0.32,
    "mnasnet0_5": 0.41,
    "mobilenet_v2": 0.35,
    "mobilenet_v3_small": 0.36,
    "regnet_x_400mf": 0.17,
    "resnet18": 0.27,
    "resnext50_32x4d": 0.18,
    "shufflenet_v2_x0_5": 0.46,
    "squeezenet1_1": 0.36,
    "swin_t": 0.27,
}
TIMM = (
    "mobileone_s0 ghostnet_050 lcnet_050 efficientvit_m0 mobilevit_xxs poolformer_s12 levit_128s tinynet_e "
    "convnextv2_atto vit_tiny_patch16_224 gmlp_ti16_224 mixer_s32_224 crossvit_tiny_240 repvit_m0_9"
).split()


@pytest.mark.parametrize("name", SAMPLE)
def test_torchvision(name: str) -> None:
    result = check(name)
    assert result.ok, result
    assert result.left <= SAMPLE.get(name, 0.5), result


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(names()) - set(SAMPLE)))
def test_all_of_torchvision(name: str) -> None:
    test_torchvision(name)


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


def test_the_table_counts_what_failed() -> None:
    good = Result("a", 0.1, 0.3, 1e-15, 1, 2, "")
    bad = Result("b", 0.1, 0.3, 1e-3, 1, 2, "")
    assert "1 of 2 models proven" in table([good, bad])


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
