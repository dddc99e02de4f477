"""Attention written by hand: heads, kv-groups and layouts of the fused projection, positions, kernels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.zoo.case import Case
from benchmarks.zoo.handmade.entry import entry

HEADS, DEPTH = 4, 6
WIDTH = HEADS * DEPTH


class Around(nn.Module):
    """A projection in, one residual attention with layer norm, a projection out."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.inp, self.norm, self.attention = nn.Linear(5, WIDTH), nn.LayerNorm(WIDTH), attention
        self.up, self.down, self.out = nn.Linear(WIDTH, 40), nn.Linear(40, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inp(x)
        y = y + self.attention(self.norm(y))
        return self.out(y + self.down(F.gelu(self.up(y))))


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None = None) -> Tensor:
    """``[..., n, d]`` each."""
    scores = q @ k.transpose(-2, -1) * scale
    return (scores if bias is None else scores + bias).softmax(-1) @ v


# How a fused projection of 3 * heads * depth features is laid out.
LAYOUTS: dict[str, Callable[[Tensor, int, int], tuple[Tensor, ...]]] = {
    "three_heads_depth": lambda y, h, d: y.reshape(*y.shape[:2], 3, h, d).permute(2, 0, 3, 1, 4).unbind(0),
    "heads_three_depth": lambda y, h, d: y.view(*y.shape[:2], h, 3, d).permute(3, 0, 2, 1, 4).unbind(0),
    "heads_depth_three": lambda y, h, d: y.view(*y.shape[:2], h, d, 3).permute(4, 0, 2, 1, 3).unbind(0),
    "neox": lambda y, h, d: tuple(
        part.transpose(1, 2) for part in y.view(y.size(0), y.size(1), h, 3 * d).split(d, dim=-1)
    ),
    "chunk": lambda y, h, d: tuple(
        part.view(y.shape[0], y.shape[1], h, d).transpose(1, 2) for part in y.chunk(3, dim=-1)
    ),
    "split": lambda y, h, d: tuple(
        part.reshape(y.shape[0], y.shape[1], h, d).transpose(1, 2) for part in y.split(h * d, dim=2)
    ),
    "slices": lambda y, h, d: tuple(
        y[..., i * h * d : (i + 1) * h * d].unflatten(-1, (h, d)).transpose(1, 2) for i in range(3)
    ),
}


class Fused(nn.Module):
    """One projection for queries, keys and values."""

    def __init__(self, layout: str, fused: bool = False) -> None:
        super().__init__()
        self.heads, self.depth, self.scale = HEADS, DEPTH, DEPTH**-0.5
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.layout, self.fused = LAYOUTS[layout], fused

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.layout(self.qkv(x), self.heads, self.depth)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        else:
            y = softmax_attention(q, k, v, self.scale)
        return self.proj(y.transpose(1, 2).reshape(b, n, self.heads * self.depth))


