"""Tensors that share memory without being one tensor: after the cut they still do, or are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.sharing import overlapping

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


class Shared(nn.Module):
    """The hidden layer's weight is also held as a buffer: whole, a part of it, or as a second Parameter."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.hidden, self.out = how, nn.Linear(6, 8), nn.Linear(8, 3)
        if how == "whole":
            self.register_buffer("view", self.hidden.weight.data)
        elif how == "part":
            self.register_buffer("view", self.hidden.weight.data[2:4])
        elif how == "turned":
            self.register_buffer("view", self.hidden.weight.data.t())
        elif how == "parameter":
            self.view = nn.Parameter(self.hidden.weight.data)

    def forward(self, x: Tensor) -> Tensor:
        y = self.out(self.hidden(x).relu())
        return y + self.view.square().sum() * 0.1


@pytest.mark.parametrize("how", ["whole", "parameter"])
def test_the_same_memory_stays_the_same(how: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Shared(how).eval()
    plan = prunus.plan(model, X, ratio=0.5)
    small = plan.apply(model)
    assert small.hidden.weight.shape == small.view.shape == (4, 6)
    assert small.view.data_ptr() == small.hidden.weight.data_ptr()
    assert prunus.prove(model, small, plan, X).ok
    with torch.no_grad():
        small.hidden.weight.zero_()
    assert not small.view.any() and model.view.any()


@pytest.mark.parametrize("how", ["part", "turned"])
def test_a_part_of_a_weight_keeps_it_whole_and_says_so(how: str) -> None:
    torch.manual_seed(0)
    model = Shared(how).eval()
    graph = prunus.trace(model, X)
    assert "view lies in the memory of hidden.weight" in graph.explain("hidden.weight", 0)
    with pytest.raises(prunus.NothingToPrune, match="lies in the memory"):
        prunus.plan(graph, ratio=0.5)
    copy = prunus.Plan(prunus_shapes(model), {}).apply(model)
    with torch.no_grad():
        copy.hidden.weight.fill_(2.0)
    assert copy.view.eq(2).all() and model.view.ne(2).all()


def prunus_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(t.shape) for name, t in (*model.named_parameters(), *model.named_buffers())}


def test_a_plan_that_cuts_them_apart_is_refused() -> None:
    model = Shared("whole").eval()
    apart = prunus.Plan(prunus_shapes(model), {"hidden.weight": {0: (0, 1)}, "view": {0: (2, 3)}})
    with pytest.raises(prunus.PrunusError, match="shares memory with"):
        apart.apply(model)


def test_neighbours_in_one_piece_of_memory_share_nothing() -> None:
    flat = torch.arange(12.0)
    assert overlapping({"a": flat[:4].view(2, 2), "b": flat[4:], "c": torch.ones(2)}) == {}
    assert overlapping({"a": flat[:5], "b": flat[4:]}) == {"a": "b"}
    assert overlapping({"a": flat, "b": flat}) == {}
