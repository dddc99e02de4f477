"""A model cut to half of its multiply-accumulates: what several benchmarks begin with."""

from __future__ import annotations

import torch
from torch import nn

import prunus

X = torch.zeros(1, 3, 224, 224)


def half_of(model: nn.Module, x: torch.Tensor = X, *, target: float = 0.5, round_to: int = 16) -> nn.Module:
    """``model`` with one ratio for every group, in steps of 1 %, that leaves ``target`` of the MACs or less."""
    graph, dense = prunus.trace(model, x), macs(model, x)
    low, high = 0, 99
    while high - low > 1:
        middle = (low + high) // 2
        small = prunus.plan(graph, ratio=middle / 100, round_to=round_to).apply(model)
        low, high = (low, middle) if macs(small, x) <= target * dense else (middle, high)
    plan = prunus.plan(graph, ratio=high / 100, round_to=round_to)
    small = plan.apply(model)
    print(f"ratio {high} % in multiples of {round_to}: {macs(small, x) / dense:.1%} of the MACs", flush=True)
    return small


def macs(model: nn.Module, x: torch.Tensor) -> int:
    return prunus.profile(model, x, latency=False).macs