class Grouped(nn.Module):
    """Fewer key and value heads than query heads; ``kv`` of one is multi-query attention."""

    def __init__(self, kv: int, how: str) -> None:
        super().__init__()
        self.heads, self.kv, self.depth, self.how, self.scale = HEADS, kv, DEPTH, how, DEPTH**-0.5
        self.q, self.proj = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.k, self.v = nn.Linear(WIDTH, kv * DEPTH), nn.Linear(WIDTH, kv * DEPTH)

    def _repeated(self, y: Tensor) -> Tensor:
        times = self.heads // self.kv
        if self.how == "interleave":
            return y.repeat_interleave(times, dim=1)
        b, kv, n, d = y.shape
        return y[:, :, None].expand(b, kv, times, n, d).reshape(b, kv * times, n, d)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = self.q(x).view(b, n, self.heads, self.depth).transpose(1, 2)
        k, v = (proj(x).view(b, n, self.kv, self.depth).transpose(1, 2) for proj in (self.k, self.v))
        if self.how == "enable_gqa":
            y = F.scaled_dot_product_attention(q, k, v, scale=self.scale, enable_gqa=True)
        elif self.how == "broadcast":
            q = q.view(b, self.kv, self.heads // self.kv, n, self.depth)
            y = softmax_attention(q, k[:, :, None], v[:, :, None], self.scale).flatten(1, 2)
        else:
            y = softmax_attention(q, self._repeated(k), self._repeated(v), self.scale)
        return self.proj(y.transpose(1, 2).flatten(2))


class Falcon(nn.Module):
    """For each kv-group its queries, then one key and one value, in one projection."""

    def __init__(self, groups: int = 2, queries: int = 2) -> None:
        super().__init__()
        self.groups, self.queries, self.depth, self.scale = groups, queries, DEPTH, DEPTH**-0.5
        self.qkv = nn.Linear(WIDTH, groups * (queries + 2) * DEPTH)
        self.proj = nn.Linear(groups * queries * DEPTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        y = self.qkv(x).view(b, n, self.groups, self.queries + 2, self.depth)
        q, k, v = y[:, :, :, :-2], y[:, :, :, [-2]], y[:, :, :, [-1]]
        k, v = torch.broadcast_to(k, q.shape), torch.broadcast_to(v, q.shape)
        q, k, v = (part.flatten(2, 3).transpose(1, 2) for part in (q, k, v))
        return self.proj(softmax_attention(q, k, v, self.scale).transpose(1, 2).flatten(2))


class Positioned(nn.Module):
    """Separate projections; what tells positions apart is a module given the queries, keys or scores."""

    def __init__(self, how: str, n: int = 6) -> None:
        super().__init__()
        self.heads, self.depth, self.how = HEADS, DEPTH, how
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))
        self.proj = nn.Linear(WIDTH, WIDTH)
        angles = torch.outer(torch.arange(n).float(), 10000 ** (-torch.arange(0, DEPTH, 2) / DEPTH))
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        self.register_buffer("turns", torch.polar(torch.ones_like(angles), angles), persistent=False)
        self.register_buffer("distance", torch.arange(n)[None] - torch.arange(n)[:, None] + n - 1, persistent=False)
        self.register_buffer("slopes", 2.0 ** -torch.arange(1, HEADS + 1).view(-1, 1, 1), persistent=False)
        if how == "table":
            self.table = nn.Parameter(torch.randn(2 * n - 1, HEADS))
        elif how == "embedding":
            self.table = nn.Embedding(2 * n - 1, HEADS)

    def _rotated(self, y: Tensor) -> Tensor:
        if self.how == "half":
            a, b = y.chunk(2, dim=-1)
            cos, sin = torch.cat([self.cos] * 2, -1), torch.cat([self.sin] * 2, -1)
            return y * cos + torch.cat([-b, a], -1) * sin
        if self.how == "interleaved":
            a, b = y[..., ::2], y[..., 1::2]
            return torch.stack([a * self.cos - b * self.sin, a * self.sin + b * self.cos], -1).flatten(-2)
        if self.how == "complex":
            turned = torch.view_as_complex(y.unflatten(-1, (-1, 2)).contiguous()) * self.turns.to(y.dtype.to_complex())
            return torch.view_as_real(turned).flatten(-2)
        return y

    def _bias(self) -> Tensor | float:
        if self.how == "table":
            n = self.distance.shape[0]
            return self.table[self.distance.view(-1)].view(n, n, -1).permute(2, 0, 1)
        if self.how == "embedding":
            return self.table(self.distance).permute(2, 0, 1)[None]
        return self.slopes * -self.distance.abs() if self.how == "alibi" else 0.0

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (proj(x).view(b, n, self.heads, -1).transpose(1, 2) for proj in (self.q, self.k, self.v))
        scores = self._rotated(q) @ self._rotated(k).transpose(-1, -2) / math.sqrt(DEPTH)
        y = (scores + self._bias()).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(b, n, -1))


