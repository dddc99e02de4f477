"""Random small networks from a grammar: traced, cut at a random ratio, proven. None may be wrong, none may crash.

``PRUNUS_FUZZ=5000 pytest tests/test_fuzz.py`` looks further; a seed that fails is a test case by itself.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prunus
from benchmarks.zoo.case import randomize

COUNT = int(os.environ.get("PRUNUS_FUZZ", "150"))
Step = Callable[[Tensor], Tensor]


class Attend(nn.Module):
    """Attention over positions, in one of the ways people write it."""

    def __init__(self, width: int, heads: int, way: str) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads, self.way, self.scale = heads, way, (width // heads) ** -0.5

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        y = x.flatten(2).transpose(1, 2)
        if self.way == "fused":
            q, k, v = self.qkv(y).reshape(n, h * w, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
            z = F.scaled_dot_product_attention(q, k, v)
        else:
            q, k, v = (t.reshape(n, h * w, self.heads, -1).transpose(1, 2) for t in self.qkv(y).chunk(3, -1))
            z = (q @ k.transpose(-2, -1) * self.scale).softmax(-1) @ v
        return x + self.proj(z.transpose(1, 2).reshape(n, h * w, -1)).transpose(1, 2).reshape(n, -1, h, w)


class Do(nn.Module):
    """A function of the input and of some modules. It holds no module itself: a copy would still use the original's."""

    def __init__(self, function: Callable[..., Tensor], *parts: nn.Module) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.parts)


class Random(nn.Module):
    """A network grown step by step; each step knows the number of channels it is given and returns the next."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.rng = rng = random.Random(seed)
        self.steps = nn.Sequential()
        channels = rng.choice([8, 12, 16])
        self.steps.append(nn.Conv2d(3, channels, 3, padding=1))
        for _ in range(rng.randint(2, 7)):
            grow = getattr(self, f"grow_{rng.choice(GROWTH)}")
            channels = grow(channels)
        self.head = nn.Linear(channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.steps(x).mean((2, 3)))

    def grow_conv(self, c: int) -> int:
        out, size = self.rng.choice([8, 12, 16, 24]), self.rng.choice([1, 3])
        self.steps.append(nn.Conv2d(c, out, size, padding=size // 2, bias=self.rng.random() < 0.5))
        return out

    def grow_grouped(self, c: int) -> int:
        groups = self.rng.choice([g for g in (2, 4, c) if c % g == 0])
        conv = nn.Conv2d(c, c * self.rng.choice([1, 2]), 3, padding=1, groups=groups)
        self.steps.append(conv)
        return conv.out_channels

    def grow_transposed(self, c: int) -> int:
        self.steps.append(nn.ConvTranspose2d(c, 8, 2, groups=self.rng.choice([1, 2])))
        return 8

    def grow_norm(self, c: int) -> int:
        kinds = [
            nn.BatchNorm2d(c),
            nn.GroupNorm(self.rng.choice([g for g in (1, 2, 4) if c % g == 0]), c),
            nn.InstanceNorm2d(c, affine=True),
        ]
        self.steps.append(self.rng.choice(kinds))
        return c

    def grow_layer_norm(self, c: int) -> int:
        self.steps.append(Do(lambda x, norm: norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), nn.LayerNorm(c)))
        return c

    def grow_pointwise(self, c: int) -> int:
        self.steps.append(
            Do(self.rng.choice([torch.relu, torch.sigmoid, F.gelu, torch.cos, F.hardswish, lambda x: x + 1]))
        )
        return c

    def grow_residual(self, c: int) -> int:
        parts = nn.Conv2d(c, 2 * c, 1), nn.Conv2d(2 * c, c, 1)
        self.steps.append(Do(lambda x, a, b: x + b(torch.relu(a(x))), *parts))
        return c

    def grow_dense(self, c: int) -> int:
        self.steps.append(Do(lambda x, conv: torch.cat([x, conv(x)], 1), nn.Conv2d(c, 6, 3, padding=1)))
        return c + 6

    def grow_gate(self, c: int) -> int:
        ways = [lambda a, b: a * torch.sigmoid(b), lambda a, b: torch.maximum(a, b), lambda a, b: torch.cat([b, a], 1)]
        way = self.rng.randrange(3)
        self.steps.append(Do(lambda x, conv: ways[way](*conv(x).chunk(2, 1)), nn.Conv2d(c, 2 * c, 1)))
        return 2 * c if way == 2 else c

    def grow_squeeze(self, c: int) -> int:
        parts = nn.Linear(c, 4), nn.Linear(4, c)
        gate = lambda x, a, b: x * torch.sigmoid(b(torch.relu(a(x.mean((2, 3))))))[:, :, None, None]  # noqa: E731
        self.steps.append(Do(gate, *parts))
        return c

    def grow_shuffle(self, c: int) -> int:
        groups = self.rng.choice([g for g in (2, 3, 4) if c % g == 0])

        def shuffle(x: Tensor) -> Tensor:
            n, k, h, w = x.shape
            return x.view(n, groups, k // groups, h, w).transpose(1, 2).reshape(n, k, h, w)

        self.steps.append(Do(shuffle))
        return c

    def grow_attention(self, c: int) -> int:
        heads = self.rng.choice([h for h in (2, 4) if c % h == 0])
        self.steps.append(Attend(c, heads, self.rng.choice(["fused", "plain"])))
        return c

    def grow_reuse(self, c: int) -> int:
        self.steps.append(Do(lambda x, conv: conv(torch.tanh(conv(x))), nn.Conv2d(c, c, 1)))
        return c

    def grow_move(self, c: int) -> int:
        moves: list[Step] = [
            lambda x: x.flip(1),
            lambda x: x.roll(1, 1),
            lambda x: F.pad(x[:, : x.shape[1] // 2], (0, 0, 0, 0, 0, x.shape[1] // 2)),
            lambda x: torch.cat([x[:, c // 2 :], x[:, : c // 2]], 1),
            lambda x: torch.stack([x, -x], 2).flatten(1, 2)[:, :c],
            lambda x: x.cumsum(1),
            lambda x: x - x.mean(1, keepdim=True),
            lambda x: x / (x.norm(dim=1, keepdim=True) + 1),
            lambda x: x.softmax(1),
        ]
        self.steps.append(Do(self.rng.choice(moves)))
        return c


GROWTH = [name.removeprefix("grow_") for name in vars(Random) if name.startswith("grow_")]


def fuzz_model(model: nn.Module, x: Tensor, seed: int) -> bool:
    """Whether anything was cut from the network; a wrong result raises."""
    model.eval()
    assert torch.isfinite(model(x)).all()
    randomize(model)
    ratio = random.Random(seed).choice([0.2, 0.5, 0.8])
    try:
        plan = prunus.plan(model, x, ratio=ratio, importance="random")
    except prunus.NothingToPrune:
        return False
    small = plan.apply(model)
    proof = prunus.prove(model, small, plan, x)
    assert proof.ok or proof.vacuous, (seed, str(proof), plan.explain())
    return True


def fuzz(seed: int) -> bool:
    torch.manual_seed(seed)
    return fuzz_model(Random(seed).eval(), torch.randn(2, 3, 6, 6), seed)


@pytest.mark.parametrize("start", range(0, COUNT, 10))
def test_random_networks(start: int) -> None:
    cut = [fuzz(seed) for seed in range(start, min(start + 10, COUNT))]
    assert any(cut), "nothing was cut from any of them"
