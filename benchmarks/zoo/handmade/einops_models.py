"""einops: patterns and layers."""

from __future__ import annotations

from collections.abc import Iterator

import einops
import torch
from einops import pack, rearrange, reduce, repeat, unpack
from einops.layers.torch import EinMix, Rearrange, Reduce
from torch import Tensor, einsum, nn

from benchmarks.zoo.case import Case
from benchmarks.zoo.handmade.entry import entry


class Attention(nn.Module):
    """The attention of many public vision transformers."""

    def __init__(self, width: int, heads: int = 4, depth: int = 6) -> None:
        super().__init__()
        self.heads, self.scale = heads, depth**-0.5
        self.norm, self.qkv = nn.LayerNorm(width), nn.Linear(width, heads * depth * 3, bias=False)
        self.out = nn.Sequential(nn.Linear(heads * depth, width), nn.Dropout(0.1))

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norm(x)).chunk(3, dim=-1)
        q, k, v = (rearrange(t, "b n (h d) -> b h n d", h=self.heads) for t in qkv)
        weights = (einsum("b h i d, b h j d -> b h i j", q, k) * self.scale).softmax(-1)
        return self.out(rearrange(einsum("b h i j, b h j d -> b h i d", weights, v), "b h n d -> b n (h d)"))


class Vision(nn.Module):
    def __init__(self, width: int = 20, patch: int = 4) -> None:
        super().__init__()
        self.patches = nn.Sequential(
            Rearrange("b c (h p1) (w p2) -> b (h w) (p1 p2 c)", p1=patch, p2=patch), nn.Linear(3 * patch**2, width)
        )
        self.token, self.position = nn.Parameter(torch.randn(1, 1, width)), nn.Parameter(torch.randn(1, 5, width))
        self.attention = Attention(width)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 40), nn.GELU(), nn.Linear(40, width))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.patches(x)
        b, n, _ = y.shape
        y = torch.cat((repeat(self.token, "1 1 d -> b 1 d", b=b), y), dim=1) + self.position[:, : n + 1]
        y = y + self.attention(y)
        return self.head((y + self.mlp(y))[:, 0])


class Convolved(nn.Module):
    """Channels regrouped, shuffled and reduced by patterns."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 24, 1), nn.Conv2d(24, 8 * 4, 1)
        self.up, self.out = Rearrange("b (c p q) h w -> b c (h p) (w q)", p=2, q=2), nn.Linear(8, 3)
        self.pool, self.groups = Reduce("b c h w -> b c", "mean"), 4

    def forward(self, x: Tensor) -> Tensor:
        y = rearrange(self.a(x), "b (g c) h w -> b (c g) h w", g=self.groups)
        y = self.b(y.relu()) + reduce(y, "b c h w -> b 1 1 1", "sum")
        return self.out(self.pool(self.up(self.c(y.relu()))))


class Mixer(nn.Module):
    """Tokens mixed over positions, then over channels; inverse patterns from parsed shapes."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 2, stride=2)
        self.tokens = nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16))
        self.channels = nn.Sequential(nn.Linear(width, 24), nn.GELU(), nn.Linear(24, width))
        self.out = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        h, w = y.shape[-2:]
        y = rearrange(y, "b c h w -> b c (h w)")
        y = rearrange(y + self.tokens(y), "b c n -> b n c")
        y = rearrange(y + self.channels(y), "b (h w) c -> b c h w", h=h, w=w)
        return self.out(reduce(y, "b c (h p) (w q) -> b c", "max", p=2, q=2))


class Grouped(nn.Module):
    """Grouped queries by a pattern with a repeat, causal over time."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.kv = 8, 4
        self.q, self.kvs, self.out = nn.Linear(10, 8 * 6), nn.Linear(10, 2 * 4 * 6), nn.Linear(8 * 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        q = rearrange(self.q(x), "b n (h d) -> b h n d", h=self.heads)
        k, v = rearrange(self.kvs(x), "b n (two h d) -> two b h n d", two=2, h=self.kv)
        k, v = (repeat(t, "b h n d -> b (h r) n d", r=self.heads // self.kv) for t in (k, v))
        weights = (q @ rearrange(k, "b h n d -> b h d n") * 0.4).softmax(-1)
        return self.out(rearrange(weights @ v, "b h n d -> b n (h d)"))


class Mixed(nn.Module):
    """Layers of weights with named dimensions, and a product by names."""

    def __init__(self) -> None:
        super().__init__()
        self.a = EinMix("b n c -> b n (h d)", weight_shape="c h d", bias_shape="h d", c=10, h=4, d=6)
        self.b = EinMix("b n (h d) -> b n o", weight_shape="h d o", bias_shape="o", h=4, d=6, o=8)
        self.w, self.out = nn.Parameter(torch.randn(8, 3, 4)), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(self.a(x).relu()).relu()
        return self.out(einops.einsum(y, self.w, "... c, c h d -> ... h d").sum(-2))


class Packed(nn.Module):
    """Tokens of several kinds in one sequence, and apart again."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out, self.token = (
            *(nn.Linear(i, 12) for i in (10, 12)),
            nn.Linear(12, 3),
            nn.Parameter(torch.randn(12)),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        token = repeat(self.token, "d -> b d", b=x.shape[0])
        y, shapes = pack([token, self.a(x)], "b * d")
        token, y = unpack(self.b(y).relu(), shapes, "b * d")
        return self.out(token), self.out(y)


def cases() -> Iterator[Case]:
    yield entry("einops_vision", lambda: (Vision(), torch.randn(2, 3, 8, 8)))
    yield entry(
        "einops_channels",
        lambda: (Convolved(), torch.randn(2, 3, 6, 6)),
        by_proof="a mean over the positions within a pixel, which go too",
    )
    yield entry("einops_mixer", lambda: (Mixer(), torch.randn(2, 3, 8, 8)))
    yield entry("einops_grouped_queries", lambda: (Grouped(), torch.randn(2, 6, 10)))
    yield entry("einops_mixed_by_names", lambda: (Mixed(), torch.randn(2, 6, 10)))
    yield entry("einops_packed", lambda: (Packed(), torch.randn(2, 6, 10)))
