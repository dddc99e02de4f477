"""Which groups are compared with each other, and what bounds the counts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import nn

import prunus
from prunus.errors import InputError


class Residual(nn.Module):
    """Two blocks on one stream: their inner layers are alike, the stream is of another kind."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 12)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 12)) for _ in range(2))
        self.head = nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    model = Residual()
    with torch.no_grad():  # the first block's inner units are all weaker than the second's, the stream is weakest
        model.blocks[0][0].weight *= 0.1
        model.blocks[0][2].weight *= 0.1
        model.stem.weight *= 0.01
    return model


X = torch.randn(2, 4)


def widths(small: nn.Module) -> tuple[int, int, int]:
    return small.stem.out_features, small.blocks[0][0].out_features, small.blocks[1][0].out_features


def raw() -> prunus.Importance:
    return prunus.Importance("l1", normalize="none")


def test_local_takes_alike_and_isomorphic_compares_blocks_but_not_the_stream(model: nn.Module) -> None:
    assert widths(prunus.prune(model, X, importance=raw())) == (6, 4, 4)
    assert widths(prunus.prune(model, X, importance=raw(), scope="isomorphic")) == (6, 1, 8)


def test_global_compares_all_and_the_normalization_says_how(model: nn.Module) -> None:
    stream = widths(prunus.prune(model, X, ratio=0.3, importance=raw(), scope="global"))
    assert stream == (12, 1, 8), "8 of 28 would go; one index of a group always stays"
    even = widths(prunus.prune(model, X, ratio=0.3, importance="l1", scope="global"))
    assert even[1] > 1


def test_ratios_by_pattern(model: nn.Module) -> None:
    assert widths(prunus.prune(model, X, ratio={"blocks.*": 0.5})) == (12, 4, 4)
    small = prunus.prune(model, X, ratio={"blocks.0.0": 0.75, "blocks.?.0": 0.5})
    assert widths(small) == (12, 2, 4), "its own name counts before the pattern"
    with pytest.raises(InputError, match="there is no group 'block.0'. Did you mean 'blocks"):
        prunus.prune(model, X, ratio={"block.0": 0.5})
    with pytest.raises(InputError, match=r"ratio names 'bloc\?k\*', but no group"):
        prunus.prune(model, X, ratio={"bloc?k*": 0.5})
    with pytest.raises(InputError, match="'head.b\\*' matches can be cut: .*output"):
        prunus.prune(model, X, ratio={"head.b*": 0.5})


def test_bounds(model: nn.Module) -> None:
    assert widths(prunus.prune(model, X, min_keep={"stem": 10, "blocks.1.0.b*": 0.9}, ratio=0.5)) == (10, 4, 8)
    assert widths(prunus.prune(model, X, ratio=0.5, min_keep={"blocks.0.0": 0.7})) == (6, 6, 4)
    assert widths(prunus.prune(model, X, ratio=0.1, max_keep={"blocks.0.0": 3})) == (11, 3, 8)
    with pytest.raises(InputError, match="at least 6 and at most 3"):
        prunus.prune(model, X, min_keep=6, max_keep={"blocks.0.0": 3})
    with pytest.raises(InputError, match=r"min_keep must be a whole number from 1 or a part in \(0, 1\], not 0"):
        prunus.prune(model, X, min_keep=0)


def test_rounding_by_target_and_pattern(model: nn.Module) -> None:
    assert widths(prunus.prune(model, X, ratio=0.6, round_to="neon")) == (8, 4, 4)
    assert widths(prunus.prune(model, X, ratio=0.6, round_to={"stem": 4, "blocks.*.0": 3}))[0] == 8
    with pytest.raises(InputError, match=r"no target 'avx3'. Did you mean 'avx2'"):
        prunus.prune(model, X, round_to="avx3")
    with pytest.raises(InputError, match="no multiple of 4 lies between min_keep 5 and max_keep 7"):
        prunus.prune(model, X, ratio={"blocks.0.0": 0.5}, round_to=4, min_keep=5, max_keep={"blocks.0.0": 7})


def test_the_plan_says_how_it_was_limited(model: nn.Module) -> None:
    plan = prunus.plan(model, X, min_keep={"stem": 10}, round_to=2)
    assert prunus.Plan.from_json(plan.to_json()).how["min_keep"] == {"stem": 10}


def _lost(plan: prunus.Plan, loss: Mapping[str, float]) -> float:
    return sum((size - kept) * loss[name] for name, (size, kept, _) in plan.how["explained"]["groups"].items())


def test_shared_spends_the_macs_of_local_where_least_is_lost(model: nn.Module) -> None:
    graph = prunus.trace(model, X)
    loss = {g.name: 0.1 if "blocks.0" in g.name else 10.0 for g in graph.free}
    known = prunus.Importance(lambda context: {g: np.full(g.size, loss[g.name]) for g in graph.free}, additive=True)
    local = prunus.plan(graph, ratio=0.5, importance=known, scope="local")
    shared = prunus.plan(graph, ratio=0.5, importance=known)
    assert (local.how["scope"], shared.how["scope"]) == ("local", "shared")
    assert widths(local.apply(model)) == (6, 4, 4)
    assert widths(shared.apply(model))[1] < 4, "the block that loses little pays"
    assert _lost(shared, loss) < _lost(local, loss)
    macs = [prunus.profile(plan.apply(model), X, latency=False).macs for plan in (local, shared)]
    assert macs[1] <= macs[0]


class Threes(nn.Module):
    """Eight groups of three, of which a ratio of 0.3 takes nothing each."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 4)) for _ in range(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in self.parts:
            x = part(x)
        return x


@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.5])
def test_shared_counts_the_fractions_of_small_groups(ratio: float) -> None:
    graph = prunus.trace(Threes(), X)
    for group in graph.groups:
        if group.size == 4:
            graph.freeze([group.atom], "the stream stays")
    known = prunus.Importance(lambda context: {g: np.arange(3.0) + 1 for g in graph.free}, additive=True)
    before, after = prunus.plan(graph, ratio=ratio, importance=known).how["costs"]["macs"]
    assert 1 - ratio - 1 / 24 - 0.01 <= after / before <= 1 - ratio + 0.01, "one of 24 indices may be left over"


def test_shared_is_for_additive_scores_or_on_demand(model: nn.Module) -> None:
    data = [torch.randn(8, 4) for _ in range(2)]
    assert prunus.plan(model, X, data=data).how["scope"] == "shared"
    assert prunus.plan(model, X, data=data, ratio={"stem": 0.5}).how["scope"] == "local"
    assert prunus.plan(model, X).how["scope"] == "local"
    asked = prunus.plan(model, X, importance=raw(), scope="shared")
    assert widths(asked.apply(model)) != (6, 4, 4)
    with pytest.raises(InputError, match="a dict of ratios has chosen already"):
        prunus.plan(model, X, ratio={"stem": 0.5}, scope="shared")


class Summed(nn.Module):
    """No multiplication runs over what it can lose."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Embedding(50, 8), nn.Embedding(50, 8)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.first(tokens).sum(-1) + self.second(tokens).sum(-1)


def test_shared_counts_parameters_where_no_arithmetic_goes() -> None:
    graph = prunus.trace(Summed(), torch.arange(6))
    loss = {g.name: 0.1 if g.name == "first" else 10.0 for g in graph.free}
    known = prunus.Importance(lambda context: {g: np.full(g.size, loss[g.name]) for g in graph.free}, additive=True)
    small = prunus.plan(graph, ratio=0.25, importance=known).apply(graph.model)
    assert (small.first.weight.shape, small.second.weight.shape) == ((50, 4), (50, 8))
