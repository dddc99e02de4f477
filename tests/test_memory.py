"""What a model leaves behind while it runs: hooks it installs, results its functions remember."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

import prunus


class Watched(nn.Module):
    """Installs a hook on its layer at the first call, and multiplies by what the hook saw."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.seen: list[Tensor] = []
        self.watches = False

    def forward(self, x: Tensor) -> Tensor:
        if not self.watches:
            self.layer.register_forward_hook(lambda module, args, output: self.seen.append(output))
            self.watches = True
        self.seen = []
        y = self.layer(x)
        return self.head(y * len(self.seen))


@functools.lru_cache
def positions(n: int) -> Tensor:
    return torch.arange(n)


def remembered(function: Any) -> Any:
    cached = functools.lru_cache(maxsize=4)(function)
    return functools.wraps(function)(lambda *args: cached(*args))


class Remembering(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 8)
        self.layer, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

    @staticmethod
    @remembered
    def scale(n: int) -> Tensor:
        return torch.ones(n) * 2

    def forward(self, x: Tensor) -> Tensor:
        at = positions(x.shape[0])
        return self.head((self.layer(x) + self.table(at)).relu()) * self.scale(3)


def test_hooks_that_a_model_installs_are_not_installed_twice() -> None:
    model, x = Watched(), torch.randn(4, 6)
    plan = prunus.plan(model, x)
    assert prunus.prove(model, plan.apply(model), plan, x).ok
    assert not model.watches
    assert not model.layer._forward_hooks


def test_what_functions_remember_is_neither_used_nor_left() -> None:
    model, x = Remembering(), torch.randn(4, 6)
    expected = model(x)  # both functions remember now
    plan = prunus.plan(model, x)
    assert prunus.prove(model, plan.apply(model), plan, x).ok
    assert not positions(4).is_meta
    torch.testing.assert_close(model(x), expected)


class Halves(nn.Module):
    """Asks for an infinitely low number of its weights' type in a tensor of the default type."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        mask = torch.full((x.shape[0], 1), torch.finfo(y.dtype).min)
        return self.head(torch.maximum(y, mask))


def test_a_proof_makes_tensors_in_fp64_and_leaves_the_default_type() -> None:
    model, x = Halves(), torch.randn(4, 6)
    plan = prunus.plan(model, x)
    assert prunus.prove(model, plan.apply(model), plan, x).ok
    assert torch.get_default_dtype() is torch.float32


class Experts(nn.Module):
    """Rows multiplied by one of three matrices each, in one grouped product."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(12, 16), nn.Linear(8, 3)
        self.experts = nn.Parameter(torch.randn(3, 16, 8))

    def forward(self, x: Tensor) -> Tensor:
        ends = torch.tensor([2, 2, 5], dtype=torch.int32)
        return self.last(torch.nn.functional.grouped_mm(self.first(x), self.experts, offs=ends))


def test_a_grouped_product_is_cut_inside_its_groups() -> None:
    model, x = Experts(), torch.randn(5, 12)
    plan = prunus.plan(model, x, ratio=0.5)
    small = plan.apply(model)
    assert tuple(small.experts.shape) == (3, 8, 4)
    assert prunus.prove(model, small, plan, x).ok
    kept = plan.kept["experts"]
    masked = [model.experts[0][:, kept[2]][kept[1], :], model.experts[2][:, kept[2]][kept[1], :]]
    rows = model.first(x)[:, kept[1]]
    by_hand = torch.cat([rows[:2] @ masked[0], rows[2:] @ masked[1]])
    expected = by_hand @ model.last.weight[:, kept[2]].T + model.last.bias
    torch.testing.assert_close(small(x), expected)


def test_a_cut_that_grouped_products_cannot_take_is_not_made() -> None:
    model, x = Experts(), torch.randn(5, 12)
    small = prunus.prune(model, x, ratio=0.3)  # 12 of 16 rows fit 16 bytes, 6 of 8 columns do not
    assert small(x).shape == (5, 3)
