"""Heads whose values are constant go from an attention that is written out, with a mask or a bias in its scores."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prunus
from benchmarks.zoo.case import randomize
from tests.test_extract import relative


class Block(nn.Module):
    """Four heads of four."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.bias, self.way = nn.Parameter(torch.randn(1, 9, 9)), way

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = (f(x).view(n, t, -1, 4).transpose(1, 2) for f in (self.q, self.k, self.v))
        causal = torch.ones(t, t).tril().bool()
        if self.way == "fused":
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.5)
            return x + self.out(y.transpose(1, 2).reshape(n, t, -1))
        scores = q @ k.transpose(-2, -1) * 0.5
        if self.way == "bias":
            scores = scores + self.bias[:, :t, :t]
        elif self.way == "mask":
            scores = scores.masked_fill(~causal, -math.inf)
        weights = scores.softmax(-1)
        if self.way == "doubled":
            weights = weights.mul_(2)
        elif self.way == "first":
            weights = scores.softmax(-2)
        return x + self.out((weights @ v).transpose(1, 2).reshape(n, t, -1))


def extracted(way: str) -> nn.Module:
    torch.manual_seed(0)
    model = Block(way).double().eval()
    randomize(model)
    with torch.no_grad():
        model.v.weight[4:12] = 0  # two heads give the bias of their values
    small = prunus.extract(model, torch.randn(2, 5, 16).double(), spread=False)
    for n, t in ((2, 5), (3, 9)):
        x = torch.randn(n, t, 16).double()
        assert relative(model(x), small(x)) <= 1e-12
    return small


@pytest.mark.parametrize("way", ["plain", "bias", "mask", "fused"])
def test_heads_go(way: str) -> None:
    small = extracted(way)
    assert small.v.out_features == small.q.out_features == small.out.in_features == 8


@pytest.mark.parametrize("way", ["doubled", "first"])
def test_what_adds_up_to_something_else_stays(way: str) -> None:
    with pytest.raises(prunus.NothingToPrune):
        extracted(way)