class Window(nn.Module):
    """Attention within windows of a feature map, shifted by half, with a relative table, as in Swin."""

    def __init__(self, shift: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 2, stride=2)
        self.window, self.shift, self.heads, self.scale = 4, shift, HEADS, DEPTH**-0.5
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.table = nn.Parameter(torch.randn((2 * 4 - 1) ** 2, HEADS))
        at = torch.stack(torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")).flatten(1)
        relative = (at[:, :, None] - at[:, None]).permute(1, 2, 0) + 3
        self.register_buffer("index", relative[..., 0] * 7 + relative[..., 1])
        self.out = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x).permute(0, 2, 3, 1)
        b, h, w, c = y.shape
        m = self.window
        if self.shift:
            y = torch.roll(y, (-self.shift, -self.shift), (1, 2))
        y = y.view(b, h // m, m, w // m, m, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, m * m, c)
        q, k, v = self.qkv(y).reshape(y.shape[0], m * m, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        bias = self.table[self.index.view(-1)].view(m * m, m * m, -1).permute(2, 0, 1).contiguous()
        y = softmax_attention(q, k, v, self.scale, bias[None]).transpose(1, 2).reshape(-1, m * m, c)
        y = self.proj(y).view(b, h // m, w // m, m, m, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        if self.shift:
            y = torch.roll(y, (self.shift, self.shift), (1, 2))
        return self.out(y.mean((1, 2)))


class Linear(nn.Module):
    """Attention without softmax: positive features, keys and values summed up first."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = HEADS
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q, k = F.relu(q), F.relu(k)
        y = q @ (k.transpose(-2, -1) @ v) / (q @ k.sum(-2).unsqueeze(-1) + 1e-6)
        return self.proj(y.transpose(1, 2).reshape(b, n, c))


class Einsum(nn.Module):
    """Projections as Parameters of three dimensions, everything by einsum, grouped or not."""

    def __init__(self, kv: int) -> None:
        super().__init__()
        shape = (WIDTH, kv, HEADS // kv, DEPTH)
        self.q = nn.Parameter(torch.randn(shape) / 5)
        self.k, self.v = (nn.Parameter(torch.randn(WIDTH, kv, DEPTH) / 5) for _ in range(2))
        self.o = nn.Parameter(torch.randn(*shape[1:], WIDTH) / 5)

    def forward(self, x: Tensor) -> Tensor:
        q = torch.einsum("bnc,ckrd->bkrnd", x, self.q)
        k, v = (torch.einsum("bnc,ckd->bknd", x, w) for w in (self.k, self.v))
        weights = torch.einsum("bkrnd,bkmd->bkrnm", q, k).mul(0.4).softmax(-1)
        return torch.einsum("bkrnm,bkmd,krdc->bnc", weights, v, self.o)


class Cross(nn.Module):
    """Learned latents read a sequence, as in Perceiver; the keys and values come from one projection."""

    def __init__(self) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(4, WIDTH))
        self.heads = HEADS
        self.q, self.kv, self.proj = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        b = x.shape[0]
        q = self.q(self.latents).expand(b, -1, -1).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in self.kv(x).chunk(2, -1))
        return self.proj(F.scaled_dot_product_attention(q, k, v, scale=0.5).transpose(1, 2).flatten(2))


class Unscaled(nn.Module):
    """The default scale of scaled_dot_product_attention: the depth of a head stays, its values' need not."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = HEADS
        self.q, self.k, self.v, self.proj = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for proj in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(y.transpose(1, 2).flatten(2))


class SingleHead(nn.Module):
    """Non-local attention over the positions of a feature map, by 1x1 convolutions, with a learned gate."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.q, self.k, self.v = nn.Conv2d(16, 4, 1), nn.Conv2d(16, 4, 1), nn.Conv2d(16, 16, 1)
        self.gate, self.out = nn.Parameter(torch.zeros(1)), nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        b, c, h, w = y.shape
        q = self.q(y).view(b, -1, h * w).permute(0, 2, 1)
        weights = torch.bmm(q, self.k(y).view(b, -1, h * w)).softmax(-1)
        mixed = torch.bmm(self.v(y).view(b, -1, h * w), weights.permute(0, 2, 1)).view(b, c, h, w)
        return self.out(self.gate * mixed + y)


class Normed(nn.Module):
    """Queries and keys normalized per head (cosine attention) with a learned scale for each head."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.scale = HEADS, nn.Parameter(torch.ones(HEADS, 1, 1))
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        y = (scores * self.scale.clamp(max=math.log(100)).exp()).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).flatten(2))


def tokens() -> Tensor:
    return torch.randn(2, 6, 5)


def cases() -> Iterator[Case]:
    for layout in LAYOUTS:
        yield entry(f"qkv_{layout}", lambda layout=layout: (Around(Fused(layout)), tokens()))
    yield entry("qkv_fused_kernel", lambda: (Around(Fused("three_heads_depth", fused=True)), tokens()))
    for how in ("interleave", "expand", "enable_gqa", "broadcast"):
        yield entry(f"grouped_queries_{how}", lambda how=how: (Around(Grouped(2, how)), tokens()))
    yield entry("multi_query", lambda: (Around(Grouped(1, "expand")), tokens()))
    yield entry("multi_query_broadcast", lambda: (Around(Grouped(1, "broadcast")), tokens()))
    yield entry("multi_query_enable_gqa", lambda: (Around(Grouped(1, "enable_gqa")), tokens()))
    yield entry("falcon_groups", lambda: (Around(Falcon()), tokens()))
    for how in ("half", "interleaved", "complex", "table", "embedding", "alibi"):
        yield entry(f"positions_{how}", lambda how=how: (Around(Positioned(how)), tokens()))
    yield entry("window_attention", lambda: (Window(0), torch.randn(2, 3, 16, 16)))
    yield entry("shifted_window_attention", lambda: (Window(2), torch.randn(2, 3, 16, 16)))
    yield entry("linear_attention", lambda: (Around(Linear()), tokens()))
    yield entry("einsum_attention", lambda: (Around(Einsum(4)), tokens()))
    yield entry("einsum_grouped_queries", lambda: (Around(Einsum(2)), tokens()))
    yield entry("perceiver", lambda: (nn.Sequential(nn.Linear(5, WIDTH), Cross(), nn.Linear(WIDTH, 3)), tokens()))
    yield entry("default_scale", lambda: (Around(Unscaled()), tokens()))
    yield entry("non_local", lambda: (SingleHead(), torch.randn(2, 3, 6, 6)))
    yield entry("cosine_attention", lambda: (Around(Normed()), tokens()))
